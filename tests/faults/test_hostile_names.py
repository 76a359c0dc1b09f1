"""Hostile strings as names: they stay text on the terminal and in JSON, and nothing is written outside the folder."""

import json
import unicodedata
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from children import limited
from hostile_strings import DIRECTIONS, STRINGS
from specimens import bytes_of, model, names_in, reviews

from sparsam import artifact
from sparsam.cli import main
from sparsam.cli.show import new_table, plain
from sparsam.errors import InputOutput, SparsamError, Usage
from sparsam.plan import Plan
from sparsam.task import Task

SOME = STRINGS[:: len(STRINGS) // 9]


def tame(text: str) -> bool:
    """Whether a terminal shows this as text: no control characters but line ends, no change of direction."""
    return not any((unicodedata.category(c) in ("Cc", "Cs") and c != "\n") or c in DIRECTIONS for c in text)


def plain_json(data: bytes) -> bool:
    """Whether a file of JSON holds ASCII alone, which no terminal and no other encoding reads differently."""
    return data.isascii() and all(c in b"\n" or c >= 32 for c in data) and 0x7F not in data


def test_there_are_enough() -> None:
    """At least 150, each once."""
    assert len(set(STRINGS)) == len(STRINGS) >= 150


def test_what_is_shown_is_tame() -> None:
    """On one line, in cells and titles of tables."""
    for text in STRINGS:
        assert tame(plain(text)), ascii(text)
        assert "\n" not in plain(text)
        assert tame(str(new_table(text, "a").title)), ascii(text)


def test_facts_and_records_keep_them(tmp_path: Path) -> None:
    """As sources, data sets, runs: read back as they were, on disk as ASCII."""
    names = dict(enumerate(STRINGS))
    facts = {"names": list(STRINGS), **{f"{ascii(text)[:40]}{at}": text for at, text in names.items()}}
    folder = artifact.save(model(0), tmp_path / "a", facts=facts)
    assert artifact.load(folder).facts == facts
    artifact.write_record(folder, {"task": list(STRINGS), **dict.fromkeys(STRINGS, 1)})
    assert (artifact.read_record(folder) or {})["task"] == list(STRINGS)
    for name, data in bytes_of(folder).items():
        assert name.endswith(".safetensors") or plain_json(data), name
    assert names_in(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "texts", [SOME, pytest.param(STRINGS, marks=pytest.mark.faults)], ids=["some", "all"]
)
def test_labels_keep_them(texts: tuple[str, ...], tmp_path: Path) -> None:
    """As names of classes: the model loads with them, or they are refused by name."""
    for number, text in enumerate(texts):
        folder = tmp_path / str(number)
        try:
            artifact.save(model(0, labels=(text, "the other one")), folder)
        except SparsamError:
            continue
        assert artifact.load(folder).model.config.id2label[0] == text
        assert plain_json((folder / "config.json").read_bytes())


@pytest.mark.parametrize(
    "texts", [SOME, pytest.param(STRINGS, marks=pytest.mark.faults)], ids=["some", "all"]
)
def test_folders_may_have_them(texts: tuple[str, ...], tmp_path: Path) -> None:
    """As the name of a folder below the root: saved there and loaded, or an error of ours; nothing beside it."""
    made = model(0)
    for number, text in enumerate(texts):
        root = tmp_path / f"root{number}"
        root.mkdir()
        before = names_in(tmp_path)
        name = text.replace("/", "\u2215").replace("..", "\u2025") or "empty"
        if name == ".":
            continue
        try:
            folder = artifact.save(made, root / name)
        except (Usage, InputOutput):
            assert not names_in(root), ascii(text)
        else:
            assert folder.parent == root
            assert names_in(root) == [folder.name]
            artifact.load(folder)
        assert names_in(tmp_path) == before


def test_a_folder_named_after_a_model_stays_here() -> None:
    """Where nobody said where to save, the model's name chooses the folder: one name, below the working directory."""
    from sparsam.compress.road import _folder_for
    from sparsam.tokens import LTP

    for text in STRINGS:
        made = _folder_for(SimpleNamespace(name=text), (LTP(),))  # type: ignore[arg-type]
        assert len(made.parts) == 1, ascii(text)
        assert made.parts[0] not in ("..", "/", "."), ascii(text)


def commands(text: str, place: Path) -> list[list[str]]:
    """Command lines with this string as a model, a family, a data set, a column and a folder."""
    (place / "config.json").write_text(json.dumps({"model_type": text, "architectures": [text]}))
    rows = str(place / "rows.csv")
    return [
        ["inspect", str(place)],
        ["inspect", "--", text],
        ["evaluate", "--task", text, "--", text],
        ["evaluate", "--task", rows, "--label", text, "--", text],
        ["compress", str(place), "--task", rows, "--budget", text, "--out", str(place / "out")],
        ["finetune", "--task", rows, "--text", text, "--out", str(place / "out"), "--", text],
    ]


@pytest.mark.parametrize(
    "texts", [STRINGS[::12], pytest.param(STRINGS, marks=pytest.mark.faults)], ids=["some", "all"]
)
def test_commands_show_them_as_text(
    texts: tuple[str, ...], tmp_path: Path, capfd: Any, monkeypatch: Any
) -> None:
    """No escape on either stream, one object in JSON's ASCII, an exit code that the help names, no file written."""
    reviews(tmp_path / "rows.csv")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for text in texts:
        for arguments in commands(text, tmp_path):
            if any("\0" in argument for argument in arguments):
                continue  # no process can be given these
            for form in (["--json"], []):
                code = main([arguments[0], *form, *arguments[1:]])
                out, err = capfd.readouterr()
                assert code in (2, 3, 5), (arguments[0], ascii(text)[:80], code, err[-300:])
                assert tame(out) and tame(err), (arguments[0], ascii(text)[:80])
                if form:
                    assert out.isascii() and out.count("\n") == 1
                    assert json.loads(out)["error"]["code"]
    assert names_in(tmp_path) == ["config.json", "rows.csv"]


def test_data_sets_may_hold_them(tmp_path: Path) -> None:
    """As classes of a task, as its name, and in a plan's rule: kept, or refused with a text that can be shown."""
    for text in STRINGS:
        with suppress(SparsamError):
            task = Task.load(reviews(tmp_path / "rows.csv", labels=(text, "other")))
            assert "other" in task.labels and len(task.labels) == 2
        with pytest.raises(SparsamError) as caught:
            Plan.from_json({"family": "bert", "layers": [{}], "tokens": {"rule": text, "values": [text]}})
        assert tame(plain(caught.value))


def test_long_names_cost_nothing() -> None:
    """A name of 10 million characters is shown in a moment."""
    text = "\x1b[31m" * 500_000
    assert limited(lambda: len(plain(text)), megabytes=500, seconds=20) == 2_000_000
