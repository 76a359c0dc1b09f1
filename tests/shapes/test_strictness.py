"""What eager torch refuses is refused without data too, and what it takes is taken: torch's samples with one thing wrong."""

import os
import random
import re

import dtype_probe  # tests/shapes/dtype_probe.py
import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db  # before anything is substituted
from torch.utils._pytree import tree_map

from sparsam.shapes import eager, operators
from sparsam.shapes.check import check
from sparsam.shapes.checker import substituted
from sparsam.shapes.places import Places
from sparsam.shapes.run import Outcome, execute
from sparsam.shapes.verdict import Verdict

LONG = pytest.mark.skipif(
    os.environ.get("SPARSAM_LONG") != "1", reason="takes minutes; SPARSAM_LONG=1 asks for it"
)

PLACES = Places(lambda file: file == dtype_probe.__file__)
BY_VALUE = re.compile(
    r"out of bounds|out of range|sum of probabilities|number of ones in mask|ntensor >= \d|without overflow"
    r"|cannot be broadcast to indexing result|pivots passed|inf, nan|singular|positive-definite|did not converge"
    r"|negative entry|fully masked out"
)
"""What eager torch says of values, which tensors without data do not have; a mask chooses as many as its values say."""
CRASHES = re.compile(r"lu_unpack|batch_norm")  # kernels that read past what wrong sizes leave them
LEFT = {
    "sparse": "tensors that are not strided are not compared",
    "linear_cross_entropy.chunked": "an operator of its own, of which torch's rule checks nothing",
    "_softmax_backward_data": "an operator of backward passes, which call it with equal sizes",
    "istft": "looks at the data of its window",
    "masked_fill": "torch refuses a complex value without data",
    "_unsafe_masked_index": "an operator of torch's compiler",
    "_native_batch_norm": "an operator of torch's own",
    "_batch_norm": "an operator of torch's own",
    "native_group_norm": "an operator of torch's own",
    "multilabel_margin_loss": "torch refuses some ranks without data",
    "_segment_reduce": "an operator of torch's own",
    "bincount": "has a rule of its own, which takes any type",
    "_scaled_mm": "kernels for eight bits",
}
"""Operators of which a difference is known, and why it is left."""


def ours(trial: dtype_probe.Trial) -> Outcome:
    """How the call ends in one run of the checker, with plain sizes."""

    def entry(run):
        def made(value):
            if not dtype_probe.is_plain(value):
                return value
            fresh = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
            return fresh.requires_grad_() if value.requires_grad else fresh

        value, args, kwargs = tree_map(made, trial.arguments)
        return trial.call(value, *args, **kwargs)

    return execute(entry, {}, PLACES, operators.rules(), plain=True)


def difference(trial: dtype_probe.Trial) -> str:
    """What eager torch and the checker say otherwise of a call; "" where they agree, or the checker is not sure."""
    error, _ = trial.eager()
    outcome = ours(trial)
    if outcome.ending == "stopped":
        assert outcome.unknowns
        return ""
    if error is not None and outcome.failure is None and not BY_VALUE.search(str(error)):
        return f"{trial.name}, {trial.change}: eager raises {type(error).__name__}: {str(error)[:150]}"
    if error is None and outcome.failure is not None and not BY_VALUE.search(outcome.failure.text):
        return f"{trial.name}, {trial.change}: eager takes it, not so: {outcome.failure.error}: {outcome.failure.text[:150]}"
    return ""


def left(name: str) -> bool:
    """Whether differences of an operator are known."""
    return any(part in name for part in LEFT)


QUICK = (
    "addmm", "matmul", "nn.functional.linear", "nn.functional.conv2d", "bitwise_and", "softmax", "max", "argmax",
    "multinomial", "nn.functional.nll_loss", "nn.functional.layer_norm", "gather", "index_select", "index_put",
)  # fmt: skip


@pytest.mark.parametrize("name", QUICK)
def test_both_refuse_or_neither(name):
    """Of each change of one sample: a type, a size, a dimension more or less."""
    trials = [trial for op in op_db if op.name == name for trial in dtype_probe.trials_of(op, 1)]
    random.Random(0).shuffle(trials)
    with substituted():
        said = [difference(trial) for trial in trials[:40]]
    assert len(said) > 8
    assert not any(said), "\n".join(filter(None, said))


