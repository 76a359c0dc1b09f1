"""What a shape checker has to get right, one test each, with the verdict of the running framework."""

import textwrap

import pytest
import torch

from sparsam.shapes.check import Limits, check
from sparsam.shapes.verdict import Verdict

HEAD = """
import torch
import torch.nn as nn
import torch.nn.functional as F
"""


@pytest.fixture
def checked(tmp_path):
    """Checks a piece of program in this process: `checked(code, "f", "x=B×T")`."""

    def run(code: str, entry: str, *arguments: str, sandboxed: bool = False, **limits):
        file = tmp_path / "piece.py"
        file.write_text(HEAD + textwrap.dedent(code))
        target = f"{file}:{entry}" if entry else str(file)
        return check(target, arguments, sandboxed=sandboxed, limits=Limits(**limits))

    return run


def line_of(report) -> str:
    """The line that the only finding marks."""
    (finding,) = report.findings
    return finding.failure.place.source.strip()


BERT = """
class Attention(nn.Module):
    def __init__(self, width=48, heads=12):
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def split(self, x):
        return x.view(x.size(0), x.size(1), self.heads, self.size).permute(0, 2, 1, 3)

    def forward(self, x):
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = F.softmax(q @ k.transpose(-1, -2) / self.size**0.5, dim=-1)
        context = (scores @ v).permute(0, 2, 1, 3).contiguous()
        context = context.view(x.size(0), x.size(1), WIDTH)
        return self.out(context)


class Model(nn.Module):
    def __init__(self, positions=128, width=48, words=100):
        super().__init__()
        self.words, self.positions = nn.Embedding(words, width), nn.Embedding(positions, width)
        self.layers = nn.ModuleList(Attention(width) for _ in range(3))

    def forward(self, ids):
        x = self.words(ids) + self.positions.weight[: ids.shape[1]]
        for layer in self.layers:
            x = x + layer(x)
        return x
"""


def test_bert_with_the_hidden_size_dropped_fails_at_the_view(checked):
    """The view of the context is named with its three sizes, for a symbolic batch and length."""
    report = checked(BERT.replace("WIDTH", "32"), "Model", "ids=B×T:int64", "T=1..128")
    assert report.verdict is Verdict.ERROR
    assert "context.view(" in line_of(report)
    (finding,) = report.findings
    assert finding.code == "view-numel" and finding.confirmed
    assert "(B, T, 32)" in finding.message
    assert finding.witness["B"] >= 1 and 1 <= finding.witness["T"] <= 128


def test_corrected_bert_is_proved_for_all_batches_and_lengths(checked):
    """All B from 1 on, all T up to the number of positions."""
    report = checked(BERT.replace("WIDTH", "self.heads * self.size"), "Model", "ids=B×T:int64", "T=1..128")
    assert report.verdict is Verdict.PROVED, report


def test_bert_longer_than_its_positions_is_found(checked):
    """T = 129 does not fit 128 positions."""
    report = checked(BERT.replace("WIDTH", "self.heads * self.size"), "Model", "ids=B×T:int64", "T=1..512")
    assert report.verdict is Verdict.ERROR
    assert "self.positions.weight" in line_of(report)
    assert report.findings[0].witness["T"] > 128


LOADER = """
from torch.utils.data import DataLoader, TensorDataset

def train(n, epochs=2):
    data = TensorDataset(torch.zeros(n, 4), torch.zeros(n, dtype=torch.long))
    model = nn.Linear(4, 3)
    anchor = torch.zeros(16, 3)
    for epoch in range(epochs):
        for x, y in DataLoader(data, batch_size=16, shuffle=True, drop_last=DROP):
            loss = F.mse_loss(model(x), FIXED) + F.cross_entropy(model(x), y)
            loss.backward()
"""


