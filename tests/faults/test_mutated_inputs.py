"""Every reader on thousands of changed files: an error of ours, or a file that means the same; no crash, no hang, no bomb."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from children import limited, step
from mutations import of_bytes, of_json, of_text, of_weights
from specimens import put, save, smallest

from sparsam import artifact, plugin
from sparsam.artifact.manifest import read_json
from sparsam.errors import SparsamError
from sparsam.models import inspect_model
from sparsam.plan import Plan
from sparsam.task import Task, held_out
from sparsam.tokens import rule_of
from sparsam.training.loop import Settings, Supervised, train

MEGABYTES, SECONDS = 1000, 5.0

COUNT = pytest.mark.parametrize("count", [1_500, pytest.param(20_000, marks=pytest.mark.faults)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small artefact to change."""
    return save(0, tmp_path / "a", smallest())


def sweep(count: int, seed: int, one: Callable[[random.Random], bool]) -> tuple[int, int]:
    """Call ``one`` so often, in a limited process; how many were read, and how many refused by an error of ours."""

    def steps() -> list[int]:
        drawn = random.Random(seed)
        read = refused = 0
        for number in range(count):
            step()
            state = drawn.getstate()
            try:
                read += one(drawn)
            except SparsamError as error:
                refused += bool(error.code)
            except BaseException as error:
                drawn.setstate(state)
                raise AssertionError(f"input {number}: {type(error).__name__}: {error}") from error
        return [read, refused]

    read, refused = limited(steps, megabytes=MEGABYTES, seconds=SECONDS)
    return read, refused


@COUNT
def test_weights(count: int, folder: Path) -> None:
    """A safetensors file that is read holds the tensors that were saved, or has lost our record (which ``load`` refuses)."""
    file, made = folder / "model.safetensors", smallest()
    whole = file.read_bytes()
    wanted = plugin.file_digests(file, plugin.read_header(file))

    def one(drawn: random.Random) -> bool:
        put(file, of_weights(whole, drawn))
        plugin.check_files([file], made.sparsam_plan, made.config)
        header = plugin.read_header(file)
        assert plugin.KEY not in header.metadata or plugin.file_digests(file, header) == wanted
        return True

    read, refused = sweep(count, 1, one)
    assert refused > 0.5 * count
    assert read < 0.4 * count


@COUNT
@pytest.mark.parametrize("form", ["text", "object", "config"])
def test_plans(form: str, count: int, folder: Path) -> None:
    """A changed plan is refused, or is a plan that writes itself again; the weights' header tells it from the one saved."""
    made = smallest()
    plan, file = made.sparsam_plan, folder / "model.safetensors"
    text = json.dumps(plan.to_json()).encode()

    def one(drawn: random.Random) -> bool:
        if form == "text":
            found = Plan.from_json(of_text(text, drawn).decode(errors="surrogateescape"))
        elif form == "object":
            found = Plan.from_json(of_json(plan.to_json(), drawn))
        else:
            config = of_json({"quant_method": plugin.METHOD, "plan": plan.to_json()}, drawn)
            if not isinstance(config, dict):
                return False
            found = plugin.SparsamConfig(**config).read()
        assert Plan.from_json(found.to_json()) == found
        if found != plan:
            with pytest.raises(SparsamError, match="plan in config"):
                plugin.check_files([file], found, made.config, tensors=False)
        plugin.check_fit(found, made)
        inspect_model(made.config, found)
        if found.tokens is not None:
            rule_of(found.tokens)
        return True

    read, refused = sweep(count, 2, one)
    assert refused > 0.4 * count
    assert read > 0


@COUNT
def test_manifests(count: int, folder: Path) -> None:
    """Only the manifest as it was written is taken."""
    file = folder / artifact.MANIFEST
    whole = file.read_bytes()
    wanted = set(json.loads(whole)["files"])

    def one(drawn: random.Random) -> bool:
        changed = of_text(whole, drawn)
        put(file, changed)
        artifact.verify(folder)
        named = json.loads(changed)["files"]
        assert changed == whole or wanted - set(named) == {"notes.txt"}  # which no loader reads
        return True

    _, refused = sweep(count, 3, one)
    assert refused > 0.9 * count


