"""What a program did to files is what it finds afterwards, as on a disk, and nothing of it is on the disk."""

import os

import pytest

from sparsam.shapes.check import check
from sparsam.shapes.verdict import Verdict

# Each of them runs to its end on a real disk, in an empty folder.
RIGHT = {
    "written": "open('a.txt', 'w').write('ab')\nassert os.path.isfile('a.txt') and open('a.txt').read() == 'ab'",
    "while it is open": "file = open('a.txt', 'w')\nassert os.path.exists('a.txt')",
    "added to": "open('a.txt', 'w').write('a')\nopen('a.txt', 'a').write('b')\nassert open('a.txt').read() == 'ab'",
    "removed": "open('a.txt', 'w').close()\nos.remove('a.txt')\nassert not os.path.exists('a.txt')",
    "removed twice": "open('a.txt', 'w').close()\nos.remove('a.txt')\ntry:\n    os.remove('a.txt')\n"
    "    assert False\nexcept FileNotFoundError:\n    pass",
    "read when it is gone": "open('a.txt', 'w').close()\nos.remove('a.txt')\ntry:\n    open('a.txt')\n    assert False\n"
    "except FileNotFoundError:\n    pass",
    "moved": "open('a.txt', 'w').write('ab')\nos.rename('a.txt', 'b.txt')\n"
    "assert not os.path.exists('a.txt') and open('b.txt').read() == 'ab'",
    "copied": "open('a.txt', 'w').write('ab')\nshutil.copy('a.txt', 'b.txt')\n"
    "assert open('a.txt').read() == open('b.txt').read() == 'ab'",
    "copied into a folder": "os.mkdir('to')\nopen('a.txt', 'w').write('ab')\nshutil.copy('a.txt', 'to')\n"
    "assert open('to/a.txt').read() == 'ab'",
    "folders": "os.makedirs('a/b/c')\nassert os.path.isdir('a/b') and not os.path.isfile('a/b')\n"
    "os.makedirs('a/b/c', exist_ok=True)\ntry:\n    os.mkdir('a')\n    assert False\nexcept FileExistsError:\n    pass",
    "listed": "os.makedirs('a/b')\nopen('a/c.txt', 'w').close()\nopen('a/d.txt', 'w').close()\nos.remove('a/d.txt')\n"
    "assert sorted(os.listdir('a')) == ['b', 'c.txt']",
    "a folder removed": "os.makedirs('a/b')\nopen('a/b/c.txt', 'w').close()\nshutil.rmtree('a')\n"
    "assert not os.path.exists('a/b/c.txt') and not os.path.exists('a')",
    "a folder moved": "os.makedirs('a/b')\nopen('a/b/c.txt', 'w').write('ab')\nos.rename('a', 'd')\n"
    "assert open('d/b/c.txt').read() == 'ab' and not os.path.exists('a/b')",
    "made again": "open('a.txt', 'w').close()\nos.remove('a.txt')\nopen('a.txt', 'w').close()\nassert os.path.exists('a.txt')",
    "paths": "at = pathlib.Path('a') / 'b.txt'\nat.parent.mkdir(parents=True)\nat.touch()\nassert at.is_file()\n"
    "at.write_text('ab')\nassert at.read_text() == 'ab'\nat.rename('c.txt')\nassert not at.exists()\n"
    "pathlib.Path('c.txt').unlink()\npathlib.Path('c.txt').unlink(missing_ok=True)\nassert not os.path.lexists('c.txt')",
    "moved when it is gone": "open('a.txt', 'w').close()\nos.remove('a.txt')\ntry:\n    os.rename('a.txt', 'b.txt')\n"
    "    assert False\nexcept FileNotFoundError:\n    pass",
    "states": "torch.save({'w': torch.zeros(2)}, 'a.pt')\nassert os.path.exists('a.pt')\n"
    "os.replace('a.pt', 'b.pt')\nassert torch.load('b.pt')['w'].shape == (2,) and not os.path.exists('a.pt')",
    "checkpoints": "os.makedirs('runs', exist_ok=True)\nfor epoch in range(4):\n"
    "    torch.save({'epoch': epoch}, f'runs/{epoch}.pt')\n    if epoch > 1:\n        os.remove(f'runs/{epoch - 2}.pt')\n"
    "assert sorted(os.listdir('runs')) == ['2.pt', '3.pt']",
    "entries": "os.makedirs('a/c')\nopen('a/b.txt', 'w').close()\nopen('a/d', 'w').close()\nos.remove('a/d')\n"
    "with os.scandir('a') as inside:\n    found = [(entry.name, entry.path, entry.is_dir()) for entry in inside]\n"
    "assert sorted(found) == [('b.txt', 'a/b.txt', False), ('c', 'a/c', True)]",
    "walked": "os.makedirs('a/b')\nopen('a/b/c.txt', 'w').close()\n"
    "assert [(at, folders, names) for at, folders, names in os.walk('a')] == [('a', ['b'], []), ('a/b', [], ['c.txt'])]",
    "found by a pattern": "os.makedirs('a', exist_ok=True)\nfor n in range(3):\n    open(f'a/x_{n}.pt', 'w').close()\n"
    "open('a/y.pt', 'w').close()\nfor path in glob.glob('a/x_*'):\n    if path != 'a/x_2.pt':\n        os.remove(path)\n"
    "assert sorted(glob.glob('a/*')) == ['a/x_2.pt', 'a/y.pt'] and glob.glob('**/*.pt', recursive=True)",
}  # fmt: skip
# What these look at is not modelled, and said to be so.
UNKNOWN = {
    "size": "open('a.txt', 'w').write('ab')\nassert os.path.getsize('a.txt') == 3",
    "folder that is not there": "for at, _, names in os.walk('nowhere'):\n    pass",
    "bytes of a state": "torch.save(torch.zeros(2), 'a.pt')\nassert not open('a.pt', 'rb').read()",
}
HEAD = "import glob\nimport os\nimport pathlib\nimport shutil\nimport torch\n\n"


@pytest.mark.parametrize("name", RIGHT)
def test_a_run_finds_what_it_did(name, tmp_path, monkeypatch):
    """As on the disk, and the disk is as it was."""
    held(name, tmp_path, monkeypatch, sandboxed=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paths", "checkpoints", "a folder moved", "found by a pattern"])
def test_a_run_in_the_sandbox_finds_what_it_did(name, tmp_path, monkeypatch):
    """Where files of other kinds are kept in memory, too."""
    held(name, tmp_path, monkeypatch, sandboxed=True)


def held(name, tmp_path, monkeypatch, *, sandboxed):
    """Checks a program, and then runs it."""
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "program.py"
    program.write_text(f"{HEAD}{RIGHT[name]}\n")
    report = check(str(program), [], sandboxed=sandboxed)
    assert report.verdict is Verdict.PROVED, (report.findings, report.unknowns)
    assert os.listdir(tmp_path) == ["program.py"]
    exec(compile(program.read_text(), str(program), "exec"), {})


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_modelled_is_unknown(name, tmp_path, monkeypatch):
    """Not proved, and no error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text(f"{HEAD}{UNKNOWN[name]}\n")
    report = check(str(tmp_path / "program.py"), [], sandboxed=False)
    assert report.verdict is Verdict.UNKNOWN, report.findings
    assert {unknown.code for unknown in report.unknowns} == {"missing-file"}
