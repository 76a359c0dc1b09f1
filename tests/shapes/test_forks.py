"""Forks that come together are followed once, and none is lost: random programs with coins, held against all their tapes."""

import contextlib
import io
import itertools
import os
import random
import re

import pytest
import torch

from sparsam.shapes import program
from sparsam.shapes.check import check
from sparsam.shapes.checker import Tensor, check_callable
from sparsam.shapes.explore import Limits
from sparsam.shapes.verdict import Verdict

RANGES = {"A": (1, 4), "B": (1, 4)}
HEAD = """import torch

total = 0


class Held:
    k = 1


def coin():
    return torch.rand(()).item() < 0.5


def counted():
    yield 1
    for i in range(2, 4):
        yield i


def more():
    global total
    total += 1


def picked():
    k = 1
    if coin():
        k = 2
    return k


def late():
    try:
        return picked() + 0
    finally:
        if coin():
            more()


class Context:
    def __init__(self, k):
        self.k = k

    def __enter__(self):
        return self.k

    def __exit__(self, *error):
        Held.k = self.k


"""


class _Taped:
    """Stands in for a random tensor: its value comes from a tape that is extended with zeros."""

    def __init__(self, tape):
        self.tape, self.used = tape, 0

    def __call__(self, *size):
        if self.used == len(self.tape):
            self.tape.append(0)
        value = self.tape[self.used]
        self.used += 1
        return type("Drawn", (), {"item": lambda _: 0.25 if value else 0.75})()


def grown(seed: int) -> str:
    """A random program `run(x, A, B)` whose branches change numbers, flags, lists and the tensor, and then use them."""
    rng = random.Random(seed)
    lines = ["global total", "n, m, flag, kept, total, Held.k = 0, A, False, [], 0, 1", "box = {'k': 1}"]
    lines += ["left, made = iter([1, 2, 3, 4, 5, 6, 7, 8]), counted()"]
    for _ in range(rng.randint(3, 5)):
        lines += rng.choice(STEPS)(rng)
    lines += rng.choice(ENDS)(rng)
    body = "\n".join(f"    {line}" for line in lines)
    inner = "def turned(x):\n    if coin():\n        return x.flip(0)\n    return x\n\n\n"
    return f"{HEAD}{inner}def run(x, A, B):\n{body}\n    return x\n"


def _condition(rng: random.Random) -> str:
    return rng.choice(
        [
            "coin()",
            "coin()",
            "coin()",
            f"A > {rng.randint(1, 3)}",
            "A == B",
            f"n > {rng.randint(0, 2)}",
            "flag",
        ]
    )


def _change(rng: random.Random) -> str:
    return rng.choice(
        [
            f"n += {rng.randint(1, 2)}", "m = B", "m = m + 1", "flag = not flag", "kept.append(n)", "x = x.flip(-1)",
            "x = x * 2", "x = x[:, :1]", "box['k'] += 1", "x = torch.cat([x, x], 1)", "Held.k += 1", "more()",
            "next(left)", "next(made, 5)",
        ]
    )  # fmt: skip


