"""The dense checkpoint is found from what was saved with a compressed one, or asked for by name."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_checkpoints
from tiny_checkpoints import Checkpoints

import sparsam
from sparsam.artifact import load
from sparsam.baselines.dense import base_of, checkpoint, dense_of
from sparsam.errors import InputOutput, Refused, SparsamError, Usage
from sparsam.task import Task


@pytest.fixture
def made(of_texts: Checkpoints, tmp_path: Path) -> Checkpoints:
    """A copy of the folders that a test may change."""
    shutil.copytree(of_texts.dense.parent, tmp_path / "runs")
    place = tmp_path / "runs"
    made = replace(of_texts, dense=place / "dense", half=place / "half", task=place / "task")
    say(made, made.half, source=str(made.dense), source_sha256=load(made.half).facts["source_sha256"])
    return made


def say(made: Checkpoints, place: Path, **facts: object) -> Path:
    """The compressed model saved once more, with other facts."""
    loaded = load(made.half)
    return sparsam.save(loaded.model, place, processor=loaded.processor, facts=facts)


def found(place: Path, task: Path) -> Path:
    read = Task.load(str(task))
    return dense_of(checkpoint(place, read), read).folder


def test_the_named_source_is_found(made: Checkpoints, monkeypatch, tmp_path: Path) -> None:
    """As a path from anywhere, from a folder above, or beside the model; a dense model is its own."""
    monkeypatch.chdir("/")
    digest = load(made.half).facts["source_sha256"]
    for source in (str(made.dense), "runs/dense", "long/gone/dense"):
        say(made, made.half, source=source, source_sha256=digest)
        assert found(made.half, made.task) == made.dense
    assert found(made.dense, made.task) == made.dense


def test_a_chain_is_followed(made: Checkpoints) -> None:
    """A model compressed twice leads to the dense one."""
    third = say(made, made.half.parent / "third", source=str(made.half))
    assert found(third, made.task) == made.dense


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({}, "does not say which model it was made from"),
        ({"source": 7}, "does not say which model"),
        ({"source": "nowhere"}, "'nowhere', which is not on this machine"),
        ({"source": "google-bert/bert-base-uncased"}, "is not on this machine"),
        ({"source": "x\0y"}, "is not on this machine"),
        ({"source": "dense", "source_sha256": "0" * 64}, "are others by now"),
        ({"source": "half"}, "lead in a circle"),
    ],
)
def test_what_leads_nowhere_asks_for_the_folder(
    made: Checkpoints, facts: dict[str, object], why: str
) -> None:
    """Every way of not finding it says so and names --dense; a hub id in a file is never fetched."""
    say(made, made.half, **facts)
    with pytest.raises(Usage, match=why) as caught:
        found(made.half, made.task)
    assert caught.value.code == "dense-missing" and "--dense DIR" in str(caught.value)


def test_one_baseline_for_all(made: Checkpoints, tmp_path: Path) -> None:
    """Models of one dense checkpoint share it; others are refused unless it is named; a compressed one is none."""
    other = tiny_checkpoints.text_checkpoints(tmp_path / "other", "roberta")
    task = Task.load(str(made.task))
    ours, theirs = checkpoint(made.half, task), checkpoint(other.half, task)
    assert base_of([ours, checkpoint(made.dense, task)], None, task).folder == made.dense
    with pytest.raises(Usage, match="comes from .*--dense DIR"):
        base_of([ours, theirs], None, task)
    assert base_of([ours, theirs], other.dense, task).folder == other.dense
    with pytest.raises(Usage, match="is compressed itself"):
        base_of([ours], made.half, task)


def test_what_does_not_fit_the_task_is_refused(
    made: Checkpoints, of_images: Checkpoints, tiny, tmp_path
) -> None:
    """Another kind of data, another head, no tokenizer, nothing there."""
    task = Task.load(str(made.task))

    def code(source: Path) -> str:
        with pytest.raises(SparsamError) as caught:
            checkpoint(source, task)
        assert isinstance(caught.value, Refused | InputOutput)
        return caught.value.code

    assert code(of_images.dense) == "task-kind"
    assert code(tmp_path / "absent") == "model-missing"
    sparsam.save(tiny.build("bert"), tmp_path / "mute")
    assert code(tmp_path / "mute") == "processor-missing"
    words = tiny_checkpoints.words()
    sparsam.save(tiny.build("bert", head="ForTokenClassification"), tmp_path / "tokens", processor=words)
    assert code(tmp_path / "tokens") == "head-kind"
    sparsam.save(
        tiny.build("bert", num_labels=2, id2label={0: "x", 1: "y"}), tmp_path / "two", processor=words
    )
    assert code(tmp_path / "two") in ("head-classes", "head-labels")
