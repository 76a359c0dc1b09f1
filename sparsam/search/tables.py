"""What a layer's halves take on this machine: the time of every number of heads and filters, over several numbers of tokens.

A table is measured once for a machine, a number format, a shape of layer and a profile of lengths, and kept in the user's cache
with the facts of the machine; on another one it is refused. Times are medians over sweeps that go through all entries in turn,
so that a disturbance falls on all of them.

What is timed is what :func:`sparsam.freeze` would run. Where a layer is two calls (:mod:`sparsam.runtime.encoder`), the second
one's time is split, since its tokens are those that a rule let go on:

    attention   mix, of so many heads
    out         rest without filters, less that of neither: the heads' output product
    ffn         rest without heads: norms, and so many filters
"""

import copy
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sparsam.artifact.manifest import read_json
from sparsam.artifact.staging import user_cache, write_whole
from sparsam.errors import Refused
from sparsam.measure import machine_facts
from sparsam.models import stack_of
from sparsam.models.encoder import Block, call
from sparsam.models.lift import resize_layer
from sparsam.plan import LayerPlan
from sparsam.runtime.encoder import Workspace, machine
from sparsam.runtime.frozen import FrozenBlock, code_for, native_layer
from sparsam.search.integers import put_quickly

SCHEMA = 2
"""2 since layers in machine code are measured as such, and products in integers too."""

SWEEPS = 7
"""How often every entry is timed; the median counts."""

SHARES = (1.0, 0.6, 0.35, 0.2, 0.1)
"""Shares of a profile's tokens that tables are measured at; between them times are interpolated."""

ENTRIES = 48
"""Numbers of filters in a table, about. Chosen by us: products take their time in steps, of 16 or 32 filters here."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Table:
    """Milliseconds of one half of a layer: ``times[i][j]`` with ``units[i]`` units on ``tokens[j]`` tokens."""

    units: tuple[int, ...]
    tokens: tuple[int, ...]
    times: tuple[tuple[float, ...], ...]

    def at(self, tokens: float) -> NDArray[np.float64]:
        """The time of each number of units on so many tokens, interpolated; beyond the table in proportion."""
        x, y = np.asarray(self.tokens, np.float64), np.asarray(self.times)
        found = np.array([np.interp(tokens, x, row) for row in y])
        scaled: NDArray[np.float64] = found * max(1.0, tokens / x[-1])
        return scaled


@dataclass(frozen=True)
class Tables:
    """The halves of a model's layers on this machine: those of a middle layer, and the last one's attention."""

    machine: dict[str, Any]
    profile: dict[str, Any]
    attention: Table
    last_attention: Table
    ffn: Table
    out: Table | None = None
    """The heads' output product, of the tokens that go on; None where it is part of ``attention``."""

    def save(self, file: Path) -> None:
        """Write it whole or not at all."""
        write_whole(file, json.dumps({"schema": SCHEMA} | asdict(self), allow_nan=False) + "\n")

    @staticmethod
    def load(file: Path) -> "Tables":
        """Read a table that was measured here.

        Raises:
            Refused: ``table-machine`` for one of another machine, ``table-invalid`` for one that cannot be read.
        """
        held = read_json(file)
        try:
            if held.pop("schema") != SCHEMA:
                raise ValueError("its schema is another one")
            parts = {
                name: Table(tuple(x["units"]), tuple(x["tokens"]), tuple(map(tuple, x["times"])))
                for name, x in ((name, held[name]) for name in ("attention", "last_attention", "ffn", "out"))
                if x is not None or name != "out"
            }
            found = Tables(dict(held["machine"]), dict(held["profile"]), **parts)
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(
                f"{file} is not a table of times ({error}). Delete it; it is measured again.",
                code="table-invalid",
            ) from None
        here = facts_here()
        other = [name for name in here if here[name] != found.machine.get(name)]
        if other:
            told = "; ".join(f"{name} {found.machine.get(name)!r}, here {here[name]!r}" for name in other)
            raise Refused(
                f"{file} was measured on another machine ({told}). Delete it, or name another folder; tables are measured "
                "where they are used.",
                code="table-machine",
            )
        return found


def facts_here() -> dict[str, Any]:
    """What times depend on: processor, instructions, cores, threads, torch."""
    facts = machine_facts()
    return {
        "processor": facts["processor"],
        "instructions": list(facts["instructions"]),
        "cores": facts["cores"],
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }


