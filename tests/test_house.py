"""The house rules, read from the source: who may import whom, and what may stand nowhere.

The table is that of docs/architecture.md. A part is a module or sub-package right below ``sparsam``; it imports parts
of lower rows only, not its row's neighbours. What a function imports, what stands under ``TYPE_CHECKING`` and what
``import_module("sparsam.…")`` names counts like any other import.
"""

import ast
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ROWS = (
    ("sparsam",),
    ("cli",),
    ("demo",),
    ("compress", "report", "bench"),
    ("search", "baselines"),
    ("artifact", "training"),
    ("runtime",),
    ("models", "measure", "clock"),
    ("tokens", "structure", "attention", "quantization"),
    ("packed", "plan", "task", "cost", "dropout", "native", "telemetry", "workload"),
    ("errors",),
)
MEMBERS = {
    "__init__": "sparsam",
    "__main__": "sparsam",
    "import_hook": "sparsam",
    "plugin": "artifact",
}  # file: part
TOOLS = {
    "hardware": {"workload"},
    "shapes": set(),
    "coexec": set(),
    "provenance": set(),
}  # tool: what it may import
JOIN_TOOLS = {"cli", "report"}
TORCHLESS = {"hardware", "provenance", "workload", "errors", "plan"}
DRAWERS = {"util", "utils", "helper", "helpers", "common", "misc"}
FORBIDDEN_MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec",
    "torch.load", "torch.hub.load", "torch.jit.load",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load",
    "os.system", "os.popen",
}  # fmt: skip
CLOSED_TABLES = {
    "__init__",
    "import_hook",
    "hardware.designs",
    "shapes.standins.packages",  # its own stand-ins, by the tables KNOWN, SOURCES and OWN
}  # may import a module by a name in a variable: their own constants

ROW_OF = {part: row for row, parts in enumerate(ROWS) for part in parts}


@dataclass
class Module:
    """One source file: its dotted name below ``sparsam`` (``models.lift``; ``__init__`` for the root) and tree."""

    name: str
    path: str
    tree: ast.Module
    aliases: dict[str, str] = field(default_factory=dict)  # local name: dotted name it stands for

    @property
    def part(self) -> str:
        first = self.name.partition(".")[0]
        return MEMBERS.get(first, first)


def module(name: str, source: str, path: str = "") -> Module:
    """Parse ``source`` as the module ``name``."""
    made = Module(name, path or f"sparsam/{name.replace('.', '/')}.py", ast.parse(source))
    for node in ast.walk(made.tree):
        if isinstance(node, ast.Import):
            for item in node.names:
                top = item.name.partition(".")[0]
                made.aliases[item.asname or top] = item.name if item.asname else top
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for item in node.names:
                made.aliases[item.asname or item.name] = f"{node.module}.{item.name}"
    return made


def house() -> list[Module]:
    """All modules of the package."""
    found = []
    for path in sorted((ROOT / "sparsam").rglob("*.py")):
        parts = list(path.relative_to(ROOT / "sparsam").with_suffix("").parts)
        if parts[-1] == "__init__" and len(parts) > 1:
            parts.pop()
        found.append(module(".".join(parts), path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))))
    return found


def dotted(node: ast.expr, aliases: dict[str, str]) -> str | None:
    """``t.load`` after ``import torch as t`` as ``torch.load``; None for anything but names and attributes."""
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value, aliases)
        return None if owner is None else f"{owner}.{node.attr}"
    return None


