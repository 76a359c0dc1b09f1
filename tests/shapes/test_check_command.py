"""`sparsam check` from the command line: verdicts, exit codes, forms of the report, refusals."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sparsam.cli.main import main

PAGE = Path(__file__).parent.parent.parent / "docs" / "shapes.md"
TRAIN = """\
import torch
import torch.nn as nn


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.value = nn.Linear(768, 768)

    def forward(self, x):
        batch, length, _ = x.shape
        context = self.value(x).view(batch, length, 12, 64)
        context = context * 2
        context = context.view(batch, length, 512)
        return context
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_s_example_is_what_the_command_prints(folder, capsys):
    """The finding on the page, word for word, and exit code 1; nothing is written."""
    (folder / "train.py").write_text(TRAIN)
    assert main(["check", "train.py:Attention", "--arg", "x=B×T×768"]) == 1
    printed = capsys.readouterr().out
    block = PAGE.read_text().split("```text\n")[1].split("```")[0]
    for line in block.strip().splitlines():
        assert line.rstrip() in printed, printed
    assert [file.name for file in folder.iterdir()] == ["train.py"]


def test_a_mended_program_is_proved(folder, capsys):
    """Exit code 0, and the report as JSON."""
    (folder / "train.py").write_text(TRAIN.replace("512", "768"))
    assert main(["check", "train.py:Attention", "--arg", "x=B×T×768", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "proved"
    assert document["exit_code"] == 0


def test_what_is_unknown_has_a_code_of_its_own(folder, capsys):
    """Exit code 3, or 0 where that is allowed; a finding's place is in the SARIF file."""
    (folder / "values.py").write_text(
        "import torch\n\n\ndef f(x):\n    if x.sum().item() > 0:\n        raise ValueError('too much')\n    return x\n"
    )
    assert main(["check", "values.py:f", "--arg", "x=B×3"]) == 3
    assert "own-refusal" in capsys.readouterr().out
    assert main(["check", "values.py:f", "--arg", "x=B×3", "--allow-unknown", "--format", "sarif"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == "2.1.0"


REFUSED = {
    "no such file": ("absent.py", None, "not-found"),
    "a syntax error": ("broken.py", b"import torch\nx = (\n", "syntax"),
    "no tensors": ("plain.py", b"print('hello')\n", "no-tensor-code"),
    "bytes that are no text": ("latin.py", b"import torch\nname = '\xe9'\n", "encoding"),
    "needed arguments": (
        "needy.py",
        b"import argparse, torch\np = argparse.ArgumentParser()\np.add_argument('--data', required=True)\np.parse_args()\n",
        "needs-arguments",
    ),
    "deep nesting": ("deep.py", b"import torch\nx = " + b"(" * 5000 + b")" * 5000 + b"\n", "syntax"),
    "nothing": ("empty.py", b"", "empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_checked_is_refused_by_name(folder, capsys, name):
    """Exit code 3, a code, and no traceback."""
    file, content, code = REFUSED[name]
    if content is not None:
        (folder / file).write_bytes(content)
    assert main(["check", file]) == 3
    error = capsys.readouterr().err
    assert f"[{code}]" in error and "Traceback" not in error


def test_a_needed_argument_is_named(folder, capsys):
    """A module without its tensor: which, and how to give it."""
    (folder / "train.py").write_text(TRAIN)
    assert main(["check", "train.py:Attention"]) == 3
    assert '--arg "x=' in capsys.readouterr().err


def test_an_option_that_a_script_does_not_have_is_named(folder, capsys):
    """It is the command that is wrong, and not the program; one that takes whatever it is given goes on."""
    text = "import argparse\nimport torch\n\np = argparse.ArgumentParser()\np.add_argument('--rows', type=int, default=2)\n"
    (folder / "strict.py").write_text(f"{text}torch.zeros(p.parse_args().rows)\n")
    assert main(["check", "strict.py", "--arg", "width=3"]) == 3
    said = capsys.readouterr().err
    assert "error [argument]" in said and "no option --width;" in said and "--rows" in said
    (folder / "lenient.py").write_text(f"{text}torch.zeros(p.parse_known_args()[0].rows)\n")
    assert main(["check", "lenient.py", "--arg", "width=3"]) == 0


def test_a_diagnostic_is_explained(capsys):
    """The page of a code; an unknown one is refused with those that there are."""
    assert main(["check", "--explain", "view-numel"]) == 0
    assert "view" in capsys.readouterr().out
    assert main(["check", "--explain", "no-such-code"]) != 0


def test_the_reading_side_imports_no_framework():
    """The parent process needs no torch, no z3 and no transformers, and the checker never imports transformers."""
    code = (
        "import sys, sparsam.shapes.check, sparsam.shapes.show; "
        "print([m for m in ('torch', 'z3', 'sympy', 'transformers') if m in sys.modules])"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "[]"
    code = "import sys, sparsam.shapes.checker as c; c.prepare(); print('transformers' in sys.modules)"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "False"
