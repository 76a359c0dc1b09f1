"""Reading programs, notebooks and arguments: what is understood, and what is refused and how."""

import json
import os
import random
import sysconfig
import time
from pathlib import Path

import pytest
from source_mutations import mutate

from sparsam.errors import Refused
from sparsam.shapes import text
from sparsam.shapes.source import Limits, Program, parse_argument, parse_arguments, read


def refusal(target, **options):
    """The refusal of a target: code and text."""
    with pytest.raises(Refused) as caught:
        read(str(target), **options)
    assert "Traceback" not in str(caught.value)
    return caught.value.code, str(caught.value)


def write(folder, **files):
    """Files by name, two underscores for a dot, three for a slash."""
    for name, content in files.items():
        path = folder / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def notebook(*cells, language="python"):
    """A notebook of code cells."""
    return json.dumps(
        {
            "metadata": {"kernelspec": {"language": language}},
            "cells": [{"cell_type": "markdown", "source": "# a"}]
            + [{"cell_type": "code", "source": cell} for cell in cells],
        }
    )


def test_script_runs_from_its_own_folder(tmp_path):
    """A script is `__main__`, its folder comes first in the path, its own modules are found."""
    write(tmp_path, train__py="import net\nnet.go()\n", net__py="import torch\n", other__py="x = 1\n")
    program = read("train.py", folder=tmp_path)
    assert (program.kind, program.module, program.entry) == ("script", "__main__", "")
    assert program.root == tmp_path
    assert program.files == (tmp_path / "train.py", tmp_path / "net.py")
    assert program.tensors == "yes"
    assert program.source_line(tmp_path / "net.py", 1) == "import torch"
    assert program.source_line(tmp_path / "net.py", 7) == ""
    assert program.where(tmp_path / "net.py", 1) == ("net.py", 1)
    assert program.owns(tmp_path / "other.py")
    assert not program.owns("/usr/lib/python3/os.py")
    assert not program.owns(tmp_path / ".venv" / "lib" / "site-packages" / "torch" / "nn.py")


def test_package_and_module_are_found_by_their_names(tmp_path):
    """A folder with `__main__.py`, a dotted module, and a function of one keep their package's root and name."""
    write(
        tmp_path,
        pkg___net__py="import torch\ndef main(): pass\nclass Net(torch.nn.Module): pass\nclass Plain:\n def f(self): pass\n",
    )
    (tmp_path / "pkg/__init__.py").write_text("")
    (tmp_path / "pkg/__main__.py").write_text("from .net import main\nmain()\n")
    program = read("pkg", folder=tmp_path)
    assert (program.kind, program.module, program.root) == ("package", "pkg.__main__", tmp_path)
    assert program.tensors == "yes"
    for target in ("pkg.net:main", "pkg/net.py:main", "pkg.net:Net.forward", "pkg.net:Plain.f"):
        program = read(target, folder=tmp_path)
        assert (program.kind, program.module, program.root) == ("function", "pkg.net", tmp_path)
        assert program.entry == target.rpartition(":")[2]
    with pytest.raises(Refused, match="did you mean main") as caught:
        read("pkg.net:mian", folder=tmp_path)
    assert caught.value.code == "no-such-function"
    with pytest.raises(Refused, match="Plain.g"):
        read("pkg.net:Plain.g", folder=tmp_path)


def test_installed_module_owns_its_package_only():
    """Checking a module of site-packages does not make everything there the program's."""
    program = read("numpy.linalg._linalg:solve")
    folder = program.root
    assert folder.name == "site-packages"
    assert program.owns(folder / "numpy" / "linalg" / "_linalg.py")
    assert not program.owns(folder / "torch" / "nn" / "modules" / "linear.py")


def test_own_folder_may_be_called_lib(tmp_path):
    """A folder named lib is the program's, an environment in it is not."""
    write(tmp_path, train__py="from lib.net import a\n", lib___net__py="import torch\n")
    program = read("train.py", folder=tmp_path)
    assert program.tensors == "yes"
    assert program.owns(tmp_path / "lib" / "net.py")
    assert not program.owns(tmp_path / "env" / "lib" / "python3.11" / "os.py")
    assert not program.owns(tmp_path / "env" / "lib" / "python3.11" / "site-packages" / "torch" / "nn.py")


