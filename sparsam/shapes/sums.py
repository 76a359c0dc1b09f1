"""Values that the state has in one expression alone: what it is worked out from makes no difference to what follows.

The items of the last batch that were right are counted with those of the batches before: `v4` after one batch, `v4 + v5`
after two. Where the state has `v5` nowhere but in this sum, the sum has a name of its own at the node, as a value has that
was read at once, and the two runs are in the same state. That it is a sum is known of the sizes that arrive, like all else.
"""

import collections
import functools
import re
from collections.abc import Iterator, Sequence

import sympy
from torch.utils._sympy.functions import FloatTrueDiv, IntTrueDiv

from sparsam.shapes.environment import VALUE, Unknown, symbols_of, sympy_symbol
from sparsam.shapes.project import written
from sparsam.shapes.state import Node

FIRST = 10**6  # number of the first symbol that stands for an expression, above those of all values


_NUMBER = re.compile(r"_v(\d+)")  # of a value, and perhaps of something else: in a text that is long


def together(numbers: Sequence[Node], text: str) -> dict[sympy.Basic, sympy.Symbol]:
    """Expressions that contain a value which the state has nowhere else, the largest of each, with a symbol for each.

    Args:
        numbers: All symbolic numbers of the state.
        text: All of it.
    """
    times = collections.Counter(
        node.value for node in numbers if not node.value.is_Symbol and _values(node.value)
    )
    if not times:
        return {}
    everywhere = collections.Counter(_NUMBER.findall(text))
    found: dict[sympy.Basic, sympy.Symbol] = {}
    done: set[str] = set()
    parts = dict.fromkeys(part for number in times for part in _parts(number))
    for part in sorted(parts, key=lambda part: (-len(written(part)), written(part))):
        instances = sum(count * _parts(number).count(part) for number, count in times.items())
        alone = {name for name, count in _values(part).items() if count * instances == everywhere[name]}
        if not alone <= done and _may_be_any(part, alone):
            done |= alone
            name = f"v{FIRST + len(found)}"
            found[part] = sympy_symbol(Unknown(name, integer=bool(part.is_integer), kind="value"))
    return found


def _may_be_any(part: sympy.Basic, alone: set[str]) -> bool:
    """Whether its form says no more of an expression than that of a symbol would: twice a number is never 1.

    Such things are known without a question, which the edges would have.
    """
    if part.is_Add:
        return any(match[1] in alone for match in map(VALUE.fullmatch, _single(part)) if match)
    return isinstance(part, (FloatTrueDiv, IntTrueDiv)) and all(
        getattr(part, f"is_{what}") is None
        for what in ("zero", "positive", "negative", "nonnegative", "nonpositive")
    )


def _single(part: sympy.Basic) -> list[str]:
    """Names of the symbols that a sum has once, added or taken away."""
    terms = (term.as_coeff_Mul() for term in part.args)
    return [one.name for times, one in terms if one.is_Symbol and abs(times) == 1]


@functools.lru_cache(maxsize=4096)
def _parts(number: sympy.Basic) -> tuple[sympy.Basic, ...]:
    """Expressions within a number that contain a value and are none by themselves, one as often as it occurs."""
    return tuple(_walk(number))


def _walk(part: sympy.Basic) -> Iterator[sympy.Basic]:
    if part.is_Symbol or not any(VALUE.fullmatch(symbol.name) for symbol in symbols_of(part)):
        return
    if isinstance(part, sympy.Expr):
        yield part
    for argument in part.args:
        yield from _walk(argument)


@functools.lru_cache(maxsize=4096)
def _values(part: sympy.Basic) -> "collections.Counter[str]":
    """How often each value is named in the text of an expression."""
    return collections.Counter(VALUE.findall(written(part)))
