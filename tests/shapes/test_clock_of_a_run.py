"""A clock that stands still is a datetime like any other to a program."""

import pytest

from sparsam.shapes.check import check
from sparsam.shapes.verdict import Verdict

# Each of them runs to its end with the real clock, too.
RIGHT = {
    "kinds": "now = datetime.datetime.now()\nassert isinstance(now, datetime.datetime) and isinstance(now, datetime.date)\n"
    "assert not isinstance(datetime.date(2026, 1, 2), datetime.datetime)",
    "real ones": "made = datetime.datetime.strptime('2026', '%Y')\nassert isinstance(made, datetime.datetime)\n"
    "assert isinstance(made + datetime.timedelta(1), datetime.datetime)",
    "derived": "class Mine(datetime.datetime):\n    pass\nassert issubclass(Mine, datetime.datetime)\n"
    "assert not isinstance(datetime.datetime.now(), Mine) and isinstance(Mine(2026, 1, 2), Mine)\n"
    "assert not issubclass(datetime.date, datetime.datetime)",
    "zones": "now = datetime.datetime.now(datetime.timezone.utc)\nassert now.tzinfo is not None\n"
    "assert datetime.datetime.now().tzinfo is None\n"
    "assert datetime.datetime.utcnow().tzinfo is None and datetime.datetime.today() >= datetime.datetime(2026, 1, 1)",
    "texts": "assert time.strftime('%Y') == time.strftime('%Y', time.localtime()) == datetime.datetime.now().strftime('%Y')\n"
    "assert time.ctime() and time.localtime(0).tm_year < 2000 and time.gmtime().tm_year >= 2026",
    "names": "a, b = uuid.uuid4(), uuid.uuid4()\nassert a != b and a.version == 4\n"
    "assert len(os.urandom(5)) == 5 and tempfile.mkdtemp() != tempfile.mkdtemp()",
}  # fmt: skip
HEAD = "import datetime\nimport os\nimport tempfile\nimport time\nimport uuid\nimport torch\n\n"


@pytest.mark.parametrize("name", RIGHT)
def test_a_program_finds_what_it_would(name, tmp_path, monkeypatch):
    """Proved, and runs with the real clock."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = tmp_path / "program.py"
    program.write_text(f"{HEAD}{RIGHT[name]}\n")
    report = check(str(program), [], sandboxed=False)
    assert report.verdict is Verdict.PROVED, (report.findings, report.unknowns)
    exec(compile(program.read_text(), str(program), "exec"), {"__name__": "program"})
