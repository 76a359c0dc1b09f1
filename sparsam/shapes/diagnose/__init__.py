"""From an exception to a sentence: one rule for each diagnostic, whose docstring is its page.

A rule looks at the call that failed (:class:`~sparsam.shapes.diagnose.call.Call`) and builds its message from what was
called with what; the framework's own sentence is used where the operands do not say enough. The rules are asked in the
order of :data:`RULES`, the particular before the general, and the last always answers.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType

from sparsam.errors import Refused
from sparsam.shapes.diagnose import (
    attention,
    convolution,
    dtypes,
    indexing,
    joining,
    losses,
    norms,
    products,
    program,
    ranks,
    views,
)
from sparsam.shapes.diagnose.call import Call
from sparsam.shapes.diagnose.rule import Rule
from sparsam.shapes.verdict import Failure, Symbol, Value

__all__ = ["FAMILIES", "RULES", "explain_failure", "rule_of"]

LONGEST = 300
"""Characters of a message. Chosen by us."""


def _rules(module: ModuleType) -> list[Rule]:
    return [found for found in vars(module).values() if isinstance(found, Rule)]


FAMILIES: Mapping[str, tuple[Rule, ...]] = {
    "Types and devices": tuple(_rules(dtypes)),
    "Views": tuple(_rules(views)),
    "Products": tuple(_rules(products)),
    "Joining, splitting, broadcasting": tuple(_rules(joining)),
    "Images": tuple(_rules(convolution)),
    "Normalisation": tuple(_rules(norms)),
    "Losses": tuple(_rules(losses)),
    "Indices": tuple(_rules(indexing)),
    "Dimensions and sizes": tuple(_rules(ranks)),
    "Attention and recurrence": tuple(_rules(attention)),
    "Data and the program": tuple(_rules(program)),
}
"""All rules by family of operations, in the order of their pages."""

_BY_CODE = {found.code: found for family in FAMILIES.values() for found in family}
_FIRST = (
    "device-mix", "index-rank", "index-shape", "last-batch", "norm-single", "state-dict", "unpack-rank", "collate-sizes",
    "channels",
    "loss-weight", "loss-target-rank", "loss-batch", "loss-shape", "attention-sizes", "attention-width", "empty",
    "interpolate", "pad-sizes", "pixel-shuffle", "tensor-rank", "norm-groups", "norm-width", "conv-groups",
)  # fmt: skip
_LAST = ("own-raise", "argument-type", "argument-value", "program-error", "framework")
_MIDDLE = tuple(code for code in _BY_CODE if code not in _FIRST + _LAST)

RULES: Mapping[str, Rule] = {code: _BY_CODE[code] for code in _FIRST + _MIDDLE + _LAST}
"""All rules by code, in the order in which they are asked."""

OF_PROGRAM = frozenset(
    {"unpack-rank", "zero-division", "shape-index", "own-raise", "program-error", "state-dict", "empty"}
)
"""Rules that may answer for an exception that a line of the program raises itself."""


def explain_failure(
    failure: Failure,
    witness: Mapping[str, Value],
    requirement: str | None = None,
    symbols: Iterable[Symbol] = (),
    conditions: Sequence[str] = (),
) -> tuple[str, str, str, str]:
    """Code, message, what stands under the marked piece, and hint of a failure.

    Args:
        failure: What failed, where.
        witness: Sizes for which it fails.
        requirement: The condition that these sizes break, None where it depends on no size.
        symbols: What is known of the symbols; meanings with "last batch" and "index of a sample" are seen.
        conditions: What was decided on the way there ("N % B > 0").

    Returns:
        Four texts of one line each; the last two are "" where there is nothing to say.
    """
    call = Call(failure, witness, requirement, {symbol.name: symbol for symbol in symbols}, conditions)
    own = not failure.operation and not failure.aten and raises_itself(failure)
    for code, rule in RULES.items():
        if (own and code not in OF_PROGRAM) or not rule.fits(call):
            continue
        answer = rule.explain(call)
        if answer is not None:
            return code, _short(answer.message), _short(answer.caret), _short(answer.fix)
    return "framework", _short(f"{failure.error}: {call.text}"), "", ""


def raises_itself(failure: Failure) -> bool:
    """Whether the failing line is a `raise` or `assert` of the program (a library's exception ends at another line)."""
    return bool(re.search(r"\b(raise|assert)\b", failure.place.source)) if failure.chain else False


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1].rstrip() + "…"


def rule_of(code: str) -> Rule:
    """The rule with this code.

    Raises:
        Refused: If there is none; the codes that come near are named.
    """
    import difflib

    if code in RULES:
        return RULES[code]
    near = difflib.get_close_matches(code[:60], RULES, n=3, cutoff=0.4)
    meant = f" Did you mean {', '.join(near)}?" if near else " docs/shapes/diagnostics.md lists them."
    raise Refused(f"There is no diagnostic {code[:60]!r}.{meant}", code="unknown-diagnostic")
