"""Names of files inside a checkpoint that point elsewhere: nothing outside its folder is read or written."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from specimens import bytes_of, edit, model, save

from sparsam import artifact
from sparsam.errors import InputOutput, SparsamError
from sparsam.models import unlift

_BACK = (
    "..", "../", "../secret.safetensors", "./../secret.safetensors", "../../secret.safetensors",
    "a/../../secret.safetensors", "/", "/etc/passwd", "//etc/passwd", "/dev/zero", "/dev/stdin",
    "/proc/self/mem", "/proc/self/environ", "~/secret", "~root/x", "..\\secret.safetensors", "..\\..\\x",
    "C:\\x.safetensors", "C:/x.safetensors", "C:x", "\\\\host\\share\\x", "//host/share/x", "\\\\?\\C:\\x",
    "file:///etc/passwd", "http://localhost/x.safetensors", "hf://owner/name/x", "%2e%2e/secret.safetensors",
    "%2e%2e%2fsecret.safetensors", "%252e%252e%252fsecret.safetensors", "..%2fsecret", "..%5csecret",
    "..%c0%afsecret", "\u2025/secret", "\uff0e\uff0e/secret", "\uff0e\uff0e\uff0fsecret", ".\u200b./secret",
    "..\0/secret", "\0", "model.safetensors\0.txt", "\0../secret.safetensors", "sub/model.safetensors",
    "./model.safetensors", "sub/../model.safetensors", ".", "./", "...", "....//secret", "", " ", "\n",
    "\t../x", "a\nb", "x/", "x//y", "/../x", "../a/secret.safetensors",
)  # fmt: skip
_NAMES = (
    "MODEL.SAFETENSORS", "Model.safetensors", "model.SAFETENSORS", "mode\u0142.safetensors",
    "modele\u0301.safetensors", "model\u00e9.safetensors", "CON", "NUL", "AUX.safetensors", "COM1",
    "LPT1.safetensors", "model.safetensors.", "model.safetensors ", " model.safetensors",
    "model.safetensors:stream", "model.safetensors::$DATA", "x" * 255, "x" * 256, "x" * 4096, "\u00e9" * 128,
    "-rf", "--help", "*", "?", "[a]", "$HOME", "`id`", "$(id)", "|id", "&", ";", "'", '"', "\\", "\x1b[31m",
    "\u202exe", "\ud800", "config.json", "MANIFEST.json", "pytorch_model.bin", "model.safetensors.index.json",
    ".git/config", ".ssh/id_rsa", "None", "null", "model-00001-of-00002.safetensors",
    "model-00001-of-99999.safetensors",
)  # fmt: skip
SHARDS = (*_BACK, *_NAMES)
VALUES: tuple[Any, ...] = (None, 0, 1.5, True, [], {}, ["model.safetensors"], {"a": "b"})

_opened: list[str] | None = None
_EVENTS = ("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.symlink")


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event in _EVENTS:
        _opened.extend(str(x) for x in arguments[:2] if isinstance(x, str | bytes | Path))


sys.addaudithook(_note)


def outside(folder: Path, work: Any) -> tuple[SparsamError | None, list[str]]:
    """What ``work`` raised, and what it opened beside the folder: its neighbours, or files of the system."""
    global _opened
    _opened, caught = [], None
    try:
        work()
    except SparsamError as error:
        caught = error
    finally:
        seen, _opened = _opened, None
    libraries = (
        sys.prefix,
        sys.base_prefix,
        os.path.dirname(os.__file__),
        str(Path(artifact.__file__).parents[2] / "sparsam"),
    )
    wrong = []
    for path in seen:
        real = os.path.realpath(path) if "\0" not in path else path
        near = real.startswith(str(folder.parent)) and real != str(
            folder.parent
        )  # looked through for what a save left
        if (near and not real.startswith(f"{folder}/") and real != str(folder)) or (
            real.startswith(("/etc", "/dev", "/root/secret")) and not real.startswith(libraries)
        ):
            wrong.append(path)
    return caught, wrong


@pytest.fixture(scope="module")
def dense(tmp_path_factory: Any) -> Path:
    """An ordinary checkpoint, its weights under a shard's name; secrets of the same form beside it."""
    place = tmp_path_factory.mktemp("paths")
    folder = place / "a" / "model"
    unlift(model(0)).save_pretrained(folder)
    shutil.copy(folder / "model.safetensors", place / "secret.safetensors")
    shutil.copy(folder / "model.safetensors", place / "a" / "secret.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    return folder


def test_there_are_enough() -> None:
    """At least 100 names."""
    assert len(set(SHARDS)) == len(SHARDS) >= 100


def test_an_index_cannot_leave_the_folder(dense: Path) -> None:
    """As the shard of one tensor among good ones, and of all."""
    names = json.loads((dense / "config.json").read_text())
    assert names
    for name in (*SHARDS, *VALUES):
        for others in ({}, {"classifier.weight": "model-00001-of-00001.safetensors"}):
            index = {"metadata": {}, "weight_map": {**others, "classifier.bias": name}}
            (dense / "model.safetensors.index.json").write_text(json.dumps(index))
            caught, wrong = outside(dense, lambda: artifact.load_dense(dense))
            assert isinstance(caught, InputOutput), repr(name)
            assert caught.code in ("json-invalid", "file-missing", "safetensors-corrupt"), (
                repr(name),
                caught,
            )
            assert not wrong, repr(name)


def test_an_index_may_name_nothing(dense: Path) -> None:
    """Without shards the weights are missing."""
    for weights in ({}, None, [], "x"):
        (dense / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
        caught, wrong = outside(dense, lambda: artifact.load_dense(dense))
        assert caught is not None
        assert not wrong


def test_a_manifest_cannot_leave_the_folder(tmp_path: Path) -> None:
    """As one more file of a manifest: refused by its form, or missing."""
    folder = save(0, tmp_path / "x" / "a")
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    (tmp_path / "x" / "secret.safetensors").write_bytes(b"secret")
    whole = (folder / artifact.MANIFEST).read_text()
    for name in SHARDS:
        entry = {"bytes": 6, "sha256": "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"}
        (folder / artifact.MANIFEST).write_text(whole)
        edit(folder / artifact.MANIFEST, lambda m, name=name, entry=entry: m["files"].setdefault(name, entry))
        caught, wrong = outside(folder, lambda: artifact.load(folder))
        assert caught is not None, repr(name)
        assert not wrong, repr(name)


@pytest.mark.parametrize(
    "names",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "adapter_model.bin",
        "other.safetensors",
        "x.safetensors.index.json",
        7,
    ],
)
def test_a_config_cannot_name_other_weights(names: Any, dense: Path, tmp_path: Path) -> None:
    """Transformers would follow ``transformers_weights``, adapter_model.bin with pickles in it among them."""
    folder = tmp_path / "x" / "a"
    unlift(model(0)).save_pretrained(folder)
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")
    edit(folder / "config.json", lambda c: c.update(transformers_weights=names))
    caught, wrong = outside(folder, lambda: artifact.load_dense(folder))
    assert caught is not None and caught.code == "weights-elsewhere"
    assert not wrong


def test_links_in_a_folder_are_not_written_through(tmp_path: Path) -> None:
    """Files of an artefact that are links to files elsewhere: a save replaces them, and what they name stays."""
    folder = save(0, tmp_path / "a")
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.move(folder / name, kept / name)
        (folder / name).symlink_to(kept / name)
    os.link(folder / "sparsam.json", kept / "sparsam.json")
    before = bytes_of(kept)
    artifact.load(folder)  # as in the hub's cache, where every file is a link
    save(1, folder)
    assert bytes_of(kept) == before
    assert not any(path.is_symlink() for path in folder.iterdir())
    (folder / "elsewhere").symlink_to(kept)
    artifact.save(model(0), folder, overwrite=True)
    assert bytes_of(kept) == before


def test_a_link_to_a_folder_is_kept(tmp_path: Path) -> None:
    """A save to a link replaces the folder it leads to."""
    save(0, tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    save(1, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert artifact.load(tmp_path / "real").facts == {"seed": 1}
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SparsamError):
        save(1, tmp_path / "loop")


def test_a_staging_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """What a killed save seems to have left may be a link to somebody's files: it is not emptied."""
    from sparsam.artifact import staging

    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "mine").write_text("mine")
    (tmp_path / f"a.tmp-999999999-{staging.this_machine()}aaaaaa").symlink_to(kept)
    (tmp_path / f"a.old-999999999-{staging.this_machine()}aaaaaa").symlink_to(kept)
    save(0, tmp_path / "a")
    assert (kept / "mine").read_text() == "mine"
