"""Exported models in the cache: made once, whole or not at all, made again when damaged."""

from pathlib import Path

import pytest

from sparsam.baselines.cache import Entry, default_cache, digest_of
from sparsam.errors import InputOutput


def entry(root: Path, calls: list[str], text: str = "weights", **key: object) -> Entry:
    """An export of one file; each making is counted."""

    def write(folder: Path) -> None:
        calls.append(text)
        (folder / "model.onnx").write_text(text)

    return Entry(root, {"what": "test"} | key, write)


def test_it_is_made_once(tmp_path: Path) -> None:
    """The second time it is there; another key is another folder; nothing else is left in the cache."""
    calls: list[str] = []
    first = entry(tmp_path / "deep" / "cache", calls)
    assert not first.is_there()
    place = first.made()
    assert (place / "model.onnx").read_text() == "weights" and first.is_there()
    assert entry(tmp_path / "deep" / "cache", calls).made() == place and calls == ["weights"]
    assert entry(tmp_path / "deep" / "cache", calls, version="2").made() != place
    assert len(list((tmp_path / "deep" / "cache").iterdir())) == 2


def test_a_damaged_one_is_made_again(tmp_path: Path) -> None:
    """A flipped byte, a missing file or missing digests are no hit."""
    calls: list[str] = []
    one = entry(tmp_path, calls)
    place = one.made()
    (place / "model.onnx").write_text("wEights")
    assert not one.is_there() and one.made() == place and one.is_there()
    (place / "model.onnx").unlink()
    one.made()
    (place / "digests.json").unlink()
    one.made()
    (place / "digests.json").write_text("{")
    one.made()
    assert one.is_there() and len(calls) == 5


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    """An exporter that fails halfway, or a disk that is full, leaves no folder behind."""

    def fails(error: Exception) -> Entry:
        def write(folder: Path) -> None:
            (folder / "half").write_text("a")
            raise error

        return Entry(tmp_path / "cache", {}, write)

    with pytest.raises(ZeroDivisionError):
        fails(ZeroDivisionError()).made()
    with pytest.raises(InputOutput, match=r"could not be saved: No space left.*Free space"):
        fails(OSError(28, "No space left on device")).made()
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_quicker_process_wins(tmp_path: Path) -> None:
    """Two that export at once end with one whole folder."""
    calls: list[str] = []
    rival = entry(tmp_path, calls)

    def write(folder: Path) -> None:
        (folder / "model.onnx").write_text("weights")
        rival.made()

    slow = Entry(tmp_path, rival.key, write)
    assert slow.made() == rival.folder and rival.is_there()
    assert [path.name for path in tmp_path.iterdir()] == [rival.folder.name]


def test_the_key_knows_the_weights(tmp_path: Path) -> None:
    """Another configuration or other weights are another checkpoint."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("1")
    before = digest_of(tmp_path)
    (tmp_path / "README.md").write_text("said")
    assert digest_of(tmp_path) == before
    (tmp_path / "model.safetensors").write_text("2")
    assert digest_of(tmp_path) != before


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XDG_CACHE_HOME counts; without a home it is a temporary folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "sparsam" / "exports"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert default_cache().parts[-2:] == ("sparsam", "exports")
