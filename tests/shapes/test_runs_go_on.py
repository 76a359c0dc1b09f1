"""One run tries many ways, and what is left of the values before tells no runs apart."""

import pytest

from sparsam.shapes.check import check
from sparsam.shapes.verdict import Verdict

DRAW = """
import torch


def draw():
    return torch.randint(0, 3, ()).item()


"""
BLOCK = """
if torch.rand(()).item() > 0.5:
    x = torch.nn.functional.relu(x) + 1
x = torch.tanh(x)
"""


@pytest.mark.parametrize(("width", "verdict"), [("24", Verdict.PROVED), ("25", Verdict.ERROR)])
def test_blocks_that_may_be_left_out(width, verdict, tmp_path):
    """Twelve of them take a few runs: one that leaves a block out goes on to leave others out."""
    file = tmp_path / "blocks.py"
    file.write_text("import torch\nx = torch.zeros(4, 6)\n" + 12 * BLOCK + f"x.view({width})\n")
    report = check(str(file), [], sandboxed=False)
    assert report.verdict is verdict, report
    assert report.statistics["runs"] <= 6, report.statistics


def test_what_is_tried_further_on_is_told(tmp_path):
    """A failure that a run comes by on its way has its own place and is confirmed with numbers."""
    file = tmp_path / "blocks.py"
    lines = ["x = torch.zeros(4, 6)"]
    for block in range(8):
        shape = "23" if block == 5 else "24"
        lines += [f"if torch.rand(()).item() > 0.5:  # {block}", f"    x.view({shape})"]
    file.write_text("\n".join(["import torch", *lines]) + "\n")
    report = check(str(file), [], sandboxed=False)
    assert report.verdict is Verdict.ERROR
    assert [finding.failure.place.line for finding in report.findings] == [lines.index("    x.view(23)") + 2]
    assert all(finding.confirmed for finding in report.findings)


# Programs whose states have the same values by other ways, and one way fails: what is known of the values tells it.
SUMS = {
    "a quotient of more": """
n, m = draw(), draw()
if draw() == 1:
    part = n / 4
else:
    part = (n + m) / 4
n = m = 0
if part == 1.0:
    fail()
""",
    "twice a number": """
if draw() == 1:
    n = 2 * draw()
else:
    n = draw()
if n == 1:
    fail()
""",
    "a sum of more": """
n = draw()
if draw() == 1:
    n += draw()
if n == 4:
    fail()
""",
    "a difference": """
n = draw()
if draw() == 1:
    n -= draw()
if n == -2:
    fail()
""",
    "a remainder": """
n = draw() + draw()
if draw() == 1:
    n = n % 2
if n == 3:
    fail()
""",
    "a sum beside one of its terms": """
n = draw()
m = n
if draw() == 1:
    m += draw()
if m - n == 2:
    fail()
""",
    "in one of two batches": """
right = 0
for batch in range(draw()):
    right += draw()
if right == 4:
    fail()
""",
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_keep_what_is_known(name, tmp_path):
    """Each of them fails for some values, and is found out."""
    file = tmp_path / "sums.py"
    file.write_text(DRAW + "def fail():\n    torch.zeros(3).view(2)\n" + SUMS[name])
    report = check(str(file), [], sandboxed=False)
    assert report.verdict is Verdict.ERROR, report
    assert all(finding.confirmed for finding in report.findings)


COUNTED = (
    DRAW
    + """
from torch.utils.data import DataLoader, TensorDataset


def test(loader):
    right = seen = 0
    for batch, in loader:
        right += (batch.sum(1) > 0).sum().item()
        seen += batch.shape[0]
    return right / seen


length = torch.randint(1, 1000, ()).item()
loader = DataLoader(TensorDataset(torch.zeros(length, 3)), batch_size=8)
best = 0.0
for i in range(4):
    found = test(loader)
    if found > best:
        best = found
torch.zeros(6).view(WIDTH)
"""
)


@pytest.mark.parametrize(("width", "verdict"), [("6", Verdict.PROVED), ("5", Verdict.ERROR)])
def test_what_was_counted(width, verdict, tmp_path):
    """Batches of which some numbers are counted lead to the same state, however many there are: runs add up, in four tests."""
    file = tmp_path / "counted.py"
    file.write_text(COUNTED.replace("WIDTH", width))
    report = check(str(file), [], sandboxed=False)
    assert report.verdict is verdict, report
    assert report.statistics["runs"] <= 30, report.statistics


LAST = (
    DRAW
    + """
seen = 0
for i in ROUNDS:
    if draw() == 1:
        seen = 1
    if draw() == 1 and READ:
        torch.zeros(3).view(2)
    seen += 0
    AFTER
"""
)


@pytest.mark.parametrize(
    ("rounds", "read", "after", "verdict"),
    [
        ("(1, 2)", "seen == 1", "", Verdict.ERROR),
        ("(1, 2)", "False", "", Verdict.PROVED),
        ("(1,)", "i == 1 and seen == 1", "", Verdict.ERROR),
        ("(1, 2)", "i == 2 and seen == 1", "", Verdict.ERROR),
        ("(1, 2, 3)", "False", "if i == 3 and seen == 1:\n        torch.zeros(3).view(2)", Verdict.ERROR),
    ],
)
def test_in_the_last_round(rounds, read, after, verdict, tmp_path):
    """What only the next round would read is no state in the last one; what this one reads is."""
    file = tmp_path / "last.py"
    file.write_text(LAST.replace("ROUNDS", rounds).replace("READ", read).replace("AFTER", after))
    report = check(str(file), [], sandboxed=False)
    assert report.verdict is verdict, report


AROUND = (
    DRAW
    + """
kept = 0
again = 0
while again < 2:
    again += 1
    for i in (1, 2):
        if i == 2 and again == 1:
            if draw() == 0:
                kept = 5
            if draw() == 2:
                draw()
        elif kept == WRONG and again == 2:
            torch.zeros(3).view(2)
"""
)


@pytest.mark.parametrize("wrong", [0, 5])
def test_a_loop_that_is_come_by_again(wrong, tmp_path):
    """In the last round of a loop its variables are read once more where another loop leads back to it."""
    file = tmp_path / "around.py"
    file.write_text(AROUND.replace("WRONG", str(wrong)))
    report = check(str(file), [], sandboxed=False)
    assert report.verdict is Verdict.ERROR, report


def test_within_a_loop_over_a_generator(tmp_path):
    """A generator that is on its way, with a loop of its own, is in the same state in two runs."""
    file = tmp_path / "batches.py"
    lines = [
        "import torch",
        "def batches():",
        "    for i in (1, 2):",
        "        yield torch.zeros(4, 6)",
        "for x in batches():",
    ]
    lines += ["    " + line for line in (8 * BLOCK).splitlines() if line]
    file.write_text("\n".join(lines) + "\n")
    report = check(str(file), [], sandboxed=False)
    assert report.verdict is Verdict.PROVED, report
    assert report.statistics["runs"] <= 20, report.statistics