STEPS = (
    lambda rng: [f"if {_condition(rng)}:", f"    {_change(rng)}"],
    lambda rng: [f"if {_condition(rng)}:", f"    {_change(rng)}", "else:", f"    {_change(rng)}"],
    lambda rng: [f"if {_condition(rng)}:", f"    if {_condition(rng)}:", f"        {_change(rng)}"],
    lambda rng: ["x = turned(x)"],
    lambda rng: [
        f"for i in range({rng.choice(['A', '2', 'B'])}):",
        f"    if {_condition(rng)}:",
        f"        {_change(rng)}",
    ],
    lambda rng: [
        f"for i in range({rng.choice(['A', '3'])}):",
        "    if coin():",
        "        continue",
        f"    {_change(rng)}",
    ],
    lambda rng: [
        "for item in counted():",
        f"    if {_condition(rng)}:",
        "        break",
        f"    {_change(rng)}",
    ],
    lambda rng: ["tries = 0", "while tries < 2 and coin():", "    tries += 1", f"    {_change(rng)}"],
    lambda rng: [f"n += picked() {rng.choice(['*', '+', '-'])} {rng.choice(['picked()', 'late()'])}"],
    lambda rng: [f"kept += [picked() for _ in range({rng.randint(1, 3)})]", "n = kept[0]"],
    lambda rng: ["m = min(picked() if coin() else A, late())"],
    lambda rng: [
        f"for k in [picked() for _ in range(2)] if {_condition(rng)} else (1,):",
        "    if coin():",
        "        n += k",
    ],
    lambda rng: [
        f"with Context(picked() + {rng.randint(0, 1)}):",
        f"    if {_condition(rng)}:",
        f"        {_change(rng)}",
    ],
    lambda rng: ["n = sum(picked() for _ in range(2)) + max(map(lambda _: picked(), range(2)))"],
    lambda rng: [f"y = x.view(A, -1) if {_condition(rng)} else x", f"{_change(rng)}"],
)
ENDS = (
    lambda rng: [f"x = torch.zeros({rng.randint(2, 5)})[n]"],
    lambda rng: [f"x = torch.zeros(m).expand({rng.randint(1, 4)})"],
    lambda rng: [f"x = x.view(A, {rng.choice([1, 2, 3, 6])})"],
    lambda rng: [f"x = torch.zeros({rng.randint(1, 4)})[len(kept)]"],
    lambda rng: [f"x = torch.zeros({rng.randint(1, 3)}, 2)[Held.k - 1]"],
    lambda rng: [f"x = torch.zeros({rng.randint(1, 3)}, 2)[total]"],
    lambda rng: [f"x = torch.zeros(next(left), 2) @ torch.zeros(2, 1).expand(2, {rng.randint(1, 3)})[:, next(made, 4) - 1]"],
    lambda rng: [f"x = torch.zeros(box['k'], 2) @ torch.zeros({rng.randint(1, 3)}, 1)"],
    lambda rng: ["if flag and n > 1:", "    x = torch.zeros(2, 3) @ torch.zeros(2, 3)"],
    lambda rng: [f"if coin() and n == {rng.randint(0, 3)}:", "    x = torch.zeros(m)[A]"],
)  # fmt: skip


def fails(source: str) -> list[tuple[dict[str, int], list[int]]]:
    """Sizes and tapes for which plain torch raises, the first few."""
    space: dict = {}
    exec(source, space)
    found = []
    for a, b in itertools.product(range(1, 5), range(1, 5)):
        tapes = [[]]
        while tapes and len(found) < 3:
            tape = tapes.pop()
            given = len(tape)
            taped = _Taped(tape)
            space["torch"] = type("Torch", (), {"rand": taped, "zeros": torch.zeros, "cat": torch.cat})
            try:
                space["run"](torch.zeros(a, 3), a, b)
            except Exception:
                found.append(({"A": a, "B": b}, list(taped.tape)))
            # The tape as it was used: turn each zero that was drawn behind what was given.
            tapes += [[*taped.tape[:i], 1] for i in range(given, taped.used)]
            if taped.used > 24:
                break
    return found


def held(seed: int, folder) -> tuple[Verdict, int]:
    """Checks one program against all its tapes; gives the verdict and the number of runs."""
    source = grown(seed)
    name = f"forks_{seed}"
    path = folder / f"{name}.py"
    path.write_text(source)
    module = program.load(name, str(path))
    with contextlib.redirect_stdout(io.StringIO()):
        report = check_callable(
            module.run, {"x": Tensor(("A", 3)), "A": "A", "B": "B"}, RANGES,
            own=lambda file: file == str(path), limits=Limits(paths=300, seconds=60),
        )  # fmt: skip
    found = fails(source)
    if report.verdict is Verdict.PROVED:
        assert not found, f"{source}\nproved, and fails for {found}"
    if report.verdict is Verdict.ERROR:
        assert found, f"{source}\n{report.findings}"
    if not report.unknowns and found:
        assert report.verdict is Verdict.ERROR
    return report.verdict, len(report.paths)