def test_fixed_batch_fails_in_the_last_one(checked):
    """A loss against sixteen rows: error where the length is no multiple of sixteen."""
    code = LOADER.replace("DROP", "False").replace("FIXED", "anchor + 0 * model(x)")
    report = checked(code, "train", "n=2..1000")
    assert report.verdict is Verdict.ERROR
    assert "anchor" in line_of(report)
    assert report.findings[0].witness["n"] % 16 != 0


def test_dropping_the_last_batch_proves_it(checked):
    """With `drop_last` every batch has sixteen rows."""
    code = LOADER.replace("DROP", "True").replace("FIXED", "anchor + 0 * model(x)")
    assert checked(code, "train", "n=2..1000").verdict is Verdict.PROVED


def test_a_multiple_of_the_batch_proves_it(checked):
    """Sixty-four rows make four whole batches."""
    code = LOADER.replace("DROP", "False").replace("FIXED", "anchor + 0 * model(x)")
    assert checked(code, "train", "n=64").verdict is Verdict.PROVED


CHANNELS = """
def f(images):
    conv = nn.Conv2d(3, 8, 3)
    if images.shape[1] == 1:
        images = images.expand(-1, GREY, -1, -1)
    elif images.shape[1] != 3:
        return None
    return conv(images)
"""


def test_only_the_grey_path_is_wrong(checked):
    """The witness has one channel; three are fine."""
    report = checked(CHANNELS.replace("GREY", "4"), "f", "images=N×C×32×32", "C=1..4")
    assert report.verdict is Verdict.ERROR
    assert report.findings[0].witness["C"] == 1
    assert checked(CHANNELS.replace("GREY", "3"), "f", "images=N×C×32×32", "C=1..4").verdict is Verdict.PROVED