def test_program_goes_through_json(tmp_path):
    """What the child is sent gives the same program back."""
    write(tmp_path, a__ipynb=notebook("import torch\n%time x\n", "y = 1"))
    program = read("a.ipynb", folder=tmp_path)
    assert Program.from_json(json.loads(json.dumps(program.to_json()))) == program


def test_notebook_keeps_lines_and_cells(tmp_path):
    """Magics and commands are left out, strings that look like them are not, and every line knows its cell."""
    write(
        tmp_path,
        a__ipynb=notebook(
            "%matplotlib inline\nimport torch\n!pip install \\\n  nothing\nfiles = !ls",
            ["%%bash\n", "rm -rf /\n"],
            "%%time\nif True:\n    !ls\ns = '''\n%d items\n!x\n'''\nt = (3\n % 2)\nu = 7 \\\n  % 4\ntorch.nn?",
        ),
    )
    program = read("a.ipynb", folder=tmp_path)
    lines = program.text.split("\n")
    assert lines[:5] == ["", "import torch", "", "", "files = None"]
    assert lines[5:8] == ["", "", ""]
    assert lines[8:11] == ["", "if True:", "    pass"]
    assert lines[11:19] == ["s = '''", "%d items", "!x", "'''", "t = (3", " % 2)", "u = 7 \\", "  % 4"]
    assert lines[19] == ""
    assert program.cells == (1, 6, 9)
    assert program.where(program.file, 10) == ("a.ipynb:cell 3", 2)
    assert (5, "files = !ls") in program.dropped


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{", "notebook"),
        (b"", "notebook"),
        (b"[]", "notebook"),
        (b"[" * 100_000, "too-deep"),
        (b"\xff\xfe{}", "encoding"),
        (notebook("x", language="R").encode(), "notebook-language"),
        (notebook().encode(), "empty"),
        (b'{"cells": 3}', "notebook"),
        (b'{"cells": [{"cell_type": "code", "source": 3}]}', "notebook"),
        (notebook("def f(:").encode(), "syntax"),
        (notebook("x = '\ud800'").encode("utf-8", "surrogatepass"), "encoding"),
    ],
)
def test_broken_notebook_is_refused(tmp_path, content, code):
    """Broken JSON, another language, no code."""
    assert refusal(write(tmp_path, a__ipynb=content) / "a.ipynb")[0] == code


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"x = (\n", "syntax", "a.py:1:5: '(' was never closed"),
        (b"x = 1\ny = 2 +\n", "syntax", "y = 2 +\n"),
        (b"", "empty", "is empty"),
        (b"# nothing\n\n", "empty", "no code"),
        (b"x = '\xe4'\n", "encoding", "a.py:1: cannot be read as text (byte 0xe4 is not utf-8)"),
        (b"# coding: wrong\n", "encoding", "unknown encoding"),
        (b"# coding: hex\n61\n", "encoding", "encoding"),
        (b"\xff\xfex\x00", "encoding", "UTF-8"),
        (b"x = 1\0\n", "nul", "a.py:1: holds a NUL byte"),
        (b"-" * 100_000 + b"1\n", "too-deep", "nested deeper"),
        (b"a" + b".b" * 100_000, "too-deep", "nested deeper"),
        (b"(" * 5000, "syntax", "too many nested parentheses"),
        (b"x = " + b"9" * 5000, "syntax", "Exceeds the limit"),
        (b"x" * 100_000 + b" 1", "syntax", "invalid syntax"),
    ],
)
def test_what_is_no_python_is_refused(tmp_path, content, code, said):
    """Each with its code, its place and how to mend it."""
    found, shown = refusal(write(tmp_path, a__py=content) / "a.py")
    assert found == code
    assert said in shown
    assert len(shown) < 700


def test_encodings_are_read_as_python_does(tmp_path):
    """A cookie, a byte order mark and Windows line ends."""
    write(
        tmp_path,
        a__py="# coding: latin-1\r\nname = 'ä'\r\n".encode("latin-1"),
        b__py=b"\xef\xbb\xbfx = 1\r",
    )
    assert read("a.py", folder=tmp_path).source_line(tmp_path / "a.py", 2) == "name = 'ä'"
    assert read("b.py", folder=tmp_path).text == "x = 1\n"


