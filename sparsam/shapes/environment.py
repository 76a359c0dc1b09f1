"""The symbols of one run: each has a hint, and what is asked about them is answered by the hints and written down."""

import dataclasses
import functools
import math
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import sympy
import torch
from torch._dynamo.source import ConstantSource
from torch._guards import SLoc
from torch.fx.experimental.sym_node import SymNode
from torch.fx.experimental.symbolic_shapes import ShapeEnv, ValueRangesSLoc
from torch.utils._sympy.functions import FloorDiv, Mod
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

from sparsam.shapes.verdict import Place, Symbol

# The framework tells kinds of symbols by the first letters of their names: sizes are "s…", floats "zf…".
SIZE = "s_"
REAL = "zf_"
DATA = "data"
CHOICE = "choice"
VALUE = re.compile(r"(?:s_|zf_)v(\d+)")  # names of symbols of values

Number = int | float


@dataclasses.dataclass(frozen=True)
class Literal:
    """One entry of the ordered pool of a run.

    Args:
        condition: True for the hints of the run.
        kind: "guard" for a comparison that was asked for, which could have gone the other way; "assumption" for a fact
            about a fresh symbol.
        place: Line of the program that led to it, None where none did.
        specialised: Whether the program turned the expression into a plain number, so that the guard is an equality
            with a value that means nothing by itself.
        cause: `DATA` where the framework asked the data for its own sake: whether what it was given is valid. `CHOICE` where
            a loop asked whether its round begins as one of those that were seen.
    """

    condition: sympy.Basic
    kind: str
    place: Place | None = None
    specialised: bool = False
    cause: str = ""


@dataclasses.dataclass(frozen=True)
class Unknown:
    """A symbol of the program as it is declared: name as printed, range, and what it stands for."""

    name: str
    low: Number | None = 0
    high: Number | None = None
    integer: bool = True
    kind: str = "size"
    meaning: str = ""


