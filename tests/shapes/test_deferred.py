"""The framework's compiler is not loaded for programs that do not name it, and is there for those that do."""

import subprocess
import sys

import pytest

from sparsam.shapes import deferred
from sparsam.shapes.check import check
from sparsam.shapes.verdict import Verdict

LOADED = '"torch._dyn" + "amo.eval_frame" in sys.modules'
PROGRAMS = {
    "not named": (f"assert not ({LOADED})\n", Verdict.PROVED),
    "a decorator of the framework's": (
        "model = torch.nn.Linear(3, 3)\n"
        "optimizer = torch.optim.AdamW(model.parameters())\n"
        "model(x).sum().backward(); optimizer.step(); optimizer.zero_grad()\n"
        "@torch.compiler.disable\n"
        "def f(y): return y.view(7)\n"
        f"assert not ({LOADED})\n"
        "f(x)\n",
        Verdict.ERROR,
    ),
    "named": (
        "import torch._dynamo.eval_frame\n"
        "torch._dynamo.reset()\n"
        "@torch._dynamo.disable(recursive=False)\n"
        "def f(y): return y.view(6)\n"
        "f(x)\n",
        Verdict.PROVED,
    ),
    "named and missing": ("torch._dynamo.nothing\n", Verdict.ERROR),
    "hidden": (
        "import importlib\n"
        "module = importlib.import_module('torch._' + 'dynamo.eval_frame')\n"
        "module.OptimizedModule\n"
        "x.view(6)\n",
        Verdict.PROVED,
    ),
    "hidden, and an error": (
        "getattr(getattr(torch, '_dyn' + 'amo'), 'optimize')\nx.view(7)\n",
        Verdict.ERROR,
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_verdict_is_the_same(name, tmp_path):
    """Whether the compiler waits or not."""
    body, verdict = PROGRAMS[name]
    file = tmp_path / "train.py"
    file.write_text(f"import sys\nimport torch\nx = torch.zeros(2, 3)\n{body}")
    report = check(str(file))
    assert report.verdict is verdict, (report.findings, report.unknowns)
    assert not report.unknowns
    if verdict is Verdict.ERROR:
        (finding,) = report.findings
        assert finding.failure.error == ("AttributeError" if "nothing" in body else "RuntimeError")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import torch\nimport re\nre.compile('a')\n", False),
        ("model = torch.compile(model)\n", True),
        ("import torch._dynamo\n", True),
        ("from transformers import BertModel\n", True),
        ("torch.export.export(model, ())\n", True),
    ],
)
def test_sources_that_may_use_it(text, expected):
    """Told by words: what these miss is found when it is asked for."""
    assert deferred.named(["x = 1\n", text]) is expected


def test_what_is_loaded_stays():
    """Where the compiler is there already nothing waits."""
    code = (
        "import sys, torch, torch._dynamo\nbefore = torch._dynamo\nfrom sparsam.shapes import deferred\n"
        "deferred.defer()\nassert torch._dynamo is before is sys.modules['torch._dynamo']\n"
        "assert deferred._Finder not in sys.meta_path\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