@pytest.mark.parametrize("block", range(3))
def test_no_fork_is_lost(block, tmp_path):
    """Four programs at a time."""
    for seed in range(4 * block, 4 * block + 4):
        held(seed, tmp_path)


@pytest.mark.slow
def test_no_fork_of_many_is_lost(tmp_path):
    """Twenty more, most of them decided; with SPARSAM_LONG=1 sixty."""
    many = 60 if os.environ.get("SPARSAM_LONG") == "1" else 20
    verdicts = [held(seed, tmp_path)[0] for seed in range(100, 100 + many)]
    assert {Verdict.PROVED, Verdict.ERROR} <= set(verdicts)
    assert sum(v is Verdict.UNKNOWN for v in verdicts) < many / 4


def checked_lines(tmp_path, name: str, text: str):
    """The report of a few lines as a program."""
    path = tmp_path / f"{name}.py"
    path.write_text(text)
    module = program.load(name, str(path))
    return check_callable(module.run, {"x": Tensor((2, 3))}, {}, own=lambda file: file == str(path))


def test_independent_numbers_add_in_each_pass(tmp_path):
    """Six numbers that data know, each asked about in two passes: all 64 cases are covered by far fewer runs."""
    lines = ["import torch", "", "", "def run(x):"]
    lines += [f"    n{i} = torch.rand(()).item()" for i in range(6)]
    lines += ["    for _ in range(2):"]
    for i in range(6):
        lines += [
            f"        if n{i} < 0.5:",
            "            x = x * 2",
            "        else:",
            "            x = x + 1",
        ]
    report = checked_lines(tmp_path, "independent", "\n".join([*lines, "    return x.view(6)", ""]))
    assert report.verdict is Verdict.PROVED, report.unknowns
    assert len(report.paths) <= 20