class Shapes(ShapeEnv):
    """Torch's environment of symbolic sizes, in which every symbol has a hint and nothing is assumed about 0 and 1.

    Sizes that depend on data, and numbers read out of tensors, are symbols like the others ("values"): the n-th that a
    run asks for is `v<n>`, so that a later run that goes the same way finds the same.

    Args:
        hints: Value of each symbol, by printed name; of values that are not in it, a default within their range.
        place: Gives the line of the program for the calling frame.
        plain: Sizes are plain numbers, their hints; values are symbols nevertheless.
        inside: Whether a frame asks for the framework's own sake, and not for the program's.
    """

    def __init__(
        self,
        hints: Mapping[str, Number],
        place: Callable[[FrameType | None], Place | None],
        *,
        plain: bool = False,
        inside: Callable[[FrameType | None], bool] = lambda frame: False,
    ) -> None:
        super().__init__(
            specialize_zero_one=False,
            duck_shape=False,
            allow_scalar_outputs=True,
            allow_dynamic_output_shape_ops=True,
        )
        self.hints = dict(hints)
        self.literals: list[Literal] = []
        self.symbols: dict[str, Symbol] = {}
        self.values = 0
        self.quiet = 0
        self.fresh: dict[str, int] = {}  # value symbol: position in `literals` at its birth
        self.plain = plain
        # Worked out once: results of operations on expressions, strides of items that lie in order, and others.
        self.results: dict[Any, SymNode] = {}
        self.strides: dict[Any, Any] = {}
        self._quotients: dict[Any, Any] = {}
        self._as_many: dict[Any, tuple[int, ...] | None] = {}
        self._quietly: dict[sympy.Basic, Any] = {}
        self._answered: dict[Any, Any] = {}
        self.asked: set[str] = set()  # symbols that something was asked about since `asked_anew` …
        self.answers: dict[sympy.Basic, None] = {}  # … and what was answered
        self.questions = 0  # about symbols, those that the ranges decide included
        self.value_questions = 0  # of these, about values
        self.truths: set[sympy.Basic] = set()
        self._place = place
        self._inside = inside
        self._seen: set[sympy.Basic] = set()
        decide = self._maybe_evaluate_static

        def noted(expression: Any, *args: Any, **kwargs: Any) -> Any:
            known = decide(expression, *args, **kwargs)
            self._note(expression, known)
            return known

        noted.cache_clear = decide.cache_clear  # type: ignore[attr-defined]
        self._maybe_evaluate_static = noted  # type: ignore[assignment]

    def _get_stack_summary(
        self, is_debug: bool = False, framework_loc: str | None = None
    ) -> tuple[SLoc, str]:
        """Where something was asked, for the framework's own messages: literals know it better."""
        return SLoc(framework_loc, None), ""

    # -- symbols ------------------------------------------------------------------------------------------------------

    def declare(self, unknown: Unknown) -> Any:
        """A SymInt (SymFloat where it is not whole) for an unknown; the same for the same name.

        Raises:
            ValueError: If the hint lies outside the range.
        """
        symbol = self.symbol(unknown)
        hint = self.hints[unknown.name]
        if self.plain and unknown.kind == "size":
            return int(hint) if unknown.integer else float(hint)
        return self._node(symbol, hint, unknown.integer)

    def symbol(self, unknown: Unknown) -> sympy.Symbol:
        """The sympy symbol of an unknown, entered into the environment."""
        low, high = unknown.low, unknown.high
        symbol = sympy_symbol(unknown)
        if symbol in self.backed_var_to_val:
            return symbol
        hint = self.hints.get(unknown.name)
        if (
            hint is None
            or (unknown.integer and hint != int(hint))
            or (low is not None and hint < low)
            or (high is not None and hint > high)
        ):
            hint = default(low, high)
        self.hints[unknown.name] = hint
        infinite = int_oo if unknown.integer else sympy.oo
        number = sympy.Integer if unknown.integer else sympy.Float
        bounds = ValueRanges(
            -infinite if low is None else number(low), infinite if high is None else number(high)
        )
        self.backed_var_to_val[symbol] = number(hint)
        self.var_to_range[symbol] = bounds
        location = self._get_sloc()
        self.var_to_range_sloc[symbol] = ValueRangesSLoc(location, location)
        self.var_to_sources[symbol] = [ConstantSource(unknown.name)]
        self.symbol_guard_counter[symbol] = 0
        self.symbols[unknown.name] = Symbol(
            unknown.name, low, high, unknown.kind, unknown.meaning, self._place(sys._getframe(1))
        )
        if unknown.kind == "value":
            self.fresh[unknown.name] = len(self.literals)
            for condition in range_of(symbol, low, high):
                self.literals.append(Literal(shared(condition), "assumption"))
        return symbol

    def value(
        self, meaning: str, low: Number | None = None, high: Number | None = None, *, integer: bool = True
    ) -> Any:
        """A number that only the data, chance or the outside know, as a SymInt or SymFloat."""
        name = f"v{self.values}"
        self.values += 1
        return self.declare(Unknown(name, low, high, integer, "value", meaning))

    def index(self, meaning: str, count: Any, first: int = 0) -> Any:
        """A whole number from `first` to below a count that may be a symbol.

        Raises:
            Divergence: If there is none.
        """
        known = int(self._hint(count.node.expr)) if isinstance(count, torch.SymInt) else int(count)
        name = f"v{self.values}"
        if not first <= self.hints.get(name, first - 1) < known:
            self.hints[name] = min(first + 1, known - 1)
        made = self.value(meaning, first, None if isinstance(count, torch.SymInt) else known - 1)
        self.assume(made < count)
        return made

    def truth(self, meaning: str) -> torch.SymBool:
        """A yes or no that only the data know."""
        whole = self.value(meaning, 0, 1)
        expression = whole.node.expr if isinstance(whole, torch.SymInt) else sympy.Integer(whole)
        self.truths |= expression.free_symbols
        return torch.SymBool(SymNode(sympy.Eq(expression, 1), self, bool, bool(self._hint(expression))))

    def assume(self, condition: Any) -> None:
        """A fact about symbols that holds of itself (PyTea's hard class). It must hold for the hints.

        Raises:
            Divergence: If it does not: the hints are of no run.
        """
        if isinstance(condition, bool):
            if not condition:
                raise Divergence("an assumption is false")
            return
        expression = condition.node.expr
        if not bool(expression.xreplace(self.backed_var_to_val)):
            raise Divergence(f"the sizes do not satisfy {expression}")
        self.literals.append(Literal(shared(expression), "assumption"))
        with self.unrecorded():
            bool(condition)

    def _node(self, symbol: sympy.Basic, hint: Number, integer: bool) -> Any:
        if integer:
            return torch.SymInt(SymNode(symbol, self, int, int(hint)))
        return torch.SymFloat(SymNode(symbol, self, float, float(hint)))

    def _hint(self, expression: sympy.Basic) -> Any:
        return expression.xreplace(self.backed_var_to_val)

    def shown(self, expression: sympy.Basic) -> Number:
        """The number that a text has in place of an expression: the same in all runs, whatever their sizes.

        A text is part of the program's state. With a run's own number in it, no other run would ever be in the same state.
        """
        if self.plain:
            return number_of(self._hint(expression))
        if not expression.is_Symbol and self._is_of_data(expression):
            return 1  # whatever it is worked out from: each way through the program works out another
        samples = {}
        for symbol in symbols_of(expression):
            known = self.symbols.get(printed(symbol))
            if known is None:
                return number_of(self._hint(expression))
            size = known.kind == "size"
            sample = within(known.low, known.high, 2 + zlib.crc32(known.name.encode()) % 7 if size else 1)
            samples[symbol] = sympy.Integer(sample) if symbol.is_integer else sympy.Float(sample)
        try:
            found = expression.xreplace(samples)
        except ZeroDivisionError:
            found = sympy.nan
        return number_of(found if found in (True, False) or found.is_finite else self._hint(expression))

    def _is_of_data(self, expression: sympy.Basic) -> bool:
        """Whether this is a real number that depends on data; whole numbers count, and are told apart."""
        if not isinstance(expression, sympy.Expr) or expression.is_integer:
            return False
        known = (self.symbols.get(printed(symbol)) for symbol in symbols_of(expression))
        return any(symbol is not None and symbol.kind == "value" for symbol in known)

    # -- what torch calls -----------------------------------------------------------------------------------------------

    def create_unbacked_symint(self, source: Any = None) -> torch.SymInt:
        """A number that depends on data: a value with a hint."""
        made: torch.SymInt = self.value("a number read from data")
        return made

    def create_unbacked_symfloat(self) -> torch.SymFloat:
        """A real number that depends on data."""
        made: torch.SymFloat = self.value("a number read from data", integer=False)
        return made

    def create_unbacked_symbool(self) -> torch.SymBool:
        """A truth that depends on data."""
        return self.truth("a truth read from data")

    def _constrain_range_for_size(
        self, a: sympy.Symbol, min: int | None = None, max: int | None = None
    ) -> None:
        self._limit(a, 0 if min is None else min, max)

    def constrain_symbol_range(  # type: ignore[override]
        self, s: sympy.Symbol, compiler_min: int, compiler_max: int
    ) -> None:
        """A range that the framework knows of a number that depends on data."""
        self._limit(s, compiler_min, compiler_max)

    def _limit(self, symbol: sympy.Symbol, low: Any, high: Any) -> None:
        low = None if low is None or low in (-int_oo, -sympy.oo) or low <= -(2**62) else int(low)
        high = None if high is None or high in (int_oo, sympy.oo) or high >= 2**62 else int(high)
        name = printed(symbol)
        hint = self.hints[name]
        if self.fresh.get(name) is None:
            return
        if (low is not None and hint < low) or (high is not None and hint > high):
            self.hints[name] = hint = default(low, high)
            for kept in (self.results, self.strides, self._quotients, self._quietly, self._answered):
                kept.clear()
            self.backed_var_to_val[symbol] = sympy.Integer(hint)
        for condition in range_of(symbol, low, high):
            self.literals.append(Literal(shared(condition), "assumption"))
        bounds = ValueRanges(
            -int_oo if low is None else sympy.Integer(low), int_oo if high is None else sympy.Integer(high)
        )
        self.var_to_range[symbol] = self.var_to_range[symbol] & bounds

    def known_equal(self, one: Any, other: Any) -> bool:
        """Whether two sizes, numbers or expressions, are the same as far as is known, without a decision."""
        difference = sympy.expand(sympy.sympify(one) - sympy.sympify(other))
        if difference == 0:
            return True
        if not difference.free_symbols:
            return False
        same = self._maybe_evaluate_static(sympy.Eq(sympy.sympify(one), sympy.sympify(other)))
        return bool(same == sympy.true)

    def as_many(self, known: tuple[Any, ...], asked: tuple[Any, ...]) -> tuple[int, ...] | None:
        """Whether there are certainly as many items in a tensor of these sizes as in one of those, which may be below 0.

        Args:
            known: Sizes of a tensor, numbers or expressions.
            asked: What is to be its sizes.

        Returns:
            Which of the latter may be below 0, None if the numbers of items may be different.
        """
        if (known, asked) not in self._as_many:
            one, other = (sympy.Mul(*map(sympy.sympify, sizes)) for sizes in (known, asked))
            self._as_many[known, asked] = (
                tuple(at for at, size in enumerate(asked) if not self._is_size(sympy.sympify(size), known))
                if one == other or sympy.expand(one - other) == 0
                else None
            )
        return self._as_many[known, asked]

    def quotient(self, one: tuple[Any, ...], other: tuple[Any, ...]) -> Any:
        """The product of sizes, divided by that of others that are among its factors and not 0; None if they are not."""
        if (one, other) not in self._quotients:
            top, bottom = (sympy.Mul(*map(sympy.sympify, sizes)) for sizes in (one, other))
            left = _without_factors(top, bottom)
            if left is not None:
                left = int(left) if left.is_Integer else self._node(left, int(self._hint(left)), True)
            self._quotients[one, other] = left
        return self._quotients[one, other]

    def _is_size(self, expression: sympy.Basic, sizes: tuple[Any, ...]) -> bool:
        """Whether this is no less than 0 whenever some sizes are not, by what is declared of symbols and nothing else."""
        if expression in sizes:
            return True
        if expression.is_Integer:
            return bool(expression >= 0)
        if expression.is_Symbol:
            known = self.symbols.get(printed(expression))
            return known is not None and known.kind == "size" and known.low is not None and known.low >= 0
        return isinstance(expression, (sympy.Add, sympy.Mul, FloorDiv, Mod)) and all(
            self._is_size(part, sizes) for part in expression.args
        )

    def asked_anew(self) -> tuple[set[str], tuple[sympy.Basic, ...]]:
        """Symbols that something was asked about since the last call, decided by itself or not, and the answers."""
        asked, self.asked = self.asked, set()
        answers, self.answers = tuple(self.answers), {}
        return asked, answers

    def evaluate_expr(
        self,
        orig_expr: Any,
        hint: Any = None,
        fx_node: Any = None,
        size_oblivious: bool = False,
        fallback_value: Any = None,
        *,
        forcing_spec: bool = False,
    ) -> Any:
        """What torch asks about sizes; the same question has the same answer as long as the hints are the same."""
        if not isinstance(orig_expr, sympy.Basic) or not symbols_of(orig_expr):
            return super().evaluate_expr(
                orig_expr, hint, fx_node, size_oblivious, fallback_value, forcing_spec=forcing_spec
            )
        if self.quiet:
            quiet = self._quietly.get(orig_expr)
            if quiet is None:
                quiet = self._quietly[orig_expr] = self._hint(orig_expr)
            if quiet.is_number or quiet in (sympy.true, sympy.false):
                return quiet
        question = orig_expr, size_oblivious, fallback_value, forcing_spec, self.quiet > 0
        answer = self._answered.get(question)
        if answer is None:
            answer = super().evaluate_expr(
                orig_expr, hint, fx_node, size_oblivious, fallback_value, forcing_spec=forcing_spec
            )
            self._answered[question] = answer
        self._note(orig_expr, answer)
        return answer

    def _note(self, expression: Any, answer: Any) -> None:
        if self.quiet:
            return
        names = (
            {symbol.name for symbol in symbols_of(expression)}
            if isinstance(expression, sympy.Basic)
            else set()
        )
        if names:
            self.asked |= names
            self.questions += 1
            self.value_questions += any(map(VALUE.fullmatch, names))
            if answer is not None:
                if isinstance(expression, sympy.logic.boolalg.Boolean) and not expression.is_Symbol:
                    condition = expression if answer else sympy.Not(expression)
                else:
                    condition = sympy.Eq(expression, answer)
                if condition not in (sympy.true, sympy.false):
                    self.answers[shared(condition)] = None

    def _maybe_guard_rel(self, expr: Any) -> None:  # type: ignore[override]
        # Torch draws conclusions from products too, and takes a factor that may be 0 for one that it can divide by.
        if isinstance(expr, sympy.And):
            for part in expr.args:
                self._maybe_guard_rel(part)
        elif _linear(expr) and _linear(self.simplify(expr)):
            super()._maybe_guard_rel(expr)

    def _set_replacement(self, a: sympy.Symbol, tgt: sympy.Expr, msg: str) -> None:
        # Torch would write a number wherever a size turns out to be one. Here a size keeps its name: the states of two
        # runs can be compared, and each question about it is seen.
        if tgt.is_number and a in self.var_to_range and not self.var_to_range[a].is_singleton():
            self._update_var_to_range(a, ValueRanges(tgt, tgt))

    def _log_guard(self, prefix: str, g: Any, forcing_spec: bool) -> None:
        # Called once for each comparison that the ranges do not decide, those that torch keeps to itself included.
        if self.quiet or g in self._seen:
            return
        self._seen.add(g)
        frame = sys._getframe(1)
        self.literals.append(
            Literal(
                shared(g),
                "guard",
                self._place(frame),
                specialised=isinstance(g, sympy.Eq) and _turned_into_number(frame),
                cause=DATA if g.free_symbols <= self.truths and self._inside(frame) else "",
            )
        )

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """What is asked within is decided by hints and not written down, and nothing is concluded from it for later."""
        self.quiet += 1
        try:
            yield
        finally:
            self.quiet -= 1


SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)


def symbolic(value: Any) -> bool:
    """Whether a number is a symbol."""
    return isinstance(value, SYMBOLIC)


class Divergence(BaseException):
    """The hints belong to no run: they break what only the run itself knows about its symbols."""


def _linear(condition: Any) -> bool:
    """Whether a comparison is one of sums of symbols, or of remainders, times numbers."""
    if not isinstance(condition, sympy.core.relational.Relational):
        return False
    return all(
        term.is_number or isinstance(term.as_coeff_Mul()[1], (sympy.Symbol, Mod))
        for term in sympy.Add.make_args(condition.lhs - condition.rhs)
    )


def _turned_into_number(frame: FrameType | None) -> bool:
    for _ in range(8):
        if frame is None:
            return False
        if frame.f_code.co_name in (
            "guard_int",
            "guard_float",
            "__int__",
            "__index__",
            "__float__",
            "int_",
            "float_",
        ):
            return True
        frame = frame.f_back
    return False


def _without_factors(top: sympy.Basic, bottom: sympy.Basic) -> sympy.Basic | None:
    """A product without the factors of another one; None if it does not have them all."""
    number, left = top.as_coeff_mul()
    divisor, factors = bottom.as_coeff_mul()
    if divisor == 0 or number % divisor != 0:
        return None
    remaining = list(left)
    for factor in factors:
        if factor not in remaining:
            return None
        remaining.remove(factor)
    return sympy.Mul(number / divisor, *remaining)