def test_huge_file_is_refused_unread(tmp_path):
    """100 MB on one line: at once, by size; the limit can be set."""
    with open(tmp_path / "a.py", "wb") as file:
        file.truncate(100_000_000)
    start = time.perf_counter()
    code, said = refusal(tmp_path / "a.py")
    assert (code, time.perf_counter() - start < 0.5) == ("too-big", True)
    assert "100,000,000 bytes" in said
    write(tmp_path, b__py="x = 1\n")
    assert refusal(tmp_path / "b.py", limits=Limits(file_bytes=5))[0] == "too-big"


def test_slow_parse_is_stopped(tmp_path):
    """A file that takes longer than the limit to parse is refused."""
    write(tmp_path, a__py=b"x = 1 < 2\n" * 200_000)
    assert refusal(tmp_path / "a.py", limits=Limits(seconds=0.05))[0] == "parse-time"


def test_what_is_no_file_is_refused(tmp_path):
    """Missing files, folders without an entry, loops of links, pipes, devices, odd names."""
    write(tmp_path, train__py="x = 1", sub___other__py="x = 1")
    os.symlink("loop.py", tmp_path / "loop.py")
    os.mkfifo(tmp_path / "pipe.py")
    for target, code, said in (
        ("trian.py", "not-found", "did you mean train.py?"),
        ("train.py/x.py", "not-found", "does not exist"),
        ("sub", "no-entry", "other.py"),
        ("no.such.module:f", "not-found", "no.such.module"),
        ("loop.py", "unreadable", "leads back to itself"),
        ("pipe.py", "not-a-file", "regular"),
        ("/dev/zero", "not-a-file", "regular"),
        ("", "target", "names no program"),
        ("a\0b", "target", "names no program"),
        ("train.py:", "target", "names no function"),
        ("train.py:a b", "target", "names no function"),
        (":f", "target", "names no module"),
        ("x" * 5000, "unreadable", "too long"),
    ):
        found, shown = refusal(target, folder=tmp_path)
        assert (found, said in shown) == (code, True), (target, shown)