def imports(mod: Module) -> list[tuple[int, str]]:
    """Line and dotted target of every import; ``from a import b`` gives ``a.b``."""
    found = []
    for node in ast.walk(mod.tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, item.name) for item in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # ruff forbids relative imports; read them all the same
                folders = Path(mod.path).parent.parts
                base = ".".join([*folders[: len(folders) - node.level + 1], base]).rstrip(".")
            found += [(node.lineno, f"{base}.{item.name}") for item in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = dotted(node.func, mod.aliases) or ""
            if called.split(".")[-1] in ("import_module", "__import__") and isinstance(
                node.args[0].value, str
            ):
                found.append((node.lineno, node.args[0].value))
    return found


def part_imported(target: str) -> str | None:
    """The part of the house that ``target`` lies in; None for foreign modules and ``sparsam.__version__``."""
    names = target.split(".")
    if names[0] != "sparsam":
        return None
    if len(names) == 1:
        return "sparsam"
    if names[1] == "__version__":
        return None
    name = MEMBERS.get(names[1], names[1])
    return (
        name if name in ROW_OF or name in TOOLS else "sparsam"
    )  # a public name comes from the package itself


def why_not(part: str, other: str) -> str | None:
    """The rule that forbids ``part`` to import ``other``, if any."""
    if part == other or other == "errors":
        return None
    if part in TOOLS:
        return None if other in TOOLS[part] else f"the tool {part} stands alone"
    if other in TOOLS:
        return (
            None
            if part in JOIN_TOOLS
            else f"only {' and '.join(sorted(JOIN_TOOLS))} may join a tool with the stack"
        )
    if ROW_OF[part] == ROW_OF[other]:
        return f"{part} and {other} are neighbours in a row"
    if ROW_OF[part] > ROW_OF[other]:
        return f"{other} stands above {part}"
    return None


def import_findings(mod: Module) -> list[str]:
    """Imports of ``mod`` that the table forbids, as ``path:line: rule``."""
    part = mod.part
    if part not in ROW_OF and part not in TOOLS:
        return [f"{mod.path}:1: {part} has no row; give it one here and in docs/architecture.md"]
    found = []
    for line, target in imports(mod):
        other = part_imported(target)
        rule = why_not(part, other) if other is not None else None
        if rule is None and part in TORCHLESS and target.partition(".")[0] == "torch":
            rule = f"{part} imports no torch"
        if rule is not None:
            found.append(f"{mod.path}:{line}: {rule} (imports {target})")
    return found


def safety_findings(mod: Module) -> list[str]:
    """What could run code from a file: pickle and its kin, eval, exec, weak loaders, modules named by variables."""
    found = []
    for line, target in imports(mod):
        if target.partition(".")[0] in FORBIDDEN_MODULES:
            found.append(f"{mod.path}:{line}: no {target.partition('.')[0]}")
        elif target in FORBIDDEN_CALLS:
            found.append(f"{mod.path}:{line}: no {target}")
    for node in ast.walk(mod.tree):
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func, mod.aliases)
        if called in FORBIDDEN_CALLS:
            found.append(f"{mod.path}:{node.lineno}: no {called}")
        for word in node.keywords:
            value = word.value.value if isinstance(word.value, ast.Constant) else None
            if word.arg == "allow_pickle" and value is not False:
                found.append(f"{mod.path}:{node.lineno}: no allow_pickle")
            if word.arg in ("shell", "trust_remote_code") and value is not False:
                found.append(f"{mod.path}:{node.lineno}: no {word.arg}")
        by_variable = called in ("importlib.import_module", "import_module") and not (
            node.args and isinstance(node.args[0], ast.Constant)
        )
        if by_variable and mod.name not in CLOSED_TABLES:
            found.append(f"{mod.path}:{node.lineno}: no import of a module named by a variable")
    return found


def drawer_findings(mod: Module) -> list[str]:
    """Modules whose name says nothing about what is inside."""
    bad = DRAWERS.intersection(name.strip("_") for name in mod.name.split("."))
    return [f"{mod.path}:1: a drawer named {name}; name the thing inside" for name in sorted(bad)]


@pytest.mark.parametrize("rule", [import_findings, safety_findings, drawer_findings])
def test_house_keeps_its_rules(rule):
    """No module of sparsam breaks the rule."""
    found = [finding for mod in house() for finding in rule(mod)]
    assert not found, "\n" + "\n".join(found)


