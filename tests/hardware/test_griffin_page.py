"""The page on Griffin: its code runs, its table of hardware is what the formulas give."""

import re
from pathlib import Path

from sparsam.hardware.borrowing import Point, resources

PAGE = Path(__file__).parent.parent.parent / "docs" / "hardware" / "griffin.md"


def test_code_of_the_page_runs(capsys):
    """The Python block runs as it stands, and says what its comments say."""
    (block,) = re.findall(
        r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    exec(compile(block, str(PAGE), "exec"), {})
    said = capsys.readouterr().out
    point, speedup = said.splitlines()[0].rsplit(" ", 1)
    assert point == "AB(2,0,0,2,0,1,on)" and 2.2 < float(speedup) < 2.8


def test_hardware_of_the_page_is_that_of_the_formulas():
    """Each row that names a point gives its buffers, multiplexers and trees."""
    rows = re.findall(
        r"^\| (AB?\([\d,]+\)|B\([\d,]+\)) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$",
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert len(rows) == 3
    for name, *numbers in rows:
        found = resources(Point.parse(name))
        stated = (found.a_buffer, found.b_buffer, found.a_mux, found.b_mux, found.adder_trees)
        assert tuple(int(x) for x in numbers) == stated, name