def number_of(value: Any) -> Number:
    """A number, or a truth, of sympy's as Python's."""
    if value in (True, False):
        return bool(value)
    return int(value) if getattr(value, "is_Integer", False) else float(value)


def within(low: Number | None, high: Number | None, wish: Number) -> Number:
    """A number if it lies within a range, else the nearest end."""
    wish = wish if high is None else min(wish, high)
    return wish if low is None else max(wish, low)


def default(low: Number | None, high: Number | None) -> Number:
    """A value within a range, small and not degenerate where it may be."""
    low = -math.inf if low is None else low
    high = math.inf if high is None else high
    for value in (1, 0, 2):
        if low <= value <= high:
            return value
    return low if low > -math.inf else high


def sympy_symbol(unknown: Unknown) -> sympy.Symbol:
    """The symbol of an unknown: the same for the same name and range in every run."""
    prefix = SIZE if unknown.integer else REAL
    if not unknown.integer:
        return sympy.Symbol(prefix + unknown.name, real=True)
    low = unknown.low if unknown.kind == "size" else None
    if low is not None and low > 0:
        return sympy.Symbol(prefix + unknown.name, integer=True, positive=True)
    if low is not None and low >= 0:
        return sympy.Symbol(prefix + unknown.name, integer=True, nonnegative=True)
    return sympy.Symbol(prefix + unknown.name, integer=True)


@functools.lru_cache(maxsize=1 << 17)
def symbols_of(expression: sympy.Basic) -> frozenset[sympy.Symbol]:
    """The free symbols of an expression, which are asked for far more often than there are expressions."""
    return frozenset(expression.free_symbols)


@functools.lru_cache(maxsize=1 << 15)
def printed(symbol: sympy.Symbol) -> str:
    """The name of a symbol as it is printed."""
    name: str = symbol.name
    return name.removeprefix(REAL).removeprefix(SIZE)


@functools.lru_cache(maxsize=1 << 17)
def shared(expression: sympy.Basic) -> sympy.Basic:
    """The same object for expressions that are equal: they are looked up far more often than there are expressions."""
    return expression


def range_of(symbol: sympy.Symbol, low: Number | None, high: Number | None) -> list[sympy.Basic]:
    """The bounds of a symbol as conditions."""
    found = []
    if low is not None:
        found.append(sympy.Ge(symbol, low, evaluate=False))
    if high is not None:
        found.append(sympy.Le(symbol, high, evaluate=False))
    return found
