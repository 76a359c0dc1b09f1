"""A run goes on behind known ground, if something is left to try there: n tosses of a coin cost two runs, not n + 1.

Each run costs what lies before the place where it differs from others. A run that has come to a node from which its way is
known to the end (`merging`) has come by all that; values that it has yet to draw, or to read from data, are still free.
They are chosen so that it takes a way further on that is left to try, where there is one; what it does there are edges
like all others. Of what is left, that which such values decide is tried last and the earliest first, so that there is
something further on when a run comes by.
"""

import functools
from collections.abc import Iterable, Mapping

import sympy

from sparsam.shapes.environment import Number, printed, symbols_of
from sparsam.shapes.nodes import Arrival, Memory, Renaming, Step, hidden, holds, own_names
from sparsam.shapes.run import Run
from sparsam.shapes.verdict import Symbol

_SAME = Renaming({})


def following(memory: Memory) -> Arrival | None:
    """What is to be looked at next, taken from the queue; None once nothing is left."""
    queue = memory.queue
    if not queue:
        queue += memory.resume()
    for at in range(len(queue) - 1, -1, -1):
        if not _can_wait(memory, queue[at]):
            return queue.pop(at)
    return queue.pop(0) if queue else None


def aims(run: Run, way: list[Step]) -> bool:
    """Whether there is something to try on a known way; if so, the values yet to come are chosen for it.

    Args:
        run: It is where the way begins.
        way: To the end of the program.
    """
    memory, shapes = run.memory, run.shapes
    left: dict[str, list[Arrival]] = {}
    for region in memory.queue:
        if _can_wait(memory, region) and region not in run.tried:
            left.setdefault(region.node, []).append(region)
    if not left:
        return False
    fixed = {name: shapes.hints[name] for name in shapes.symbols}
    symbols = dict(shapes.symbols)
    before: dict[sympy.Basic, None] = {}  # what has to hold for a run to come as far as a step
    for at, step in enumerate(way):
        for region in left.get(step.node, ()):
            found = _values(memory, region, step, fixed, symbols, before)
            if found is None:
                continue
            run.tried.add(region)
            sizes = {**step.sizes, **found}
            if memory.step(step.node, step.names, step.values, step.sizes, found) is None:
                shapes.hints.update({name: size for name, size in sizes.items() if name not in fixed})
                run.aim = [further.node for further in way[1 : at + 1]]
                return True
        symbols |= {
            step.outer.name(name): symbol for name, symbol in step.edge.symbols.items() if name[0] == "f"
        }
        before |= dict.fromkeys(_about_others(map(step.outer, step.edge.conditions()), fixed))
    return False


def _values(
    memory: Memory,
    region: Arrival,
    step: Step,
    fixed: Mapping[str, Number],
    symbols: Mapping[str, Symbol],
    before: Iterable[sympy.Basic],
) -> dict[str, Number] | None:
    """Values that lead to the node of a region and then into it; None where those that are fixed do not allow it."""
    own = own_names(region)
    there = _known(region)
    born = {
        name for condition in there for symbol in symbols_of(condition) if (name := printed(symbol))[0] == "f"
    }
    outer = Renaming(
        {**step.names, **{name: f"v{step.values + int(name[1:])}" for name in born if name[1:].isdigit()}}
    )
    if not all(_named(printed(symbol), outer) for condition in there for symbol in symbols_of(condition)):
        return None
    conditions = list(map(outer, there))
    free = _about_others(conditions, fixed)
    if not free or not all(
        holds(condition, _SAME, fixed) for condition in conditions if condition not in free
    ):
        return None
    given = {
        outer.names.get(own.names.get(name, name), name): symbol for name, symbol in region.symbols.items()
    }
    return memory.find([*before, *free], {**given, **symbols}, fixed, step.sizes)


def _can_wait(memory: Memory, region: Arrival) -> bool:
    """Whether a value decides between this and what was tried, and it tells nothing of loops: other runs may try it."""
    split = region.split
    return (
        split is not None
        and region.ready == -1
        and not split.specialised
        and split not in memory.loops.choices
        and split.condition not in memory.loops.counts
        and any(hidden(printed(symbol)) for symbol in symbols_of(split.condition))
    )


def _about_others(conditions: Iterable[sympy.Basic], fixed: Mapping[str, Number]) -> list[sympy.Basic]:
    return [one for one in conditions if any(printed(symbol) not in fixed for symbol in symbols_of(one))]


@functools.lru_cache(maxsize=1024)
def _known(region: Arrival) -> tuple[sympy.Basic, ...]:
    """What holds at its node and behind it, in names of the node."""
    own = own_names(region)
    return own.at_the_node(own.known(region.conditions))


def _named(name: str, outer: Renaming) -> bool:
    """Whether a name at a node is one of a size, or stands for something in a run."""
    return name in outer.names or not (name[0] in "wfv" and name[1:].isdigit())