WEAK = {
    "a list that a loop joins": (
        "def f(x, y):\n    for _ in range(y.shape[0]):\n        x = torch.cat([x, y])\n    return x.view(-1, 2)",
        ("x=2×2", "y=A×2", "A=0..50"), Verdict.PROVED,
    ),
    "a loop that may not run at all": (
        "def f(x):\n    y = None\n    for row in range(x.shape[0]):\n        y = x[row]\n    return y.sum()",
        ("x=A×3", "A=0..50"), Verdict.ERROR,
    ),
    "what comes after a loop that does not run": (
        "def f(x):\n    for row in range(x.shape[0]):\n        x = x + 1\n    return x @ torch.zeros(4, 2)",
        ("x=A×3", "A=0..50"), Verdict.ERROR,
    ),
    "a kernel larger than the image": (
        "def f(x):\n    return nn.Conv2d(1, 4, 29)(x)", ("x=N×1×28×28", "N=1..8"), Verdict.ERROR,
    ),
    "a kernel as large as the image": (
        "def f(x):\n    return nn.Conv2d(1, 4, 28)(x)", ("x=N×1×28×28", "N=1..8"), Verdict.PROVED,
    ),
    "one broadcast with nothing": (
        "def f(x, y):\n    z = x + y\n    assert z.shape[0] == y.shape[0]\n    return z",
        ("x=1×3", "y=A×3", "A=0..50"), Verdict.PROVED,
    ),
    "the one number of a scalar": (
        "def f(x):\n    return x.sum().view(1, 1, 1).expand(x.shape[0], 1, 1)", ("x=A×3", "A=0..50"), Verdict.PROVED,
    ),
    "Python's division of negative numbers": (
        "def f(x):\n    n = (3 - x.shape[0]) // 4\n    m = (3 - x.shape[0]) % 4\n    assert 4 * n + m == 3 - x.shape[0]\n"
        "    return x.view(-1, 1)[: m + 1]",
        ("x=A:float32", "A=0..50"), Verdict.PROVED,
    ),
    "a division by nothing": (
        "def f(x):\n    return x.view(-1)[: 10 // x.shape[0]]", ("x=A:float32", "A=0..50"), Verdict.ERROR,
    ),
    "a range from its lower end": (
        "def f(x):\n    return x[:, 2]", ("x=A×B", "A=1..9", "B=3..50"), Verdict.PROVED,
    ),
    "a range below its need": (
        "def f(x):\n    return x[:, 2]", ("x=A×B", "A=1..9", "B=2..50"), Verdict.ERROR,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WEAK)
def test_known_weak_points(checked, name):
    """Where an earlier checker of this kind went wrong, the verdict is that of the framework."""
    code, arguments, verdict = WEAK[name]
    report = checked(code, "f", *arguments)
    assert report.verdict is verdict, report
    for finding in report.findings:
        assert finding.confirmed


def test_unknown_is_never_called_fine(checked):
    """A number read from data that becomes a size without a bound is unknown, with its place."""
    report = checked(
        "def f(x):\n    return torch.zeros(int(x.sum()) % 7, dtype=torch.int).numpy().tobytes()", "f", "x=3"
    )
    assert report.verdict is not Verdict.PROVED


def test_random_branches_that_change_no_shape_are_followed_once(checked):
    """Twelve coin tosses that flip an image are thirteen runs and not four thousand."""
    code = """
    def f(x):
        for _ in range(12):
            if torch.rand(()).item() < 0.5:
                x = x.flip(-1)
        return x.view(x.shape[0], -1)
    """
    report = checked(code, "f", "x=N×8", paths=80)
    assert report.verdict is Verdict.PROVED
    assert len(report.paths) <= 45


def test_an_error_behind_a_coin_is_found(checked):
    """Only one side of the coin is wrong."""
    code = """
    def f(x):
        if torch.rand(()).item() < 0.5:
            x = x[:, 1:]
        return x @ torch.zeros(8, 2)
    """
    report = checked(code, "f", "x=N×8")
    assert report.verdict is Verdict.ERROR
    assert "@ torch.zeros" in line_of(report)


def test_dtypes_are_checked_too(checked):
    """A float target of cross entropy, an index of floats."""
    report = checked("def f(x):\n    return F.nll_loss(x, torch.zeros(x.shape[0]))", "f", "x=N×5", "N=1..9")
    assert report.verdict is Verdict.ERROR
    report = checked("def f(x):\n    return nn.Embedding(5, 2)(x)", "f", "x=N×5")
    assert report.verdict is Verdict.ERROR


def test_the_program_runs_in_a_process_that_can_touch_nothing(checked, tmp_path):
    """The whole way through the sandbox: verdict, nothing written, and the printed text kept apart."""
    code = """
    import os
    model = nn.Linear(4, 2)
    print("training", model(torch.zeros(3, 4)).shape)
    torch.save(model.state_dict(), os.path.join(os.path.dirname(__file__), "model.pt"))
    """
    report = checked(code, "", sandboxed=True)
    assert report.verdict is Verdict.PROVED, report
    assert "training" in report.output
    assert [file.name for file in tmp_path.iterdir()] == ["piece.py"]


def test_witnesses_fail_in_plain_torch():
    """The view of the first test fails for real."""
    with pytest.raises(RuntimeError):
        torch.zeros(2, 5, 12, 4).view(2, 5, 32)


SIEVE = """
def f(x, rounds):
    y = x * 2
    for _ in range(rounds):
        keep = x[:, 0] > 0
        x = x[keep]
        y = y[OTHER]
    return x + y
"""


def test_sizes_that_change_together_stay_together(checked):
    """Two tensors lose the same rows in each round: their sum is proved, whatever is lost."""
    report = checked(SIEVE.replace("OTHER", "keep"), "f", "x=A×3", "rounds=0..9")
    assert report.verdict is Verdict.PROVED, report.unknowns


def test_sizes_that_part_in_a_loop_are_not_proved_equal(checked):
    """One of them loses other rows."""
    report = checked(SIEVE.replace("OTHER", "y[:, 1] > 0"), "f", "x=A×3", "rounds=0..9", paths=40)
    assert report.verdict is not Verdict.PROVED
    assert report.findings or any(unknown.code == "loop" for unknown in report.unknowns), report.unknowns