def test_unreadable_file_is_refused(tmp_path, monkeypatch):
    """A file without permission to read, and one on a failing disk."""
    write(tmp_path, a__py="x = 1")

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(text.os, "open", denied)
        assert refusal(tmp_path / "a.py")[0] == "unreadable"

    def failing(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(text.os, "fstat", failing)
        code, said = refusal(tmp_path / "a.py")
    assert (code, "Input/output error" in said) == ("unreadable", True)


def test_cyclic_and_broken_own_modules_are_no_obstacle(tmp_path):
    """Cycles end, a broken module leaves open what it uses."""
    write(tmp_path, a__py="import b\n", b__py="import a, c\n", c__py="def (:\n")
    program = read("a.py", folder=tmp_path)
    assert [f.name for f in program.files] == ["a.py", "b.py", "c.py"]
    assert program.tensors == "maybe"


def test_import_of_an_impossible_name_is_no_obstacle(tmp_path):
    """A name longer than a file's may be."""
    write(tmp_path, a__py=f"import torch\nimport {'x' * 5000}\nfrom .{'y' * 300} import z\n")
    assert read("a.py", folder=tmp_path).tensors == "yes"
    assert refusal(f"{'m' * 5000}:f", folder=tmp_path)[0] in ("not-found", "unreadable")


def test_program_without_tensors_is_told_so(tmp_path):
    """Only where no module of its own imports torch or what stands on it, and nothing unknown does."""
    write(tmp_path, a__py="import os, numpy\n", b__py="import something\n", c__py="from torch import nn\n")
    program = read("a.py", folder=tmp_path)
    with pytest.raises(Refused, match="no tensor code") as caught:
        program.demand()
    assert caught.value.code == "no-tensor-code"
    assert read("b.py", folder=tmp_path).tensors == "maybe"
    assert read("c.py", folder=tmp_path).tensors == "yes"


def test_script_names_the_arguments_it_needs(tmp_path):
    """argparse and click, required and positional ones, given or not."""
    write(
        tmp_path,
        a__py="""
import argparse, torch
p = argparse.ArgumentParser()
p.add_argument("-d", "--data-dir", required=True)
p.add_argument("model", choices=["bert", "vit"])
p.add_argument("rest", nargs="*")
p.add_argument("--batch-size", type=int, default=64)
p.add_argument("--cuda", action="store_true")
""",
        b__py="import click, torch\n@click.option('--width', required=True, type=int)\n@click.argument('x')\ndef f(): pass\n",
    )
    program = read("a.py", folder=tmp_path)
    assert [a.names[0] for a in program.missing([])] == ["data_dir", "model"]
    assert not program.missing(["data-dir", "model"])
    assert not program.missing(["d", "model"])
    with pytest.raises(Refused) as caught:
        program.demand(["model"])
    assert str(caught.value) == "a.py needs --data-dir; give it with --arg data_dir=…"
    by_name = {a.names[0]: a for a in program.arguments}
    assert by_name["batch_size"].default == "64"
    assert by_name["batch_size"].type == "int"
    assert not by_name["cuda"].takes_value
    assert by_name["model"].example == "model=bert"
    assert [a.names[0] for a in read("b.py", folder=tmp_path).missing([])] == ["width", "x"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("batch_size=1..512", {"kind": "range", "low": 1, "high": 512}),
        ("--batch-size=-2..", {"kind": "range", "low": -2, "high": None}),
        ("h=..7", {"kind": "range", "low": None, "high": 7}),
        ("batch_size=64", {"kind": "number", "number": 64}),
        ("lr=1e-3", {"kind": "number", "number": 0.001}),
        ("data=N×3×H×W", {"kind": "tensor", "sizes": ("N", 3, "H", "W"), "dtype": "", "device": ""}),
        ("data=Nx3xH1", {"kind": "tensor", "sizes": ("N", 3, "H1")}),
        ("data=n * 3", {"kind": "tensor", "sizes": ("n", 3)}),
        (
            "data = N × 3:float32 @ cuda:1",
            {"kind": "tensor", "sizes": ("N", 3), "dtype": "float32", "device": "cuda:1"},
        ),
        ("ids=T:int64", {"kind": "tensor", "sizes": ("T",), "dtype": "int64"}),
        ("x=():bool", {"kind": "tensor", "sizes": (), "dtype": "bool"}),
        ("dims=(B,T)", {"kind": "sizes", "sizes": ("B", "T")}),
        ("dims=(B,)", {"kind": "sizes", "sizes": ("B",)}),
        ("flag", {"kind": "flag"}),
        ("name=text", {"kind": "text", "text": "text"}),
        ("name='1..3'", {"kind": "text", "text": "1..3"}),
        ("arch=resnext50", {"kind": "text"}),
        ("where=a/../*.py", {"kind": "text"}),
        ("url=http://h:80", {"kind": "text"}),
        ("x=nan", {"kind": "text"}),
    ],
)
def test_argument_is_understood(given, expected):
    """Each form of `--arg`."""
    found = parse_argument(given)
    assert {key: getattr(found, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "no name"),
        ("=3", "no name"),
        ("a b=3", "'a b' is no name"),
        ("x=", "no value"),
        ("x='a", "not closed"),
        ("x=5..1", "empty"),
        ("x=..", "needs a bound"),
        ("x=1..a", "'a' is no integer"),
        ("x=1...5", "'.5' is no integer"),
        ("x=1.5..2", "'1.5' is no integer"),
        ("x=N××3", "a size is missing"),
        ("x=N×-3", "negative"),
        ("x=N×3.5", "'3.5' is no size"),
        ("x=(B,T", "not closed"),
        ("x=N×3:float33", "no dtype"),
        ("x=N×3@gpu", "no device"),
        ("x=" + "×".join("N" * 65), "65 dimensions"),
        ("x=9223372036854775808", "64 bits"),
        ("x=1.." + "9" * 5000, "64 bits"),
    ],
)
def test_malformed_argument_says_what_is_wrong(given, said):
    """Each malformed form, with the piece."""
    with pytest.raises(Refused) as caught:
        parse_argument(given)
    assert caught.value.code == "argument"
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


def test_argument_given_twice_is_refused():
    """Not the last one silently."""
    assert set(parse_arguments(["a=1", "b"])) == {"a", "b"}
    with pytest.raises(Refused, match="twice"):
        parse_arguments(["a=1", "a=2"])


