"""How failures are told: in symbols, with the input's shape, and confirmed by any exception of the framework there."""

import pytest

from sparsam.shapes.check import check
from sparsam.shapes.places import Places
from sparsam.shapes.verdict import Verdict

HEAD = "import numpy as np\nimport torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n"


@pytest.fixture
def finding(tmp_path):
    """The only finding of a function of one line: `finding("line", "x=N×3", …)`."""

    def run(line: str, *arguments: str):
        file = tmp_path / "piece.py"
        file.write_text(f"{HEAD}def f(x):\n    {line}\n")
        report = check(f"{file}:f", list(arguments), sandboxed=False)
        assert report.verdict is Verdict.ERROR, report
        (found,) = report.findings
        assert found.confirmed
        return found

    return run


def test_message_keeps_the_symbols_where_the_witness_is_small(finding):
    """The batch is told by its name although the smallest witness has one."""
    found = finding("return x.view(x.shape[0], 4)", "x=B×10", "B=1..64")
    assert "(B, 10)" in found.message
    assert found.witness["B"] == 1


@pytest.mark.parametrize(
    ("line", "argument"),
    [
        ("return nn.LSTM(5, 2)(x)", "x=B×7×4"),
        ("return nn.BatchNorm2d(5)(x)", "x=B×5"),
    ],
)
def test_layers_that_refuse_in_python_show_their_input(finding, line, argument):
    """The input is among the operands where no function of the framework failed inside."""
    found = finding(line, argument, "B=2..9")
    tensors = [o for o in found.failure.operands if o.kind == "tensor" and not o.name.startswith("self")]
    assert tensors and tensors[0].shape[0] == "B"


def test_another_exception_at_the_same_place_confirms(finding):
    """NumPy refuses plain sizes with another class than the checker's arrays; its own is told."""
    found = finding("return np.zeros((x.shape[0], 3)) + np.zeros((x.shape[0], 4))", "x=N×2", "N=2..9")
    assert found.failure.error == "ValueError"


def test_an_error_of_the_framework_inside_a_rule_is_no_crash(finding):
    """A kernel larger than the picture, found inside of a hand-written rule, is told as what it is."""
    found = finding("return F.unfold(x, 5)", "x=N×1×3×3", "N=1..9")
    assert found.failure.error == "RuntimeError"


def test_an_error_of_a_layer_that_is_not_implemented_for_a_rank_is_found(finding):
    """`interpolate` says NotImplementedError of real tensors as well."""
    found = finding("return F.interpolate(x, scale_factor=2, mode='bilinear')", "x=N×3×16", "N=1..9")
    assert found.failure.error == "NotImplementedError"


def test_equal_functions_of_two_files_have_their_own_places():
    """Pieces of code are equal whatever file they are in."""
    places = Places(lambda file: True, lambda file, line: "    return x[at]")
    text = "def item(x, at):\n    return x[at]\n"
    one, other = (compile(text, file, "exec").co_consts[0] for file in ("one.py", "other.py"))
    assert one == other
    assert [places.of(code, 4, 2).file for code in (one, other, one)] == ["one.py", "other.py", "one.py"]
