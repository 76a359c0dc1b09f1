"""A small artefact with any byte flipped, or cut short anywhere, is refused by name; none loads in silence."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from specimens import Processor, bytes_of, names_in, put, smallest

from sparsam import artifact, plugin
from sparsam.errors import SparsamError

BITS = (0x01, 0x20, 0x80)


@pytest.fixture(scope="module")
def small(tmp_path_factory: Any) -> Path:
    """The smallest artefact: every file a few hundred bytes, or a few thousand."""
    return artifact.save(
        smallest(), tmp_path_factory.mktemp("small") / "a", processor=Processor("notes"), facts={"seed": 1}
    )


def places(data: bytes, count: int | None, drawn: random.Random) -> list[int]:
    """All bytes, or a sample with the first and the last ones."""
    if count is None or len(data) <= count:
        return list(range(len(data)))
    edges = {*range(16), *range(len(data) - 8, len(data))}
    return sorted(edges | set(drawn.sample(range(len(data)), count)))


def damaged(folder: Path, count: int | None, bits: tuple[int, ...]) -> Iterator[str]:
    """The folder with one file cut at, or flipped at, one byte; in turn. Its name, the damage and the place."""
    drawn = random.Random(20261121)
    for name in names_in(folder):
        file, whole = folder / name, (folder / name).read_bytes()
        for at in places(whole, count, drawn):
            put(file, whole[:at])
            yield f"{name} cut at {at}"
            for bit in bits:
                put(file, whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
                yield f"{name} ^ {bit:#x} at {at}"
        put(file, whole)


COUNTS = pytest.mark.parametrize(
    ("count", "bits"),
    [(60, (0x01,)), pytest.param(None, BITS, marks=pytest.mark.faults)],
    ids=["sample", "each"],
)


@COUNTS
def test_no_damage_passes_the_manifest(
    count: int | None, bits: tuple[int, ...], small: Path, tmp_path: Path
) -> None:
    """Every file that the manifest names, and the manifest."""
    folder = Path(shutil.copytree(small, tmp_path / "a"))
    silent, tried = [], 0
    for what in damaged(folder, count, bits):
        tried += 1
        try:
            artifact.verify(folder)
            silent.append(what)
        except SparsamError:
            pass
    assert not silent, silent[:20]
    assert tried > (500 if count else 20_000), tried
    artifact.verify(folder)
    assert bytes_of(folder) == bytes_of(small)


@COUNTS
def test_no_damage_changes_a_model_without_manifest(
    count: int | None, bits: tuple[int, ...], small: Path, tmp_path: Path
) -> None:
    """As it comes from the hub: damaged weights are refused by the digests in their header.

    A flip in spaces that nothing reads, or of the key under which our record stands, may pass the plug-in: the tensors are
    those that were saved, then, and :func:`sparsam.load` refuses a plan without its record.
    """
    file = Path(shutil.copytree(small, tmp_path / "a")) / "model.safetensors"
    made = smallest()
    wanted = plugin.file_digests(file, plugin.read_header(file))
    for name in names_in(file.parent):
        if name != file.name:
            (file.parent / name).unlink()
    passed = 0
    for what in damaged(file.parent, None if count is None else 3 * count, bits):
        try:
            plugin.check_files([file], made.sparsam_plan, made.config)
        except SparsamError:
            continue
        passed += 1
        header = plugin.read_header(file)
        if plugin.KEY in header.metadata:
            assert plugin.file_digests(file, header) == wanted, what
    assert passed <= 200


@COUNTS
def test_no_damaged_config_loads_as_another_model(
    count: int | None, bits: tuple[int, ...], small: Path, tmp_path: Path
) -> None:
    """Through the whole of ``sparsam.load``, a sample in either form: an error of ours, never another exception."""
    folder = Path(shutil.copytree(small, tmp_path / "a"))
    for what in damaged(folder, 12 if count else 100, bits[:1]):
        try:
            artifact.load(folder)
        except SparsamError:
            continue
        pytest.fail(what)
