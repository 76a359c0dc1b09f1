"""Every diagnostic says what is wrong with its own example, and nothing about the mended one."""

import pytest
import recording  # tests/shapes/recording.py

from sparsam.shapes.diagnose import RULES, explain_failure
from sparsam.shapes.verdict import Failure, Operand, Place, Symbol

SYMBOLIC = {"last-batch"}


@pytest.mark.parametrize("code", RULES)
def test_example_fails_where_it_says_and_gets_its_own_code(code):
    """The first block of the docstring fails on the marked line in eager torch, and is diagnosed with the rule's code."""
    bad, _ = RULES[code].examples
    failure = recording.run(bad, {})
    assert failure is not None, "the example runs"
    assert failure.place.source.rstrip().endswith("# here"), failure
    answer = explain_failure(failure, {})
    if code not in SYMBOLIC:
        assert answer[0] == code, (answer, failure)


@pytest.mark.parametrize("code", RULES)
def test_mended_example_runs(code):
    """The second block runs."""
    _, good = RULES[code].examples
    assert recording.run(good, {}) is None


def failing_view(first: str) -> Failure:
    """A batch of this size viewed as one of B samples."""
    operands = (
        Operand("self", "tensor", (first, "3"), "float32", "cpu"),
        Operand("", "shape", ("B", "1", "3")),
    )
    text = "shape '[B, 1, 3]' is invalid for input of size 3"
    return Failure(
        "torch.Tensor.view", "RuntimeError", text, operands, (Place("a.py", 3, source="batch.view(B, 1, 3)"),)
    )


LOADED = Symbol("v0", 0, None, "value", "index of a sample")
LAST = Symbol("m", 0, None, "size", "size of the last batch")


@pytest.mark.parametrize(
    ("first", "symbols", "conditions", "code"),
    [
        ("Mod(N, B)", (), (), "last-batch"),
        ("m", (LAST,), (), "last-batch"),
        ("2", (LOADED,), ("N % B > 0",), "last-batch"),
        ("2", (), ("N % B > 0",), "view-numel"),
        ("2", (LOADED,), ("N % 7 > 0",), "view-numel"),
        ("2", (LOADED,), (), "view-numel"),
        ("N", (LOADED,), ("N % B > 0",), "view-numel"),
    ],
)
def test_last_batch_is_told_from_other_sizes(first, symbols, conditions, code):
    """A remainder, a symbol that says so, or a settled size equal to the remainder of loaded samples; nothing else."""
    answer = explain_failure(failing_view(first), {"N": 10, "B": 4, "m": 2}, None, symbols, conditions)
    assert answer[0] == code, answer
    assert code != "last-batch" or "= 2 samples" in answer[1]


@pytest.mark.parametrize(
    ("asked", "shape", "caret"),
    [
        (("B", "T", "512"), ("B", "12", "T", "64"), "12·64 = 768 per token, 512 asked"),
        (("B", "512"), ("B", "12", "64"), "12·64 = 768 per sample, 512 asked"),
        (("K", "512"), ("K", "12", "64"), "12·64 = 768, 512 asked"),
        (
            ("B", "100"),
            ("B", "16", "S//2", "S//2"),
            "16·(S//2)·(S//2) per sample, 100 asked",
        ),
    ],
)
def test_view_counts_what_the_sides_do_not_share(asked, shape, caret):
    """Factors of both sides are left out; they are named where their names say what they are."""
    operands = (Operand("self", "tensor", shape), Operand("size", "shape", asked))
    failure = Failure(
        "torch.Tensor.view", "RuntimeError", "", operands, (Place("a.py", 1, source="x.view(s)"),)
    )
    assert explain_failure(failure, {"B": 2, "T": 2, "S": 8, "K": 3})[:3:2] == ("view-numel", caret)


def test_settings_of_a_module_are_read_as_printed():
    """What a module prints of itself gives the sizes that it expects."""
    operands = (
        Operand("input", "tensor", ("B", "N", "S", "S"), "float32", "cpu"),
        Operand("self.weight", "tensor", ("8", "5", "3", "3"), "float32", "cpu"),
        Operand("self", "other", text="Conv2d(5, 8, kernel_size=(3, 3), stride=(1, 1))"),
    )
    text = "Given groups=1, weight of size [8, 5, 3, 3], expected input[B, N, S, S] to have 5 channels, but got N channels"
    failure = Failure(
        "torch.nn.Conv2d", "RuntimeError", text, operands, (Place("a.py", 1, source="conv(x)"),)
    )
    code, message, caret, _ = explain_failure(failure, {"B": 1, "N": 7, "S": 9})
    assert (code, caret) == ("conv-channels", "N channels, 5 asked")
    assert message == "channels of (B, N, S, S) for Conv2d: got N, expected 5"