@LONG
@pytest.mark.slow
@pytest.mark.parametrize("part", range(3))
def test_both_refuse_or_neither_of_all_operators(part):
    """Some six hundred changes drawn of all operators in each part."""
    draw = random.Random(part)
    said, refused, count = [], 0, 0
    ops = [op for op in op_db if not CRASHES.search(op.name) and not left(op.name)]
    with substituted():
        for op in draw.sample(ops, 150):
            trials = list(dtype_probe.trials_of(op, 1))
            for trial in draw.sample(trials, min(4, len(trials))):
                count += 1
                said.append(difference(trial))
                refused += trial.eager()[0] is not None
    assert count > 400 and refused > 100
    assert not any(said), "\n".join(filter(None, said))


HEAD = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n"
REFUSED = {
    "an empty dimension": ("x.max(dim=0)", "x=N×3", 0),
    "an expanded tensor that is written to": ("x.sum().expand(x.shape[0]).add_(1)", "x=N×3", 2),
    "rows that are not there": ("torch.multinomial(x, 5)", "x=2×N", 1),
    "values that do not fit": (
        "x[torch.zeros(4, dtype=torch.long)] = torch.zeros(4, x.shape[0])",
        "x=N×3",
        2,
    ),
    "an empty picture": ("F.interpolate(x, size=4, mode='linear')", "x=2×3×N", 0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_sizes_are_split_where_kernels_refuse_them(name, tmp_path):
    """A symbolic size is found that eager torch refuses, also where it takes all others."""
    line, argument, size = REFUSED[name]
    file = tmp_path / "piece.py"
    file.write_text(f"{HEAD}def f(x):\n    {line}\n")
    report = check(f"{file}:f", [argument, "N=0..9"], sandboxed=False)
    assert report.verdict is Verdict.ERROR, report
    assert size in {finding.witness["N"] for finding in report.findings}
    for finding in report.findings:
        assert finding.confirmed


def test_kernels_that_trust_numbers_are_asked_with_true_sizes(monkeypatch):
    """The kernel of a group norm, which does not compare its numbers with its tensor, is given those of the tensor."""
    given = []
    tried = eager._tried
    monkeypatch.setattr(eager, "_tried", lambda func, leaves, spec, sizes: given.append((func, sizes)) or tried(
        func, leaves, spec, sizes
    ))  # fmt: skip
    monkeypatch.setattr(eager, "_answers", {})
    layer = torch.nn.functional.group_norm
    with substituted():
        picture = torch.zeros(300, 320, 2, 9)
        assert ours(dtype_probe.Trial("", "", layer, (picture, (2,), {}))).failure is None
    asked = [sizes for func, sizes in given if "group_norm" in str(func)]
    assert asked and all([sizes(size) for size in (18, 300, 320)] == [18, 300, 320] for sizes in asked)


def test_empty_tensors_of_any_type_are_taken_where_kernels_take_them(tmp_path):
    """Nothing of a wrong type is refused that eager torch lets pass for an empty tensor alone."""
    file = tmp_path / "piece.py"
    file.write_text(f"{HEAD}def f(x):\n    return x & x\n")
    report = check(f"{file}:f", ["x=N×2", "N=0..9"], sandboxed=False)
    assert report.verdict is Verdict.ERROR
    with pytest.raises(NotImplementedError):
        torch.zeros(report.findings[0].witness["N"]) & torch.zeros(report.findings[0].witness["N"])


def test_half_precision_on_another_device_is_no_error(tmp_path):
    """Kernels of the CPU that do not take half precision say nothing of a program for another device."""
    file = tmp_path / "piece.py"
    line = "return torch.cdist(x.to(DEVICE).half(), x.to(DEVICE).half())"
    file.write_text(f"{HEAD}def f(x):\n    {line.replace('DEVICE', repr('cuda'))}\n")
    assert check(f"{file}:f", ["x=4×3"], sandboxed=False).verdict is Verdict.PROVED
    file.write_text(f"{HEAD}def f(x):\n    {line.replace('DEVICE', repr('cpu'))}\n")
    assert check(f"{file}:f", ["x=4×3"], sandboxed=False).verdict is Verdict.ERROR