def tables_of(
    model: Any,
    lengths: Sequence[int],
    dtype: str,
    *,
    integers: bool = False,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tables:
    """The tables of a lifted model's layers for batches of these lengths; measured if there are none in the cache yet.

    Args:
        model: lifted, dense; its first layer gives the shape of all.
        lengths: of the sequences of one batch.
        dtype: ``float32`` or ``bfloat16``.
        integers: with products in integers of eight bits; everything else is float32 then.
        cache: folder of tables; ``sparsam/tables`` in the user's cache if absent.
        progress: told of entries timed.
    """
    stack = stack_of(model)
    block = stack.blocks[0]
    width = int(block.part("head_width"))
    dtype = "float32" if integers else dtype
    code = code_for(stack, DTYPES[dtype], integers)
    profile = {
        "dtype": dtype, "products": "int8" if integers else dtype, "calls": code is not None,
        "width": block.part("q").weight.shape[1], "head_width": width, "family": stack.family.name,
        "heads": block.part("q").weight.shape[0] // width, "filters": block.part("up").weight.shape[0],
        "lengths": [int(n) for n in lengths],
    }  # fmt: skip
    key = json.dumps([SCHEMA, facts_here(), profile], sort_keys=True)
    file = (cache or user_cache("tables")) / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    if file.is_file():
        return Tables.load(file)
    found = _measured(stack.blocks[0], profile, progress)
    file.parent.mkdir(parents=True, exist_ok=True)
    found.save(file)
    return found


def offered_filters(count: int) -> list[int]:
    """Numbers of filters in a table: multiples of 16 that leave about :data:`ENTRIES`, none, and all."""
    step = 16 * max(1, round(count / ENTRIES / 16))
    return sorted({*range(0, count + 1, step), count})


@torch.inference_mode()
def _measured(block: Block, profile: dict[str, Any], progress: Callable[[int, int], None] | None) -> Tables:
    lengths = np.asarray(profile["lengths"])
    batches = [np.maximum(1, np.rint(share * lengths)).astype(np.int64) for share in SHARES]
    batches = [*{int(b.sum()): b for b in [*batches, np.ones_like(lengths)]}.values()]
    batches.sort(key=lambda b: int(b.sum()))
    tokens = [int(b.sum()) for b in batches]
    starts = [np.concatenate([[0], np.cumsum(b)]) for b in batches]
    heads, filters = list(range(profile["heads"] + 1)), offered_filters(profile["filters"])
    works = _calls if profile["calls"] else _halves
    parts = works(block, profile, heads, filters, tokens, starts)
    entries = [work for _, group in parts for work in group]
    times = timed(entries, progress)
    tables: list[Table] = []
    at = 0
    for units, group in parts:
        rows = times[at : at + len(group)].reshape(len(units), len(tokens))
        at += len(group)
        if len(tables) == 3:  # what norms take is in the filters' part
            rows = np.maximum(0.0, rows - rows[:1])
        tables.append(Table(tuple(units), tuple(tokens), tuple(tuple(float(t) for t in row) for row in rows)))
    return Tables(facts_here(), profile, *tables)


Part = tuple[Sequence[int], list[Callable[[], Any]]]
"""Units on offer, and what is timed: for each number of units, on each number of tokens."""


def _halves(
    block: Block,
    profile: dict[str, Any],
    heads: Sequence[int],
    filters: Sequence[int],
    tokens: Sequence[int],
    starts: Sequence[NDArray[np.int64]],
) -> list[Part]:
    """Attention, the last layer's, and feed-forward part as frozen blocks run them."""
    dtype = DTYPES[profile["dtype"]]
    inputs = [torch.randn(count, profile["width"]).to(dtype) for count in tokens]
    parts: list[Part] = []
    for alone in (False, True):
        group: list[Callable[[], Any]] = []
        for count in heads:
            one = FrozenBlock(_of_size(block, count, 0, profile), dtype, alone)
            group += [
                partial(one.attend_packed, x, start, scores=False, alone=alone)
                for x, start in zip(inputs, starts, strict=True)
            ]
        parts.append((heads, group))
    blocks = [FrozenBlock(_of_size(block, 0, count, profile), dtype, False) for count in filters]
    parts.append((filters, [partial(one.ffn, x, linear=call) for one in blocks for x in inputs]))
    return parts


def _calls(
    block: Block,
    profile: dict[str, Any],
    heads: Sequence[int],
    filters: Sequence[int],
    tokens: Sequence[int],
    starts: Sequence[NDArray[np.int64]],
) -> list[Part]:
    """The same of layers in machine code, and the heads' output product."""
    code, room = machine(), Workspace()
    assert code is not None
    inputs = [torch.randn(count, profile["width"]) for count in tokens]
    each = profile["heads"] * profile["head_width"]
    mixed = np.random.default_rng(0).standard_normal(tokens[-1] * each).astype(np.float32)
    layers, last = (
        [native_layer(_of_size(block, count, 0, profile), code, alone=alone) for count in heads]
        for alone in (False, True)
    )
    parts: list[Part] = [
        (heads, [partial(one.mix, x, s, room) for one in group for x, s in zip(inputs, starts, strict=True)])
        for group in (layers, last)
    ]
    wide = [native_layer(_of_size(block, 0, count, profile), code, alone=False) for count in filters]
    parts.append((filters, [partial(one.rest, x, mixed, None) for one in wide for x in inputs]))
    parts.append((heads, [partial(one.rest, x, mixed, None) for one in layers for x in inputs]))
    return parts


def timed(
    works: Sequence[Callable[[], Any]], progress: Callable[[int, int], None] | None
) -> NDArray[np.float64]:
    """Milliseconds of each: the median over sweeps."""
    seconds = np.empty((SWEEPS + 1, len(works)))
    for sweep in range(SWEEPS + 1):  # the first one warms up
        for at, work in enumerate(works):
            work()  # its weights come from further away the first time than between two batches of one model
            started = time.perf_counter()
            work()
            seconds[sweep, at] = time.perf_counter() - started
        if progress is not None:
            progress(sweep + 1, SWEEPS + 1)
    found: NDArray[np.float64] = 1000 * np.median(seconds[1:], 0)
    return found


def _of_size(block: Block, heads: int, filters: int, profile: dict[str, Any]) -> Block:
    """A layer of these sizes, with random weights."""
    layer: nn.Module = copy.deepcopy(block.layer).eval().requires_grad_(False)
    left = LayerPlan(tuple(range(heads)), tuple(range(filters)))
    resize_layer(layer, block.family, left)
    made = Block(layer, block.family, left)
    if profile["products"] == "int8":
        made = Block(layer, block.family, replace(left, formats=put_quickly(made)))
    return made
