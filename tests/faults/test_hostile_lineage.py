"""Hostile names in records: what answers about a file print, write and draw stays text; and records on a failing disk."""

import errno
import json
import os
import re
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hostile_strings import DIRECTIONS, STRINGS
from syscalls import can_trace, traced

import sparsam.provenance as provenance
from sparsam.cli import main
from sparsam.cli.recording import VARIABLE

MATRIX = "%%MatrixMarket matrix coordinate real general\n2 2 2\n1 1 1.0\n2 2 2.0\n"


def file_name(text: str) -> bool:
    """Whether a file can be called this."""
    try:
        size = len(os.fsencode(text))
    except UnicodeEncodeError:
        return False
    return 0 < size <= 200 and not set("/\0") & set(text) and text not in (".", "..")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file made from files of all names that a file can have, under settings, results and decisions of all names."""
    folder = tmp_path_factory.mktemp("hostile")
    names = [x for x in STRINGS if file_name(x)]
    assert len(names) > 100
    with provenance.run("r", folder=folder / ".sparsam"):
        for number, name in enumerate(names):
            own = folder / f"folder {number}"
            own.mkdir()
            (own / name).write_text("x")
            (own / name).read_text()
        (folder / "out").write_text("y")
        provenance.record_config(dict.fromkeys(STRINGS, "value") | {"value": list(STRINGS)})
        provenance.record_type(STRINGS[0])
        provenance.record_account(
            folder / "out", dict.fromkeys(STRINGS, STRINGS[3]), dict.fromkeys(STRINGS, 1)
        )
        for text in STRINGS:
            provenance.record_decision(folder / "out", "mask", text, text)
            provenance.record_calibration(folder / "out", text, 3, split=text, sha256=text)
    return folder


@pytest.mark.parametrize("to", ["text", "html", "svg", "json"])
def test_answers_are_tame(
    place: Path, to: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No control character, no change of direction, nothing that is no text, in print and in files."""
    monkeypatch.chdir(place)
    assert main(["lineage", "out", "--to", to]) == 0
    printed = capsys.readouterr().out
    assert main(["lineage", "out", "--to", to, "--out", "answer"]) == 0
    written = Path("answer").read_text(encoding="utf-8")
    for text in (printed, written):
        assert len(text) > 1000
        assert not [x for x in text if (ord(x) < 32 and x != "\n") or 127 <= ord(x) < 160 or x in DIRECTIONS]
    if to == "json":
        names = {Path(x["path"]).name for x in json.loads(written)["steps"]}
        assert {x for x in STRINGS if file_name(x) and x.isascii()} <= names  # as they were
    if to == "svg":
        tags = {x.tag.rpartition("}")[2] for x in ElementTree.fromstring(written).iter()}
        assert tags == {"svg", "title", "style", "g", "path", "rect", "text"}
    if to == "html":
        assert re.findall(r"<script[^>]*>", written) == [
            '<script type="application/json" id="data">',
            "<script>",
        ]
        assert not re.search(r"<(img|iframe|a|base|form|link|object|embed|math|plaintext)\b", written)


@pytest.mark.skipif(not can_trace(), reason="wants ptrace on x86-64 Linux")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_command_ends_well_whatever_fails_in_its_records(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The k-th call of the system below .sparsam fails, and all after it, for many k: same exit code, same result."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE)
    (tmp_path / "a.mtx").write_text(MATRIX)
    assert main(["simulate", "a.mtx", "--on", "sparch", "--out", "expected", "--no-provenance"]) == 0
    expected = re.sub('"seconds": .*', "", Path("expected/simulation.json").read_text())
    for k in (1, 2, 3, 5, 8, 13, 21):
        out = f"made{k}"
        words = ["simulate", "a.mtx", "--on", "sparch", "--out", out]
        found = traced(partial(main, words), tmp_path / ".sparsam", k, error=number, stays=True)
        assert found.code == 0, (k, found.calls[k - 1 : k])
        assert re.sub('"seconds": .*', "", Path(out, "simulation.json").read_text()) == expected