def test_architecture_page_shows_the_same_rows():
    """The table in docs/architecture.md is the one that is checked here."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = re.search(r"```text\n(sparsam\n.*?)```", page, re.DOTALL)
    assert table, "docs/architecture.md has no block of rows that begins with sparsam"
    shown = [tuple(line.split("beside the stack")[0].split()) for line in table.group(1).splitlines()]
    assert [row for row in shown if row] == list(ROWS)
    beside = re.search(r"beside the stack:(.*)", table.group(1))
    assert beside, "docs/architecture.md does not name the tools beside the stack"
    assert beside.group(1).split() == list(TOOLS)


@pytest.mark.parametrize(
    ("name", "source", "finding"),
    [
        ("tokens.ltp", "import torch\nfrom sparsam.models import lift", ":2: models stands above tokens"),
        ("models.lift", "import sparsam.measure", ":1: models and measure are neighbours"),
        ("plan", "def f():\n    from sparsam.cost import Cost", ":2: plan and cost are neighbours"),
        (
            "cost",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from sparsam import task",
            ":3: cost and task",
        ),
        ("errors", "from sparsam.plan import Plan", ":1: plan stands above errors"),
        ("models.lift", "from sparsam import Plan", ":1: sparsam stands above models"),
        ("training.loop", "import sparsam", ":1: sparsam stands above training"),
        ("training.loop", "import sparsam.plugin", ":1: training and artifact are neighbours"),
        (
            "compress",
            "import importlib\nimportlib.import_module('sparsam.cli')",
            ":2: cli stands above compress",
        ),
        ("models.lift", "from ..compress import compress", ":1: compress stands above models"),
        ("hardware.memory", "from sparsam.plan import Plan", ":1: the tool hardware stands alone"),
        ("shapes", "import sparsam.coexec", ":1: the tool shapes stands alone"),
        ("models.lift", "from sparsam.shapes import check", ":1: only cli and report may join"),
        ("provenance.track", "from torch import nn", ":1: provenance imports no torch"),
        ("somewhere", "", ":1: somewhere has no row"),
    ],
)
def test_forbidden_import_is_found(name, source, finding):
    """The checker sees each way of importing upwards, sideways and across."""
    found = import_findings(module(name, source))
    assert len(found) == 1
    assert finding in found[0]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("cli", "from sparsam.compress import compress\nimport sparsam.shapes, sparsam.plan"),
        ("report", "from sparsam.hardware import machine"),
        ("hardware.replay", "from sparsam.workload import Workload\nfrom sparsam.errors import Refused"),
        ("coexec", "import torch"),
        ("plan", "from sparsam.errors import Refused\nfrom sparsam import errors"),
        ("artifact", "from sparsam import __version__\nfrom sparsam.models import lift"),
        ("plugin", "from sparsam.artifact import verify"),
        ("__init__", "from sparsam import import_hook\nfrom sparsam.compress import compress"),
        ("tokens.ltp", "from sparsam.tokens.rule import Rule\nfrom .rule import Living"),
    ],
)
def test_allowed_import_is_left_alone(name, source):
    """Downwards, within a part and to errors is fine; cli and report may join tools with the stack."""
    assert import_findings(module(name, source)) == []


@pytest.mark.parametrize(
    ("source", "finding"),
    [
        ("import pickle", ":1: no pickle"),
        ("from joblib import load", ":1: no joblib"),
        ("import torch as t\nt.load('x')", ":2: no torch.load"),
        ("import yaml\nyaml.load(f)", ":2: no yaml.load"),
        ("eval('1')", ":1: no eval"),
        ("def f():\n    exec('1')", ":2: no exec"),
        ("import numpy as np\nnp.load(f, allow_pickle=True)", ":2: no allow_pickle"),
        ("import numpy as np\nnp.load(f, allow_pickle=flag)", ":2: no allow_pickle"),
        (
            "from importlib import import_module\nimport_module(name)",
            ":2: no import of a module named by a variable",
        ),
        ("AutoModel.from_pretrained(f, trust_remote_code=True)", ":1: no trust_remote_code"),
        ("import subprocess\nsubprocess.run(c, shell=True)", ":2: no shell"),
        ("from torch import load", ":1: no torch.load"),
    ],
)
def test_unsafe_call_is_found(source, finding):
    """Each way of running code from a file is seen."""
    found = safety_findings(module("artifact", source))
    assert len(found) == 1
    assert finding in found[0]


def test_harmless_calls_are_left_alone():
    """``model.eval()``, safe loaders and patterns are no findings."""
    source = "model.eval()\nself.load(x)\nyaml.safe_load(f)\nre.compile('x')\nnp.load(f, allow_pickle=False)"
    assert safety_findings(module("models.lift", source)) == []


@pytest.mark.parametrize("name", ["utils", "models.helpers", "task._common", "misc.x"])
def test_drawer_is_found(name):
    """A module or package without a name of its own is seen."""
    assert len(drawer_findings(module(name, ""))) == 1
    assert drawer_findings(module("models.lift", "")) == []


def test_test_modules_have_names_of_their_own():
    """Pytest imports them by file name alone: of two that are called alike one would not be run."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py")
    assert [name for name, times in names.items() if times > 1 and name.startswith("test_")] == []
