"""Files that promise more than they hold, or hold more than a reader should take: refused soon, and before memory is taken.

The bounds are wide: machines under load are slow, and what these files would cost unrefused is minutes and gigabytes.
"""

import json
import os
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import limited
from specimens import edit, model, save
from transformers import ViTConfig, ViTForImageClassification

from sparsam import artifact, plugin
from sparsam.artifact.manifest import read_json
from sparsam.errors import SparsamError
from sparsam.models import unlift
from sparsam.plan import Plan

MEGABYTES, SECONDS = 500, 20.0


@pytest.fixture(scope="module")
def dense(tmp_path_factory: Any) -> Path:
    """An ordinary checkpoint."""
    folder = tmp_path_factory.mktemp("dense") / "a"
    unlift(model(0)).save_pretrained(folder)
    return folder


def refused(work: Callable[[], Any]) -> tuple[str, float]:
    """The code of the error that ends ``work`` within its bounds, and how long that took."""

    def steps() -> list[Any]:
        started = time.process_time()
        try:
            work()
        except SparsamError as error:
            return [error.code, time.process_time() - started]
        raise AssertionError("it was not refused")

    code, seconds = limited(steps, megabytes=MEGABYTES, seconds=SECONDS)
    return code, seconds


def header(tensors: dict[str, Any], data: int = 4, **more: Any) -> bytes:
    """A safetensors file of this header and so many bytes."""
    text = json.dumps(tensors | more).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def one(shape: list[Any], dtype: str = "F32", end: Any = 4) -> dict[str, Any]:
    """A header of one tensor."""
    return {"x": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}


