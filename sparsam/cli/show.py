"""Text, numbers, tables and progress as a terminal shows them.

Names of models, labels and files come from outside. They are printed as text: markup is off on every console here, and
:func:`plain` takes out what would steer a terminal.
"""

import math
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sparsam.plan import Format

_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def plain(text: object) -> str:
    r"""``text`` on one line, without what would steer a terminal: control characters, changes of direction.

    >>> plain("a\x1b[31mb\nc")
    'a[31mb c'
    """
    shown = []
    for character in str(text):
        kind = unicodedata.category(character)
        if character in "\t\n\r" or kind in ("Zl", "Zp"):
            shown.append(" ")
        elif kind == "Cs":
            shown.append("?")
        elif kind != "Cc" and character not in _DIRECTIONS:
            shown.append(character)
    return "".join(shown)


def new_console(error: bool = False) -> "Console":
    """A console on which text is text: no markup, no emoji codes, no guessed colours."""
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 120
    return Console(file=stream, markup=False, emoji=False, highlight=False, width=width, soft_wrap=False)


def new_table(title: str, *columns: str) -> "Table":
    """A table whose cells are folded, never cut."""
    from rich import box
    from rich.table import Table

    table = Table(title=plain(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def integers_in_words(formats: "Mapping[Any, Format]") -> str:
    """Which products of a layer are in integers, with how many bits and what grids their inputs are on.

    >>> from sparsam.plan import Format
    >>> integers_in_words({"up": Format(8), "qkv": Format(8), "o": Format(4, "tensor", 0.1, 7)})
    'qkv, up: 8 bits, inputs token by token; o: 4 bits, inputs on one grid'
    """
    from sparsam.plan import PRODUCTS

    alike: dict[tuple[str, str], list[str]] = {}
    for product in PRODUCTS:
        if product in formats:
            form = formats[product]
            bits = f"{form.bits} bits" + (
                "" if form.pieces is None else f" in pieces of {form.pieces} ({form.pieces + 1} stored)"
            )
            alike.setdefault((bits, form.input), []).append(product)
    how = {"token": "token by token", "tensor": "on one grid"}
    return "; ".join(
        f"{', '.join(products)}: {bits}, inputs {how[inputs]}" for (bits, inputs), products in alike.items()
    )


def short_count(number: float) -> str:
    """A large number with its power of a thousand: 1.36 G."""
    for power, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= power:
            return f"{number / power:.3g} {letter}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class Progress:
    """Stages on standard error: bars with the time left on a terminal, elsewhere a line now and then."""

    SECONDS = 15.0
    """Between two lines. Chosen by us."""

    FIGURES = ("loss", "macs", "lambda")
    """What is shown of the figures that training gives."""

    def __init__(self, console: "Console", clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self.bars: Any = None
        self.bar: Any = None
        self.stage, self.step = "", 0
        self.first = (0, 0.0)
        self.last_line = -math.inf

    def __call__(self, stage: str, step: int, total: int, figures: Mapping[str, float]) -> None:
        """Step ``step`` of ``total`` of a stage is done."""
        new = stage != self.stage or step <= self.step
        self.stage, self.step = stage, step
        said = ", ".join(f"{name} {figures[name]:.3g}" for name in self.FIGURES if name in figures)
        if new:
            self.first, self.last_line = (step, self.clock()), -math.inf
        if self.console.is_terminal:
            self._move(new, stage, step, total, said)
        elif step == total or self.clock() - self.last_line >= self.SECONDS:
            self.last_line = self.clock()
            parts = [
                f"{plain(stage)} {step:,}/{total:,} ({100 * step / max(total, 1):.0f} %)",
                self._left(total),
                said,
            ]
            self.console.print(", ".join(part for part in parts if part), soft_wrap=True)

    def _left(self, total: int) -> str:
        """The time left, from the pace since this process began the stage; empty while there is no pace."""
        done, seconds = self.step - self.first[0], self.clock() - self.first[1]
        return (
            f"{duration(seconds / done * (total - self.step))} left" if done > 0 and self.step < total else ""
        )

    def _move(self, new: bool, stage: str, step: int, total: int, said: str) -> None:
        from rich import progress

        if self.bars is None:
            self.bars = progress.Progress(
                progress.TextColumn("{task.description}", markup=False), progress.BarColumn(),
                progress.MofNCompleteColumn(), progress.TimeElapsedColumn(), progress.TimeRemainingColumn(),
                progress.TextColumn("{task.fields[said]}", markup=False), console=self.console,
            )  # fmt: skip
            self.bars.start()
        if new:
            self.bar = self.bars.add_task(plain(stage), total=total, completed=step, said=said)
        else:
            self.bars.update(self.bar, completed=step, said=said)

    def close(self) -> None:
        """Leave the bars as they stand."""
        if self.bars is not None:
            self.bars.stop()