def test_any_text_is_an_argument_or_refused():
    """3,000 random texts of what means something: each an argument, or a short refusal."""
    drawn = random.Random(3)
    pieces = [
        "a",
        "N",
        "B1",
        "=",
        "..",
        "1",
        "-2",
        "0.5",
        "×",
        "x",
        "*",
        ":",
        "@",
        "(",
        ")",
        ",",
        "[",
        "]",
        "'",
        "float32",
    ]
    pieces += ["cuda", " ", "--", "\0", "π", "9" * 30, "1e5", ".", "/"]
    kinds, longest = set(), 0
    for _ in range(3_000):
        given = drawn.choice(["", "a=", "a=1..", "data=N×", "dims=(B"]) + "".join(
            drawn.choices(pieces, k=drawn.randrange(9))
        )
        try:
            kinds.add(parse_argument(given).kind)
        except Refused as refused:
            kinds.add(refused.code)
            longest = max(longest, len(str(refused)))
    assert longest < 400
    assert kinds == {"argument", "range", "number", "tensor", "sizes", "text", "flag"}


def sweep(folder, count, seed):
    """Read mutated sources; the slowest, and how often each outcome."""
    drawn = random.Random(seed)
    library = Path(sysconfig.get_paths()["stdlib"])
    pool = [*sorted(Path(text.__file__).parent.glob("*.py")), *sorted(library.glob("*.py"))]
    pool = [path for path in pool if path.stat().st_size < 24_000]
    sources = [path.read_bytes() for path in drawn.sample(pool, min(len(pool), 120))]
    cells = [notebook(data.decode("utf-8", "replace")).encode() for data in sources[:20]]
    outcomes: dict[str, int] = {}
    slowest = 0.0
    for at in range(count):
        suffix, bases = (".ipynb", cells) if at % 20 == 0 else (".py", sources)
        path = folder / f"m{suffix}"
        path.write_bytes(mutate(drawn.choice(bases), drawn.choice(sources), drawn))
        start = time.perf_counter()
        try:
            read(str(path), limits=Limits(files=20))
            outcome = "read"
        except Refused as refused:
            outcome = refused.code
        slowest = max(slowest, time.perf_counter() - start)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return slowest, outcomes


def test_mutated_sources_never_crash_the_reader(tmp_path):
    """1,500 damaged files: read or refused, each within 5 s."""
    slowest, outcomes = sweep(tmp_path, 1_500, seed=1)
    assert slowest < 5
    assert {"read", "syntax"} <= set(outcomes)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_mutated_sources_never_crash_the_reader(tmp_path, record_property):
    """20,000 damaged files: read or refused, each within 5 s."""
    slowest, outcomes = sweep(tmp_path, 20_000, seed=2)
    record_property("outcomes", outcomes)
    print(f"slowest {slowest:.2f} s, {outcomes}")  # noqa: T201
    assert slowest < 5
    assert {"read", "syntax", "too-deep", "encoding", "nul"} <= set(outcomes)


COMMANDS = """
import argparse, torch

def common(parser):
    parser.add_argument("--seed", type=int, required=True)

p = argparse.ArgumentParser()
p.add_argument("--device", default="cpu")
p.add_argument("root")
commands = p.add_subparsers(dest="task", required=True)
q = commands.add_parser("train")
q.add_argument("--batch-size", dest="batch", type=int, required=True)
group = q.add_argument_group("paths")
group.add_argument("--out", required=True)
common(q)
inner = q.add_subparsers(dest="how")
inner.add_parser("fast").add_argument("steps", type=int)
q = commands.add_parser("eval")
q.add_argument("--batch-size", dest="batch", type=int)
q.add_argument("--model", required=True)
args = p.parse_args()
"""


def test_only_the_chosen_sub_command_s_arguments_are_needed(tmp_path):
    """Of argparse's sub-parsers, those on the way, also where a function of the module fills them in."""
    write(tmp_path, a__py=COMMANDS)
    program = read("a.py", folder=tmp_path)
    assert program == type(program).from_json(program.to_json())

    def missing(*given):
        return [a.names[0] for a in program.missing(parse_arguments(given))]

    assert missing() == ["root", "task"]
    assert missing("root=.", "task=eval") == ["model"]
    assert missing("root=.", "task=train", "out=x") == ["seed", "batch"]
    assert missing("root=.", "task=train", "out=x", "seed=1", "batch-size=2", "how=fast") == ["steps"]
    (task,) = [a for a in program.arguments if a.names == ("task",)]
    assert task.choices == ("train", "eval") and task.example == "task=train"
    with pytest.raises(Refused) as caught:
        program.demand(parse_arguments(["root=."]))
    assert str(caught.value) == "a.py needs the argument task; give it with --arg task=train"
