"""Indices whose bounds change from round to round are not taken for the first ones."""

import pytest
from checking import told

from sparsam.shapes import program
from sparsam.shapes.checker import Tensor, check_callable
from sparsam.shapes.verdict import Verdict

LINES = """
import torch


def run(x):
    table = torch.nn.Embedding(64, 8)
    place = torch.zeros(1, dtype=torch.long)
    for _ in range(x.shape[0]):
        table(place)
        place = place {change}
"""


@pytest.mark.parametrize(("change", "verdict"), [("+ 1", Verdict.UNKNOWN), ("* 1", Verdict.PROVED)])
def test_place_in_a_table_of_any_round(change, verdict, tmp_path):
    """Counted up it leaves the table in the 65th round, and is not proved; where it stays, it is."""
    path = tmp_path / f"rounds_{verdict.value}.py"
    path.write_text(LINES.format(change=change))
    module = program.load(path.stem, str(path))
    report = check_callable(module.run, {"x": Tensor(("B", 3))}, own=lambda file: file == str(path))
    assert report.verdict is verdict, told(report)