def many(count: int) -> bytes:
    """A header of so many tensors, each empty."""
    text = ",".join(f'"t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(count))
    return struct.pack("<Q", len(text) + 2) + b"{" + text.encode() + b"}"


HEADERS: dict[str, Callable[[], bytes]] = {
    "dims of 2^31": lambda: header(one([2**31, 2**31])),
    "dims of 2^62": lambda: header(one([2**62, 4])),
    "product wraps to 4": lambda: header(one([2**32, 2**32, 1])),
    "negative dims": lambda: header(one([-1, -1])),
    "a dim of 4000 digits": lambda: header(one([10**4000])),
    "100,000 dims of 2^62": lambda: header(one([2**62] * 100_000)),
    "100,000 dims of 1": lambda: header(one([1] * 100_000)),
    "offsets beyond the end": lambda: header(one([2**40], end=2**42)),
    "offsets of 4000 digits": lambda: header(one([1], end=10**4000)),
    "unknown dtype of 2^62": lambda: header(one([2**62], dtype="F9")) + b"1",
    "10^6 tensors": lambda: many(10**6),
    "150,000 tensors": lambda: many(150_000),
    "depth 10^4": lambda: struct.pack("<Q", 20_000) + b"[" * 10_000 + b"]" * 10_000,
    "depth 10^6": lambda: struct.pack("<Q", 2 * 10**6) + b'{"a":' * 400_000,
    "10^6 spaces": lambda: struct.pack("<Q", 10**6) + b" " * 10**6,
    "a length of 2^63": lambda: struct.pack("<Q", 2**63) + b"{}",
    "a length of 2^64 - 1": lambda: b"\xff" * 8 + b"{}",
    "a name of 5 MB": lambda: header({"x" * 5_000_000: one([1])["x"]}, data=5),
    "600,000 empty lists": lambda: struct.pack("<Q", 1_800_003) + b"[" + b"[]," * 600_000 + b"1]",
    "25,000 tensors, and a byte": lambda: many(25_000) + b"1",
    "metadata of 2 MB": lambda: header(one([1]), data=5, __metadata__={"sparsam": "[" * 2_000_000}),
}


HEAVY = {
    "10^6 tensors", "150,000 tensors", "25,000 tensors, and a byte", "600,000 empty lists", "9 MB of brackets",
    "2 MB of brackets", "100 MB on one line", "depth 10^6", "a name of 5 MB",
}  # fmt: skip


def each(names: Any) -> Any:
    """A parametrization in which what is heavy belongs to the long form."""
    marked = [pytest.param(name, marks=pytest.mark.faults if name in HEAVY else ()) for name in names]
    return pytest.mark.parametrize("name", marked)


@each(HEADERS)
def test_weights(name: str, dense: Path, tmp_path: Path) -> None:
    """Headers of safetensors files."""
    folder = Path(shutil.copytree(dense, tmp_path / "a"))
    (folder / "model.safetensors").write_bytes(HEADERS[name]())
    code, _ = refused(lambda: artifact.load_dense(folder))
    assert code in ("safetensors-corrupt", "digest", "weights-missing", "weights-mismatch")


TEXTS: dict[str, Callable[[], bytes]] = {
    "depth 10^4": lambda: b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "depth 10^5": lambda: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "100 MB on one line": lambda: b'{"a": "' + b"x" * 100_000_000 + b'"}',
    "9 MB of brackets": lambda: b'{"a": [' + b"[]," * 3_000_000 + b"1]",
    "2 MB of brackets": lambda: b'{"a": [' + b"[]," * 600_000 + b"1]",
    "an integer of 10^6 digits": lambda: b'{"a": ' + b"9" * 10**6 + b"}",
    "NUL bytes": lambda: b"\0" * 1_000_000,
}


@each(TEXTS)
def test_json(name: str, tmp_path: Path) -> None:
    """Manifest, facts, configuration and record are read by one function."""
    (tmp_path / "a.json").write_bytes(TEXTS[name]())
    code, _ = refused(lambda: read_json(tmp_path / "a.json"))
    assert code == "json-invalid"


@each(TEXTS)
def test_plans(name: str) -> None:
    """A plan's text is refused as no plan at all."""
    text = TEXTS[name]().decode()
    code, _ = refused(lambda: Plan.from_json(text))
    assert code == "plan-invalid"


def _set(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda config: config.update(values)


CONFIGS = {
    "10^9 layers": _set(num_hidden_layers=10**9),
    "9999 layers": _set(num_hidden_layers=9_999),
    "10^9 labels": _set(num_labels=10**9, id2label=None, label2id=None),
    "10^400 layers": _set(num_hidden_layers=10**400),
    "width 2^31": _set(hidden_size=2**31),
    "width 2^62": _set(hidden_size=2**62),
    "10^9 words": _set(vocab_size=10**9),
    "2^62 words": _set(vocab_size=2**62),
    "10^9 positions": _set(max_position_embeddings=10**9),
    "10^9 types": _set(type_vocab_size=10**9),
    "10^9 filters": _set(intermediate_size=10**9),
    "2^62 heads": _set(num_attention_heads=2**62),
    "no layers": _set(num_hidden_layers=0),
    "-1 layers": _set(num_hidden_layers=-1),
    "no heads": _set(num_attention_heads=0),
    "width 0": _set(hidden_size=0),
}


@pytest.mark.parametrize("labels", [None, ("a", "b")], ids=["own-head", "fresh-head"])
@pytest.mark.parametrize("name", CONFIGS)
def test_configurations(name: str, labels: Any, dense: Path, tmp_path: Path) -> None:
    """Sizes in config.json beyond those of the weights beside it; a fresh head lets transformers pass over mismatches."""
    folder = Path(shutil.copytree(dense, tmp_path / "a"))
    edit(folder / "config.json", CONFIGS[name])
    code, _ = refused(lambda: artifact.load_dense(folder, labels=labels))
    assert code in (
        "config-size",
        "weights-mismatch",
        "weights-missing",
        "model-unreadable",
        "safetensors-corrupt",
    )


@pytest.mark.parametrize(
    "change", [{"image_size": 10**6, "patch_size": 1}, {"image_size": 10**9}, {"num_channels": 10**9}]
)
def test_pictures_of_10_000_million_patches(change: dict[str, int], tmp_path: Path) -> None:
    """The table of positions has a row for each patch."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
    ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, **sizes)).save_pretrained(tmp_path)
    edit(tmp_path / "config.json", _set(**change))
    code, _ = refused(lambda: artifact.load_dense(tmp_path, labels=("a", "b")))
    assert code == "weights-mismatch"


@pytest.mark.parametrize("name", ["10^9 layers", "10^9 labels", "10^400 layers"])
def test_inspect_believes_no_such_sizes(name: str, dense: Path, tmp_path: Path, capsys: Any) -> None:
    """The command makes a line for each layer: not for these."""
    from sparsam.cli import main

    folder = Path(shutil.copytree(dense, tmp_path / "a"))
    edit(folder / "config.json", CONFIGS[name])
    assert (
        limited(lambda: main(["inspect", str(folder), "--json"]), megabytes=MEGABYTES, seconds=SECONDS) == 5
    )


@pytest.mark.faults
def test_a_plan_of_too_many_layers(tmp_path: Path) -> None:
    """10,000 layers in the plan, two in the model."""
    folder = save(0, tmp_path / "a")
    (folder / artifact.MANIFEST).unlink()

    def grow(config: dict[str, Any]) -> None:
        plan = config["quantization_config"]["plan"]
        plan["layers"] *= 5_000
        plan["tokens"]["values"] *= 5_000

    edit(folder / "config.json", grow)
    code, _ = refused(lambda: artifact.load(folder))
    assert code in ("plan-mismatch", "digest")


@pytest.mark.parametrize("name", ["config.json", "MANIFEST.json", "model.safetensors", "sparsam.json"])
@pytest.mark.parametrize("kind", ["pipe", "zero", "folder", "loop"])
def test_files_that_are_none(name: str, kind: str, tmp_path: Path) -> None:
    """A pipe nobody writes to, a device without end, a folder, a link to itself."""
    folder = save(0, tmp_path / "a")
    file = folder / name
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "zero":
        file.symlink_to("/dev/zero")
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to(file.name)
    refused(lambda: artifact.load(folder))
    if name.startswith("model"):
        refused(lambda: artifact.load_dense(folder))
    if name == "sparsam.json":  # as if there were none
        (folder / artifact.MANIFEST).unlink()
        assert artifact.load(folder).facts == {}


def test_facts_that_could_not_be_read_again_are_not_saved(tmp_path: Path) -> None:
    """What a save writes, a load reads."""
    with pytest.raises(SparsamError, match="file of their own") as caught:
        artifact.save(model(0), tmp_path / "a", facts={"log": "x" * 11_000_000})
    assert caught.value.code == "facts"
    assert not list(tmp_path.iterdir())


@pytest.mark.faults
def test_all_bombs_are_refused_within_a_second(dense: Path, tmp_path: Path) -> None:
    """A second of a free core; twice that is allowed, for a core that is shared. The slow ones are named."""
    folder = Path(shutil.copytree(dense, tmp_path / "a"))
    file, config = folder / "model.safetensors", (folder / "config.json").read_bytes()
    whole, times = file.read_bytes(), {}
    for name, made in HEADERS.items():
        file.write_bytes(made())
        times[name] = min(
            refused(lambda: plugin.read_header(file) and artifact.load_dense(folder))[1] for _ in range(3)
        )
    file.write_bytes(whole)
    for name, change in CONFIGS.items():
        (folder / "config.json").write_bytes(config)
        edit(folder / "config.json", change)
        times[name] = min(refused(lambda: artifact.load_dense(folder))[1] for _ in range(3))
    for name, text in TEXTS.items():
        (folder / "config.json").write_bytes(text())
        times[f"{name} in config"] = min(refused(lambda: artifact.load_dense(folder))[1] for _ in range(3))
    slow = {name: round(seconds, 2) for name, seconds in times.items() if seconds > 2}
    assert not slow, slow
