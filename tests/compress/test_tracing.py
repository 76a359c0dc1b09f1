"""The command trace: a model and a task in, a whole trace out, with what was run in its index."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints
import torch

from sparsam.cli import main
from sparsam.compress import open_model
from sparsam.compress.tracing import trace
from sparsam.models import stack_of
from sparsam.models.count import count
from sparsam.plan import Plan
from sparsam.task import Task
from sparsam.workload import Attention, Gemm, Workload


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> tiny_checkpoints.Checkpoints:
    """A tiny BERT, dense and with a plan that removes tokens, and a task of 24 rows."""
    return tiny_checkpoints.text_checkpoints(tmp_path_factory.mktemp("texts"))


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict]:
    """The exit code and the one JSON object of a command."""
    capsys.readouterr()
    code = main(["trace", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_trace_tells_model_task_and_plan(texts, tmp_path, capsys):
    """The index names what was run on which rows; the figures are those of the layers."""
    out = tmp_path / "trace"
    code, told = run(capsys, texts.half, "--task", texts.task, "--out", out, "--rows", 6)
    assert code == 0
    found = Workload.load(out)
    facts = found.facts
    assert facts["model"] == str(texts.half)
    assert (facts["task"], facts["split"], facts["rows"]) == (
        Task.load(str(texts.task)).name,
        "validation",
        6,
    )
    assert len(facts["row_numbers"]) == 6
    plan = Plan.from_json(facts["plan"])
    assert plan.tokens is not None
    assert plan.tokens.rule == "ltp"
    assert told["facts"] == json.loads(json.dumps(facts))
    assert told["layers"] == len(found) == 3 * 6 + 3 + 2
    assert told["macs"] == sum(one.macs for one in found)
    assert told["bytes"] == sum(file.stat().st_size for file in out.iterdir())
    parts = {one["kind"]: one for one in told["parts"]}
    whole = [one for one in found if isinstance(one, Gemm)]
    numbers = sum(one.a.values.size for one in whole)
    share = sum(int(one.a.nonzero.sum()) for one in whole) / numbers
    assert parts["gemm"]["flowing"] == pytest.approx(share, abs=1e-5)
    assert parts["attention"]["layers"] == 3
    lengths = [int(one.lengths.sum()) for one in found if isinstance(one, Attention)]
    assert lengths[0] == facts["tokens"]
    assert lengths[1] < lengths[0]


def test_training_is_traced_in_bf16_from_training_rows(texts, tmp_path, capsys):
    """Three products a layer; what is left out is a note."""
    out = tmp_path / "trace"
    code, told = run(capsys, texts.dense, "--task", texts.task, "--out", out, "--train", "--rows", 5)
    assert code == 0
    assert (told["facts"]["split"], told["facts"]["format"], told["facts"]["train"]) == (
        "train",
        "bf16",
        True,
    )
    roles = {(one["kind"], one["role"]): one["layers"] for one in told["parts"]}
    assert roles == {
        ("gemm", "forward"): 20, ("attention", "forward"): 3, ("gemm", "grad_input"): 20, ("gemm", "grad_weight"): 20,
    }  # fmt: skip
    assert any("and 2 more: gradients inside attention" in note for note in told["notes"])


def test_pictures_are_traced_too(tmp_path, capsys):
    """A ViT: its patch embedding is a convolution."""
    made = tiny_checkpoints.image_checkpoints(tmp_path)
    code, told = run(capsys, made.dense, "--task", made.task, "--out", tmp_path / "trace", "--rows", 3)
    assert code == 0
    first = Workload.load(tmp_path / "trace")[0]
    assert (first.kind, first.x.shape) == ("conv", (3, 3, 8, 8))
    assert {one["kind"] for one in told["parts"]} == {"conv", "gemm", "attention"}


def test_the_same_seed_gives_the_same_trace(texts, tmp_path):
    """Bit for bit, dropout of training included; another seed draws other rows."""
    task = Task.load(str(texts.task))
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        trace(open_model(str(texts.dense), task), task, tmp_path / name, rows=4, seed=seed, train=True)
        torch.manual_seed(ord(name))
    one, two, three = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in "abc"
    )
    assert one == two
    assert one != three


def test_several_batches_number_the_layers(texts, tmp_path):
    """All rows are in the trace once."""
    task = Task.load(str(texts.task))
    found = trace(open_model(str(texts.dense), task), task, tmp_path / "trace", rows=10, batch_tokens=20)
    layers = Workload.load(tmp_path / "trace")
    heads = [one for one in layers if one.name.partition("#")[0] == "classifier"]
    assert len(heads) > 2
    assert sum(one.size[0] for one in heads) == found.rows == 10


def test_the_table_names_kinds_and_shares(texts, tmp_path, capsys):
    """What a person sees."""
    assert main(["trace", str(texts.dense), "--task", str(texts.task), "--out", str(tmp_path / "t")]) == 0
    shown = capsys.readouterr().out
    assert "attention" in shown
    assert "23 layers" in shown


def test_folders_of_others_are_refused_before_anything_is_read(texts, tmp_path, capsys):
    """The model's own folder, or any with other files; a second trace takes the first one's place."""
    for out in (texts.dense, texts.task):
        before = sorted(file.name for file in Path(out).iterdir())
        code, told = run(capsys, "no-such-model", "--task", "nowhere", "--out", out)
        assert (code, told["error"]["code"]) == (2, "trace-folder")
        assert sorted(file.name for file in Path(out).iterdir()) == before
    for _ in range(2):
        code, _ = run(capsys, texts.dense, "--task", texts.task, "--out", tmp_path / "t", "--rows", 2)
        assert code == 0


def test_a_model_that_is_not_finite_leaves_no_folder(texts, tmp_path):
    """The layer is named."""
    task = Task.load(str(texts.task))
    opened = open_model(str(texts.dense), task)
    with torch.no_grad():
        opened.model.bert.encoder.layer[1].output.dense.bias[3] = float("nan")
    with pytest.raises(ValueError, match=r"^bert\.encoder\.layer\.2\.attention\.self\.query: "):
        trace(opened, task, tmp_path / "trace")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.data
def test_minilm_on_sst2_is_recorded_as_it_multiplies(shared, tmp_path):
    """Real rows: integers replayed give the linear layers' own outputs nearly, and multiplications are those counted."""
    task = Task.load(str(shared / "data" / "sst2"))
    opened = open_model(str(shared / "models" / "minilm-sst2"), task)
    seen: dict[str, torch.Tensor] = {}
    for name, part in opened.model.named_modules():
        if isinstance(part, torch.nn.Linear):
            part.register_forward_hook(
                lambda module, args, out, name=name: seen.__setitem__(name, (out - module.bias).detach())
            )
    inputs: list[dict[str, torch.Tensor]] = []
    handle = opened.model.register_forward_pre_hook(
        lambda module, args, kwargs: inputs.append(kwargs), with_kwargs=True
    )
    trace(opened, task, tmp_path / "trace", rows=6)
    handle.remove()
    found = Workload.load(tmp_path / "trace")
    worst = {}
    for one in found:
        if isinstance(one, Gemm):
            a, b = np.float32(one.a.scale), np.asarray(one.b.scale, np.float32)
            made = one.result() * a * b
            wanted = seen[one.name].numpy()
            signal, noise = float((wanted**2).mean()), float(((made - wanted) ** 2).mean())
            worst[one.name] = 10 * np.log10(signal / noise)
    assert len(worst) == 38
    assert min(worst.values()) > 15, min(worst.items(), key=lambda item: item[1])
    assert np.median(list(worst.values())) > 25
    attention = [one for one in found if isinstance(one, Attention)]
    cost = count(opened.model, stack_of(opened.model), inputs).cost
    assert sum(one.macs for one in attention) == cost.attention
    encoder = [one for one in found if isinstance(one, Gemm) and ".layer." in one.name]
    assert sum(one.macs for one in encoder) == cost.projections + cost.ffn