HIDDEN = {
    "iterator": "left = iter([torch.zeros(2), torch.zeros(3)])\n{coin}next(left)\nnext(left).view(2)",
    "generator": "made = (torch.zeros(n) for n in (2, 3))\n{coin}next(made)\nnext(made).view(2)",
    "class": "class Held:\n    size = 2\n{coin}Held.size = 3\ntorch.zeros(Held.size).view(2)",
    "pairs": "left = zip([2, 3], [2, 3])\n{coin}next(left)\ntorch.zeros(next(left)[0]).view(2)",
    "strides": "y = torch.zeros(2, 2)\n{coin}y = y.t()\ny.view(4)",
    "gradient": "y = torch.zeros(2, requires_grad=True)\n{coin}y.requires_grad_(False)\nif not y.requires_grad: y.view(3)",
    "optimizer": "o = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=2)\n"
    "{coin}o.param_groups[0]['lr'] = 3\ntorch.zeros(o.param_groups[0]['lr']).view(2)",
    "file": "import os\n{coin}open('made.txt', 'w').close()\nif os.path.exists('made.txt'): x.view(5)",
    "folder": "import os\n{coin}os.mkdir('made')\nif os.path.isdir('made'): x.view(5)",
    "path": "from pathlib import Path\n{coin}Path('made.txt').write_text('')\nif Path('made.txt').exists(): x.view(5)",
    "state saved": "torch.save(2, 'size.pt')\n{coin}torch.save(3, 'size.pt')\ntorch.zeros(torch.load('size.pt')).view(2)",
    "environment": "import os\nos.environ['WIDTH'] = '2'\n{coin}os.environ['WIDTH'] = '3'\n"
    "torch.zeros(int(os.environ['WIDTH'])).view(2)",
    "partial": "import functools\nmade = functools.partial(torch.zeros, 2)\n"
    "{coin}made = functools.partial(torch.zeros, 3)\nmade().view(2)",
    "cached": "import functools\n@functools.lru_cache\ndef size():\n    return 3 if torch.rand(()).item() < 0.5 else 2\n"
    "size()\ntorch.zeros(size()).view(2)",
    "getter": "import operator\nget = operator.itemgetter(0)\n{coin}get = operator.itemgetter(1)\n"
    "torch.zeros(get((2, 3))).view(2)",
    "count": "import itertools\nsizes = itertools.count(2)\n{coin}next(sizes)\ntorch.zeros(next(sizes)).view(2)",
    "bytes": "held = bytearray(2)\n{coin}held.append(0)\ntorch.zeros(len(held)).view(2)",
    "day": "import datetime\nday = datetime.date(2026, 1, 2)\n{coin}day = datetime.date(2026, 1, 3)\n"
    "torch.zeros(day.day).view(2)",
    "moment": "import datetime\nday = datetime.datetime(2026, 1, 2)\n{coin}day = datetime.datetime(2026, 1, 3)\n"
    "torch.zeros(day.day).view(2)",
    "attribute of a tensor": "y = torch.zeros(2)\ny.wide = 2\n{coin}y.wide = 3\ntorch.zeros(y.wide).view(2)",
    "default device": "{coin}torch.set_default_device('meta')\nif torch.zeros(1).device.type == 'meta': x.view(5)",
    "subclass": "class Sizes(list): pass\nheld = Sizes([2])\n{coin}held[0] = 3\ntorch.zeros(held[0]).view(2)",
    "keys": "class Counts(dict): pass\nheld = Counts()\nheld.wide = 2\n{coin}held.wide = 3\ntorch.zeros(held.wide).view(2)",
    "defaults": "def size(n=2): return n\n{coin}size.__defaults__ = (3,)\ntorch.zeros(size()).view(2)",
    "attribute of a function": "def size(): return size.wide\nsize.wide = 2\n{coin}size.wide = 3\n"
    "torch.zeros(size()).view(2)",
    "hook of the backward pass": "y = torch.ones(3, requires_grad=True)\n{coin}y.register_hook(lambda g: g.view(5))\n"
    "(y * 2).sum().backward()",
    "items of a set": "held = {{2}}\n{coin}held.add(3)\ntorch.zeros(len(held)).view(1)",
    "longest queue": "import collections\nheld = collections.deque([], 2)\n{coin}held = collections.deque([], 3)\n"
    "held.extend([1, 1, 1])\ntorch.zeros(len(held)).view(2)",
    "method": "held = [2, 3]\nget = held.index\n{coin}get = held.count\ntorch.zeros(2 - get(2)).view(2)",
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_no_variable_shows_is_compared_too(name, tmp_path):
    """A branch that changes nothing but where an iterator stands, or an attribute of a class, is followed."""
    before = dict(os.environ), os.getcwd(), torch.get_default_device()
    lines = HIDDEN[name].format(coin="if torch.rand(()).item() < 0.5:\n    ").splitlines()
    report = checked_lines(
        tmp_path,
        f"hidden_{name}",
        "\n".join(["import torch", "", "", "def run(x):", *(f"    {line}" for line in lines), ""]),
    )
    assert report.verdict is Verdict.ERROR, report.unknowns
    assert (dict(os.environ), os.getcwd(), torch.get_default_device()) == before


PENDING = {
    "list in a loop's head": "for s in [2, 2] if coin() else [2, 2, 3]:\n    if coin(): pass\n    torch.zeros(s).view(2)",
    "generator in a loop's head": "for s in each((2, 2) if coin() else (2, 2, 3)):\n    two()\n    torch.zeros(s).view(2)",
    "numbered items": "for i, s in enumerate((2, 2) if coin() else (2, 2, 3)):\n    two()\n    torch.zeros(s).view(2)",
    "first argument": "zeros(2 if coin() else 3, two()).view(2)",
    "first argument of two": "zeros(size() * 2 + 0 * size(), 1).view(4)",
    "items of a list": "sizes = [size() for _ in range(2)]\ntorch.zeros(sizes[0]).view(2)",
    "tensors of a list": "torch.stack([torch.zeros(size()) for _ in range(2)])",
    "items of a dictionary": "sizes = {i: size() for i in range(2)}\ntorch.zeros(sizes[0]).view(2)",
    "sum": "torch.zeros(sum(size() for i in range(2))).view(4)",
    "mapped items": "sizes = list(map(lambda i: size(), range(2)))\ntorch.zeros(sizes[0]).view(2)",
    "keys to sort by": "sizes = sorted([2, 3, 2], key=lambda i: size())\ntorch.zeros(sizes[0]).view(2)",
    "context": "with Checked(2 if coin() else 3):\n    if coin(): pass",
    "contexts": "with torch.no_grad(), Checked(2 if coin() else 3):\n    if coin(): pass",
    "returned before the end": "torch.zeros(late()).view(2)",
    "a module twice": "b = More()\ntorch.zeros(torch.nn.Sequential(b, b)(0) + 1).view(2)",
    "module within a module": "torch.zeros(More()(More()(0)) + 1).view(1)",
    "sequence": "torch.zeros(torch.nn.Sequential(More(), More())(0) + 1).view(2)",
    "before a generator goes on": "made = later()\nnext(made)\nzeros(2 if coin() else 3, next(made)).view(2)",
    "returned under a name": "torch.zeros(named()).view(2)",
    "returned out of a context": "torch.zeros(leaving()).view(2)",
    "exception in flight": "try:\n    raised()\nexcept ValueError: pass\nexcept TypeError: x.view(5)",
    "exception to be raised again": "try:\n    again()\nexcept ValueError: pass\nexcept TypeError: x.view(5)",
    "exception kept": "e = caught()\nif coin(): pass\ntorch.zeros(e.args[0]).view(2)",
    "exception of a cause": "e = caused()\nif coin(): pass\ntorch.zeros(e.__cause__.args[0]).view(2)",
    "in a loop's body": "for _ in range(2):\n    torch.zeros(zeros(2 if coin() else 3, two()).shape[0]).view(2)",
    "in an assertion": "assert zeros(2 if coin() else 3, two()).view(2).dim() == 1",
    "in a return": "torch.zeros(late() + returned()).view(4)",
    "matched": "match size():\n    case n:\n        if coin(): pass\n        torch.zeros(n).view(2)",
}
PENDING_HEAD = """import torch


def coin():
    return torch.rand(()).item() {sign} 0.5


def two():
    if coin():
        pass
    return 2


def size():
    n = 2
    if coin():
        n = 3
    return n


def late():
    try:
        return size() + 0
    finally:
        if coin():
            pass


def named():
    n = size()
    try:
        return n
    finally:
        n = 0
        if coin():
            pass


class Leaving:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        if coin():
            pass


def leaving():
    with Leaving():
        return size() + 0


def raised():
    with Leaving():
        raise ValueError if coin() else TypeError


def again():
    try:
        if coin():
            raise ValueError
        else:
            raise TypeError
    except Exception:
        if coin():
            pass
        raise


class Wrong(Exception):
    pass


def caught():
    try:
        raise Wrong(size())
    except Wrong as e:
        return e


def caused():
    try:
        raise Wrong from caught()
    except Wrong as e:
        return e


def returned():
    return max(size(), two())


def zeros(a, b):
    return torch.zeros(a)


def each(items):
    yield from items


def later():
    yield 1
    if coin():
        pass
    yield 2


class Checked:
    def __init__(self, n):
        self.n = n

    def __enter__(self):
        return self

    def __exit__(self, *error):
        torch.zeros(self.n).view(2)


class More(torch.nn.Module):
    def forward(self, n):
        if coin():
            n = n + 1
        return n


def run(x):
"""


@pytest.mark.parametrize("sign", ["<", ">="])
@pytest.mark.parametrize("name", PENDING)
def test_what_an_expression_has_worked_out_is_followed(name, sign, tmp_path):
    """Forks within a call come together only where the callers' unfinished expressions are alike."""
    head = PENDING_HEAD.format(sign=sign)
    lines = "".join(f"    {line}\n" for line in PENDING[name].splitlines())
    report = checked_lines(tmp_path, f"pending_{re.sub('[^a-z]', '_', name)}_{len(sign)}", head + lines)
    assert report.verdict is Verdict.ERROR, report.unknowns


@pytest.mark.parametrize("kind", ["a function's statements", "statements before a return", "statements"])
def test_branches_within_a_loop_come_together(kind, tmp_path):
    """Six numbers that data know, asked about in the body of a loop or in what it calls, cost few runs."""
    asked = "".join(
        f"{{pad}}if torch.rand(()).item() < 0.5:\n{{pad}}    x = x * {i}\n{{pad}}else:\n{{pad}}    x = x + 1\n"
        for i in range(6)
    )
    if kind == "statements":
        text = f"def run(x):\n    for _ in range(2):\n{asked.format(pad=' ' * 8)}    return x.view(6)\n"
    elif kind == "statements before a return":
        text = (
            f"def part(x):\n{asked.format(pad=' ' * 4)}    return x\n\n\ndef whole(x):\n    if len(x) > 0:\n"
            "        return part(x)\n\n\ndef run(x):\n    for _ in range(2):\n        x = whole(x)\n    return x.view(6)\n"
        )
    else:
        text = (
            f"def part(x):\n{asked.format(pad=' ' * 4)}    return x\n\n\ndef run(x):\n"
            "    for _ in range(random.randint(0, 5)):\n        x = part(x)\n    return x.view(6)\n"
        )
    report = checked_lines(tmp_path, f"loop_{len(kind)}", f"import random\n\nimport torch\n\n\n{text}")
    assert report.verdict is Verdict.PROVED, report.unknowns
    assert len(report.paths) < 40


@pytest.mark.parametrize("made", ["torch.empty_like(torch.tensor(1.0))", "torch.tensor(1.0).new_empty(())"])
@pytest.mark.parametrize("sign", ["<", ">="])
def test_what_an_empty_tensor_holds_is_up_to_chance(made, sign, tmp_path):
    """Both ways are followed, though what it was made like holds a number that is known."""
    text = f"import torch\n\n\ndef run(x):\n    if {made} {sign} 0.5:\n        x.view(5)\n"
    assert checked_lines(tmp_path, f"empty_{len(made)}_{len(sign)}", text).verdict is Verdict.ERROR


def test_a_distribution_of_a_number_that_is_known_is_taken(tmp_path):
    """In whatever memory the answer comes to lie."""
    text = """import torch


def run(x):
    for share in (1.0, 0.9, 0.7):
        layers = [torch.nn.Conv2d(3, 3, 3) for _ in range(20)]
        torch.distributions.Bernoulli(share)
    return x.view(6)
"""
    report = checked_lines(tmp_path, "distribution", text)
    assert report.verdict is Verdict.PROVED and len(report.paths) == 1, report.findings


HOOKS = {
    "of a leaf": "y.register_hook(lambda g: g.view(5))",
    "of a result": "z.register_hook(lambda g: g.view(5))",
    "after a leaf's gradient": "y.register_post_accumulate_grad_hook(lambda y: y.grad.view(5))",
    "beyond the storage": "y.register_hook(lambda g: g.as_strided((5,), (1,)).sum() * g)",
}


@pytest.mark.parametrize("name", HOOKS)
def test_hooks_of_the_backward_pass_are_run(name, tmp_path):
    """They are the program's own code."""
    text = (
        "import torch\n\n\ndef run(x):\n    y = torch.ones(3, requires_grad=True)\n    z = y * 2\n"
        f"    {HOOKS[name]}\n    z.sum().backward()\n"
    )
    report = checked_lines(tmp_path, f"hooks_{len(name)}", text)
    assert report.verdict is Verdict.ERROR, report.unknowns


def test_blocks_of_a_sequence_are_followed_once(tmp_path):
    """Seven blocks that may be left out cost a run for each pair, and not a run for each choice."""
    text = """import torch


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x):
        if self.training and torch.rand(()).item() < 0.5:
            return x
        return x + self.layer(x)


def run(x):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), *(Block() for _ in range(7)))
    return model(x).view(8)
"""
    report = checked_lines(tmp_path, "blocks", text)
    assert report.verdict is Verdict.PROVED, report.unknowns
    assert len(report.paths) < 40


ALIKE = {
    "objects in a set": "held = {object(), object(), Held(), Held()}",
    "hooks": "layer = torch.nn.Linear(3, 3)\n    layer.register_forward_hook(lambda *given: None)",
    "keys": "held = {Held(): 1, Held(): 2}",
    "locks": "import threading\n    held = threading.Lock(), threading.Event()",
    "loggers": "import logging\n    held = logging.getLogger('here')",
    "numbers of NumPy": "import numpy as np\n    held = np.arange(3), np.float32(2), np.random.default_rng(0)",
    "patterns": "import re\n    held = re.compile('a'), re.match('a', 'a'), re.compile('b').finditer('ab')",
    "chance": "import random\n    held = random.Random(0)",
    "optimizer": "held = torch.optim.AdamW(torch.nn.Linear(3, 3).parameters())\n"
    "    rate = torch.optim.lr_scheduler.OneCycleLR(held, 0.1, 10)",
    "clock": "import time, datetime\n    held = time.time(), datetime.datetime.now().isoformat(), time.monotonic_ns()",
    "file": "held = open('log.txt', 'a')\n    held.write('a')",
    "generators": "held = (i for i in range(3)), iter([1]), zip([1], [2]), map(str, [1])",
    "paths": "import pathlib, tempfile\n    held = pathlib.Path(tempfile.mkdtemp())",
    "names": "import uuid, os\n    held = uuid.uuid4().hex, os.getpid()",
}


@pytest.mark.parametrize("name", ALIKE)
def test_states_of_two_runs_are_alike(name, tmp_path, monkeypatch):
    """Eight coins cost about as many runs, whatever the program holds: no address, clock or counter is in the way."""
    monkeypatch.chdir(tmp_path)
    coins = "".join(
        f"    if torch.rand(()).item() < 0.5:\n        x = x + {i}\n    else:\n        x = x * {i}\n"
        for i in range(8)
    )
    text = f"import torch\n\n\nclass Held:\n    pass\n\n\ndef run(x):\n    {ALIKE[name]}\n{coins}    return x.view(6)\n"
    report = checked_lines(tmp_path, f"alike_{re.sub('[^a-z]', '_', name)}", text)
    assert report.verdict is Verdict.PROVED, report.unknowns
    assert len(report.paths) < 20


@pytest.mark.parametrize(
    "head", ["with torch.no_grad():", "with torch.no_grad(), torch.no_grad():", "while True:"]
)
def test_branches_within_a_block_come_together(head, tmp_path):
    """Eight coins in the body of a `with` or a `while` cost about as many runs, too."""
    coins = "".join(
        f"        if torch.rand(()).item() < 0.5:\n            x = x + {i}\n        else:\n            x = x * {i}\n"
        for i in range(8)
    )
    end = "        break\n" if "while" in head else ""
    text = f"import torch\n\n\ndef run(x):\n    {head}\n{coins}{end}    return x.view(6)\n"
    report = checked_lines(tmp_path, f"block_{len(head)}", text)
    assert report.verdict is Verdict.PROVED, report.unknowns
    assert len(report.paths) < 20


def test_a_context_of_a_class_is_no_attribute(tmp_path):
    """A class has what its body gives it, and nothing of the checker's."""
    text = (
        "import torch\n\n\nclass Sizes:\n    with torch.no_grad():\n        two = 2\n\n\n"
        "def run(x):\n    assert [n for n in vars(Sizes) if not n.startswith('__')] == ['two']\n    return x.view(6)\n"
    )
    report = checked_lines(tmp_path, "context_of_a_class", text)
    assert report.verdict is Verdict.PROVED, report.findings


def test_what_another_module_holds_is_compared_too(tmp_path):
    """A branch that changes a global of a module that no frame belongs to is followed."""
    (tmp_path / "settings.py").write_text("size = 2\n\n\ndef grow():\n    global size\n    size += 1\n")
    (tmp_path / "uses.py").write_text(
        "import torch\nimport settings\n\nif torch.rand(()).item() < 0.5:\n    settings.grow()\n"
        "torch.zeros(settings.size).view(2)\n"
    )
    report = check(str(tmp_path / "uses.py"), [], sandboxed=False)
    assert report.verdict is Verdict.ERROR, report.unknowns


def test_a_round_that_is_never_reached_is_no_witness(tmp_path):
    """What a `while` counts is any number at the head of its rounds, and an error for one that it never has is not told."""
    lines = [
        "import torch",
        "",
        "",
        "def run(x):",
        "    tries = total = 0",
        "    while tries < 2 and torch.rand(()).item() < 0.5:",
    ]
    lines += ["        tries += 1", "        total += 1", "    return torch.zeros(3, 2)[total]", ""]
    report = checked_lines(tmp_path, "never_reached", "\n".join(lines))
    assert report.verdict is not Verdict.ERROR, report.findings


def test_what_a_call_in_progress_runs_over_belongs_to_the_state(tmp_path):
    """A list that nobody reads any more, but for the `map` that is at it, tells runs apart within what it calls."""
    lines = [
        "import torch",
        "",
        "",
        "def coin():",
        "    return torch.rand(()).item() < 0.5",
        "",
        "",
        "def kept(i):",
    ]
    lines += [
        "    if coin():",
        "        i = i + 0",
        "    return i",
        "",
        "",
        "def run(x):",
        "    items = [1, 2]",
        "    if coin():",
    ]
    lines += [
        "        items = [1, 3]",
        "    total = sum(list(map(kept, items)))",
        "    return torch.zeros(4)[total]",
        "",
    ]
    assert checked_lines(tmp_path, "in_progress", "\n".join(lines)).verdict is Verdict.ERROR


SAVED = """import torch


def run(x):
    first, second = torch.rand(()).item(), torch.rand(()).item()
    if first < 0.5:
        torch.save(x, f"best_{first + second:.2f}.pt")
        torch.save(x, "last.pt")
    else:
        torch.save(x, "last.pt")
        torch.save(x, f"best_{first - second:.2f}.pt")
    y = torch.nn.functional.relu(x @ x.t() + 1).softmax(-1).sum(0).mean().exp()
    if second < 0.5:
        y = y + 1
    return y.view(SIZE)
"""


@pytest.mark.parametrize(("size", "verdict"), [("1", Verdict.PROVED), ("2", Verdict.ERROR)])
def test_files_are_told_by_name(size, verdict, tmp_path):
    """Which was written first makes no difference, nor what the numbers in its name were worked out from."""
    report = checked_lines(tmp_path, "saved", SAVED.replace("SIZE", size))
    assert report.verdict is verdict, report.unknowns
    if verdict is Verdict.PROVED:
        assert sorted(path.ending for path in report.paths) == ["end", "merged", "merged"]


GONE = """import torch


def run(x):
    coin = torch.rand(()).item()
    if coin < 0.5:
        torch.save(x, "a.pt")
    y = x @ x.t()
    y = torch.nn.functional.relu(y + 1).softmax(-1).sum(0).mean().exp()
    import os
    if os.path.exists("a.pt"):
        return y.view(2)
    return y
"""


def test_a_file_that_is_there_in_some_runs_makes_a_difference(tmp_path):
    """However little is asked between."""
    assert checked_lines(tmp_path, "gone", GONE).verdict is Verdict.ERROR


APART = """import torch


def run(x):
    for i in range(x.shape[0] * 0 + torch.randint(3, 90, ()).item()):
        names = {f"layer{i}": 0, f"layer{i + 1}": 1, f"layer{2 * i + 2}": 2}
        torch.zeros(len(names)).view(3)
    return x
"""


def test_whole_numbers_in_texts_are_told_apart(tmp_path):
    """A layer and the next have names of their own in every round."""
    report = checked_lines(tmp_path, "apart", APART)
    assert report.verdict is Verdict.PROVED, (report.findings, report.unknowns)
