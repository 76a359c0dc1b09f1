"""Random programs over tensors with symbolic sizes, and what plain torch says of them for given sizes.

A program is grown statement by statement on one sample of sizes, so that most of it runs for some sizes; for others it
may not. Every statement is one of the operations below, a branch on a size, or a loop over one.
"""

import dataclasses
import random
from collections.abc import Callable, Mapping
from typing import Any

import torch

RANGES = {"A": (0, 5), "B": (1, 6), "C": (0, 4)}
HEADER = "import torch\nimport torch.nn.functional as F\n\n"


@dataclasses.dataclass
class Program:
    """A function `run(x, y, z, A, B, C)`: its text, and the sizes of its tensors."""

    text: str
    shapes: tuple[tuple[str | int, ...], ...]

    def source(self, name: str = "run") -> str:
        """The program as a module with one function."""
        return HEADER + self.text.replace("def run(", f"def {name}(")


def arguments(program: Program, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Real tensors of the program's arguments for given sizes, and the sizes themselves."""
    tensors = {
        name: torch.zeros([sizes[s] if isinstance(s, str) else s for s in shape])
        for name, shape in zip("xyz", program.shapes, strict=True)
    }
    return {**tensors, **sizes}


def sizes_of(rng: random.Random) -> dict[str, int]:
    """Random sizes within the ranges."""
    return {name: rng.randint(low, high) for name, (low, high) in RANGES.items()}


def grown(seed: int, statements: int = 6) -> Program:
    """A random program of about so many statements."""
    rng = random.Random(seed)
    symbols = list(RANGES)
    shapes = tuple(
        tuple(rng.choice([*symbols, *symbols, 2, 3, 8, 1]) for _ in range(rng.randint(1, 4)))
        for _ in range(3)
    )
    program = Program("", shapes)
    sample = {name: rng.randint(max(2, low), high) for name, (low, high) in RANGES.items()}
    space = {**arguments(program, sample), "torch": torch, "F": torch.nn.functional}
    names = ["x", "y", "z"]
    lines: list[str] = []
    for number in range(statements):
        for _ in range(12):
            made = rng.choice(OPERATIONS)(rng, space, names)
            if made is None:
                continue
            name = f"t{number}"
            block = made if isinstance(made, list) else [f"{name} = {made}"]
            block = [line.replace("@", name) for line in block]
            if not _runs(block, space) and rng.random() > 0.02:
                continue
            lines += block
            if name in space and isinstance(space[name], torch.Tensor):
                names.append(name)
            break
    body = "\n".join(f"    {line}" for line in lines) or "    pass"
    program.text = f"def run(x, y, z, A, B, C):\n{body}\n    return {names[-1]}\n"
    return program


def _runs(block: list[str], space: dict[str, Any]) -> bool:
    """Whether statements run on the sample; what they define joins it."""
    trial = dict(space)
    try:
        exec("\n".join(block), trial)
    except Exception:
        return False
    if any(isinstance(value, torch.Tensor) and value.numel() > 50_000 for value in trial.values()):
        return False
    space.update(trial)
    return True


def size(rng: random.Random, space: Mapping[str, Any], names: list[str]) -> str:
    """An expression for a size."""
    name = rng.choice(names)
    rank = space[name].dim()
    choices = [
        "A",
        "B",
        "C",
        str(rng.randint(0, 8)),
        "A * B",
        "B + 1",
        "C // 2",
        "A + C",
        "max(A, 1)",
        "B % 3",
    ]
    if rank:
        choices += [f"{name}.shape[{rng.randrange(rank)}]", f"{name}.size({-rng.randint(1, rank)})"] * 2
        choices.append(f"{name}.numel()")
    return rng.choice(choices)


def pick(rng: random.Random, space: Mapping[str, Any], names: list[str], least: int = 0) -> str | None:
    """A tensor of at least so many dimensions, rather a late one."""
    fit = [name for name in names if space[name].dim() >= least and space[name].is_floating_point()]
    return rng.choice(fit[-4:]) if fit else None


Maker = Callable[[random.Random, dict[str, Any], list[str]], str | list[str] | None]


def unary(template: str, least: int = 0) -> Maker:
    """An operation on one tensor; {t} the tensor, {d} {e} dimensions, {n} {m} sizes, {k} a small number."""

    def make(rng: random.Random, space: dict[str, Any], names: list[str]) -> str | None:
        name = pick(rng, space, names, least)
        if name is None:
            return None
        rank = max(1, space[name].dim())
        off = 1 if rng.random() < 0.05 else 0
        return template.format(
            t=name,
            d=rng.randint(-rank, rank - 1 + off),
            e=rng.randrange(rank),
            n=size(rng, space, names),
            m=size(rng, space, names),
            k=rng.randint(1, 4),
            p=rng.sample(range(rank), rank),
        )

    return make


def binary(template: str, least: int = 0) -> Maker:
    """An operation on two tensors, {t} and {u}."""

    def make(rng: random.Random, space: dict[str, Any], names: list[str]) -> str | None:
        one, other = pick(rng, space, names, least), pick(rng, space, names, least)
        if one is None or other is None:
            return None
        rank = max(1, space[one].dim())
        return template.format(
            t=one, u=other, d=rng.randint(-rank, rank - 1), k=rng.randint(1, 3), n=size(rng, space, names)
        )

    return make


def block(*templates: str, least: int = 1) -> Maker:
    """Several lines around one tensor; @ is the result."""

    def make(rng: random.Random, space: dict[str, Any], names: list[str]) -> list[str] | None:
        name, other = pick(rng, space, names, least), pick(rng, space, names)
        if name is None or other is None:
            return None
        n, k = size(rng, space, names), rng.randint(1, 4)
        return [line.format(t=name, u=other, n=n, k=k) for line in templates]

    return make


OPERATIONS: tuple[Maker, ...] = (
    binary("{t} + {u}"),
    binary("{t} * {u}"),
    binary("torch.where({t} > 0, {t}, {u})"),
    binary("{t} @ {u}", 1),
    binary("torch.matmul({t}, {u}.transpose(-1, -2))", 2),
    binary("torch.cat([{t}, {u}], {d})", 1),
    binary("torch.stack([{t}, {u}], {d})"),
    binary("F.mse_loss({t}, {u}.expand_as({t}))"),
    binary("torch.einsum('...i,...i->...', {t}, {u})", 1),
    binary("torch.bmm({t}, {u})", 3),
    binary("F.linear({t}, {u})", 1),
    binary("F.conv1d({t}, {u}, padding={k})", 3),
    binary("F.conv2d({t}, {u}, padding={k})", 4),
    unary("{t}.view({n}, -1)"),
    unary("{t}.reshape(-1, {n})"),
    unary("{t}.reshape({n}, {m})"),
    unary("{t}.flatten({e})", 1),
    unary("{t}.permute(*{p})", 1),
    unary("{t}.transpose({d}, {e})", 1),
    unary("{t}.transpose(0, 1).contiguous().view(-1)", 2),
    unary("{t}.unsqueeze({d})"),
    unary("{t}.squeeze({d})", 1),
    unary("{t}.squeeze()"),
    unary("{t}.expand({n}, *{t}.shape)"),
    unary("{t}.repeat({k}, *[1] * {t}.dim())"),
    unary("{t}.sum({d})", 1),
    unary("{t}.mean({d}, keepdim=True)", 1),
    unary("{t}.amax({d})", 1),
    unary("F.softmax({t}, {d})", 1),
    unary("F.layer_norm({t}, ({n},))", 1),
    unary("F.pad({t}, ({k}, {e}))", 1),
    unary("{t}.narrow({d}, 0, {n})", 1),
    unary("{t}[{k}:]", 1),
    unary("{t}[..., :{n}]", 1),
    unary("{t}[{e}]", 1),
    unary("{t}.chunk({k}, {d})[0]", 1),
    unary("{t}.split({k}, {d})[-1]", 1),
    unary("{t}.unfold({d}, {k}, {k})", 1),
    unary("{t}.topk({k}, {d}).values", 1),
    unary("{t}.cumsum({d})", 1),
    unary("{t}.flip({d})", 1),
    unary("torch.zeros({n}, {m}) + {t}"),
    unary("torch.arange({n}).float() + {t}"),
    unary("F.max_pool1d({t}, {k})", 2),
    unary("F.avg_pool2d({t}, {k})", 3),
    unary("F.interpolate({t}, scale_factor=2)", 3),
    unary("F.cross_entropy({t}, torch.zeros({n}, dtype=torch.long))", 1),
    unary("F.embedding(torch.zeros({n}, dtype=torch.long), {t})", 2),
    unary("{t}.gather({d}, torch.zeros({t}.shape, dtype=torch.long))", 1),
    block("@ = {t}", "if {t}.shape[0] > {k}:", "    @ = {t}[:{k}]"),
    block("@ = {t}", "if {n} == {k}:", "    @ = {t} + {u}"),
    block(
        "parts = []", "for i in range({t}.shape[0]):", "    parts.append({t}[i])", "@ = torch.stack(parts)"
    ),
    block("@ = {t}", "for i in range({n}):", "    @ = torch.cat([@, {t}])"),
    block("@ = {t}", "while @.shape[0] > {k}:", "    @ = @[1:]"),
    block("@ = {t}", "try:", "    @ = {t}.view({n}, -1)", "except RuntimeError:", "    pass"),
)


def raises(program: Program, sizes: Mapping[str, int]) -> Exception | None:
    """What plain torch raises for given sizes; None if it runs to the end."""
    space: dict[str, Any] = {}
    exec(program.source(), space)
    try:
        space["run"](**arguments(program, sizes))
    except Exception as error:
        return error
    return None