@COUNT
def test_facts_and_records(count: int, folder: Path) -> None:
    """Facts without a manifest, and evaluation records: read as the JSON they are, used without another error."""
    task = Task.load("digits")
    facts = {"source": "x", "seed": 1, "data": [{"file": "f", "sha256": "0" * 64}], **held_out.record(task)}
    artifact.write_record(folder, {"model": {"accuracy": 0.5}, "notes": ["a"]})
    file, record = folder / artifact.FACTS, folder / artifact.EVALUATION
    texts = {file: json.dumps({"schema": 1, "facts": facts}).encode(), record: record.read_bytes()}

    def one(drawn: random.Random) -> bool:
        here = drawn.choice((file, record))
        changed = of_text(texts[here], drawn)
        put(here, changed)
        if here == record:
            assert artifact.read_record(folder) == json.loads(changed)["evaluation"]
            return True
        found = read_json(file).get("facts")
        if isinstance(found, dict):
            held_out.check(task, found, "a")
        return True

    read, refused = sweep(count, 4, one)
    assert read > 0.05 * count
    assert refused > 0.2 * count


@COUNT
def test_configurations(count: int, folder: Path) -> None:
    """A config.json, as far as it is read before transformers is asked."""
    file = folder / "config.json"
    whole = file.read_bytes()

    def one(drawn: random.Random) -> bool:
        put(file, of_text(whole, drawn))
        config = read_json(file)
        artifact.check_config(config, folder)
        plugin.labels_digest(config.get("id2label"))
        return True

    read, refused = sweep(count, 5, one)
    assert read and refused > 0.2 * count


@pytest.mark.parametrize("count", [30, pytest.param(2_000, marks=pytest.mark.faults)])
def test_configurations_at_the_command_line(count: int, folder: Path) -> None:
    """``sparsam inspect`` on a changed config.json ends with an exit code that the help names, not with a fault of ours."""
    from sparsam.cli import main

    whole = (folder / "config.json").read_bytes()

    def one(drawn: random.Random) -> bool:
        changed = of_text(whole, drawn)
        put(folder / "config.json", changed)
        code = main(["inspect", str(folder), "--json"])
        assert code in (0, 3, 5)
        return code == 0

    read, refused = sweep(count, 8, one)
    assert refused == 0 and read > 0


@pytest.mark.parametrize("count", [40, pytest.param(1_000, marks=pytest.mark.faults)])
def test_whole_folders(count: int, folder: Path) -> None:
    """Config, weights or facts changed, without a manifest, through the whole of ``load`` and ``load_dense``."""
    (folder / artifact.MANIFEST).unlink()
    wanted = smallest()
    files = {
        name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors", "sparsam.json")
    }

    def one(drawn: random.Random) -> bool:
        for name, whole in files.items():
            put(folder / name, whole)
        name = drawn.choice(list(files))
        change = of_weights if name.endswith("safetensors") else of_text
        put(folder / name, change(files[name], drawn))
        load = drawn.choice((artifact.load, artifact.load_dense))
        loaded = load(folder)
        assert loaded.plan == wanted.sparsam_plan
        left = set(loaded.facts.get("unused_weights", ())) if load is artifact.load_dense else set()
        kept = [x for key, x in wanted.state_dict().items() if key not in left]
        pairs = zip(loaded.model.state_dict().values(), kept, strict=True)
        assert all(torch.equal(x, y) for x, y in pairs)
        return True

    read, refused = sweep(count, 6, one)
    assert refused > 0.4 * count
    assert read > 0


@pytest.mark.parametrize("count", [60, pytest.param(1_000, marks=pytest.mark.faults)])
def test_checkpoints(count: int, tmp_path: Path) -> None:
    """A changed checkpoint of training is refused; nothing is trained on from other weights."""
    from test_failing_disk import Rows

    rows, settings = Rows(), Settings(epochs=1, lr=1e-3, precision="fp32")

    def run(folder: Path) -> Any:
        made = smallest_dense()
        return made, train(
            Supervised(made), rows.batches, rows.collate, settings, checkpoints=folder, stop_after=1, cpu=True
        )

    run(tmp_path)
    file = tmp_path / "checkpoint-0.safetensors"
    whole, (wanted, history) = file.read_bytes(), run(tmp_path)

    def one(drawn: random.Random) -> bool:
        put(file, of_bytes(whole, drawn))
        made, found = run(tmp_path)
        assert found == history
        pairs = zip(made.state_dict().values(), wanted.state_dict().values(), strict=True)
        assert all(torch.equal(x, y) for x, y in pairs)
        return True

    read, refused = sweep(count, 7, one)
    assert refused > 0.5 * count
    assert read < 0.4 * count


def smallest_dense() -> Any:
    """A model that training takes: words enough, nothing pruned."""
    from specimens import model

    return model(0)


def test_changes_repeat() -> None:
    """The same seed, the same changes: a failure can be looked at."""
    data = json.dumps({"a": [1, {"b": "c"}], "d": None}).encode()
    made = [[of_text(data, random.Random(seed)) for seed in range(50)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 30
