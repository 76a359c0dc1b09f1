"""Branches that come together: a piece of the program is followed once from each state that it begins in.

After a statement that asked something about symbols, the state of a run is written down: all that can be reached from
the program's variables, where its frames and loops stand, but not what is known about the symbols. Runs with the same
state are at the same node. What a run did between two nodes is an edge, which holds wherever its answers do, whatever
else is known: n coin tosses cost a few runs and not 2^n, and the cases of a training loop add to those of the test behind
it, in each pass over both, where they would multiply.

A run that comes to where all is known for its sizes ends there, unless what it has yet to draw or to read can lead it on
to something that is left to try (:mod:`sparsam.shapes.onward`): then one run tries many.

A run at a node that has the answers of an edge comes to the edge's end: where it does (`_as_foretold`), its state is not
written down. Behind an `if` that ends where the one around it does it is written down once for both.

To look whether a state was seen before is what model checkers call stateful search; to let what was followed from a node
answer for those that arrive there later, whose symbols differ, is compositional testing (Godefroid, POPL 2007).
"""

import dataclasses
import hashlib
import inspect
import os
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from sparsam.shapes import modules, onward, overlay, process
from sparsam.shapes.environment import printed
from sparsam.shapes.liveness import adjacent
from sparsam.shapes.nodes import Meaning, Naming, Visit
from sparsam.shapes.project import written
from sparsam.shapes.rewrite import ENTRY, MARK
from sparsam.shapes.run import ENVIRONMENT, FILES, HOOKED, Run, Stop, current
from sparsam.shapes.state import Snapshot, TooLarge, described
from sparsam.shapes.sums import together
from sparsam.shapes.verdict import Place

WORTH = 12  # calls of the framework in a statement that asked about sizes alone, for its end to be looked at
_NUMBER = re.compile(r"[-+.\de]+")  # of the command line: one of many that stand for the same symbol
_NAMES = re.compile(r"_(v\d+)\b")  # of `s_v0` and `zf_v0`, from where on it is rare: the text is long
_KIND = re.compile(r".?\Ws|s|\W?zf", re.DOTALL)  # what comes before it, three characters at most


def fork(site: int) -> int:
    """Before a statement of the program: how many have begun or been left behind."""
    run = current()
    if run is None:
        return 0
    frame = sys._getframe(1)
    run.forks[id(frame), site] = (
        len(run.shapes.literals), run.operations, run.shapes.questions, run.shapes.value_questions,
    )  # fmt: skip
    return run.pass_by()


def last() -> int:
    """Before a statement behind which nothing comes together: how many have begun or been left behind."""
    run = current()
    return 0 if run is None else run.pass_by()


def enter() -> int:
    """When a function of the program begins: how much has been decided."""
    run = current()
    return 0 if run is None else len(run.shapes.literals)


def join(site: int) -> int:
    """After a statement of the program: how many have begun or been left behind.

    Raises:
        Stop: If what follows was followed before.
    """
    run = current()
    if run is None or run.plain:
        return 0
    run.pass_by()
    frame = sys._getframe(1)
    before = run.forks.pop((id(frame), site), None)
    if before is not None and not run.memory.alone:
        _look(run, frame, (frame.f_code.co_filename, site), before)
    return run.passes


def _look(run: Run, frame: types.FrameType, site: Any, before: tuple[int, int, int, int]) -> None:
    memory, shapes = run.memory, run.shapes
    if run.learning and not memory.stuck():
        return  # later runs do not come by here
    literals, operations, questions, value_questions = before
    places = {literal.place for literal in shapes.literals[literals:] if literal.kind == "guard"}
    if not places and site not in memory.sites:
        return
    memory.sites.setdefault(site, set()).update(places)
    if run.visits:
        if not any(memory.forks.get(place, True) for place in memory.sites[site]):
            return  # all sizes go the same way, as far as was seen
        about_values = shapes.value_questions > value_questions
        worth = shapes.questions > questions and run.operations - operations >= WORTH
        if not worth and not about_values:
            return
    elif run.beyond is None or site != run.beyond.site:
        return
    _arrive(run, frame, site)


def come_by(
    run: Run, frame: types.FrameType, place: Place | None, without: Sequence[Any] = (), what: str = "round"
) -> None:
    """At the head of a loop, or of its round that stands for all: what `without` names is about to be set.

    Raises:
        Stop: If what follows was followed before.
    """
    site = (frame.f_code.co_filename, (what, place.line if place else 0, place.column if place else 0))
    if run.plain or run.learning or run.memory.alone:
        return
    if run.visits or (run.beyond is not None and site == run.beyond.site):
        _arrive(run, frame, site, without)


def before_loop(run: Run, frame: types.FrameType) -> None:
    """Before it is asked how many rounds a loop has: what was needed for the one before may be gone by now.

    Not in comprehensions, whose list so far is in no variable.

    Raises:
        Stop: If what follows was followed before.
    """
    if frame.f_code.co_name.startswith("<") and frame.f_code.co_name != "<module>":
        return
    place = run.places.innermost(frame)
    if run.memory.forks.get(place, False):
        come_by(run, frame, place, what="loop")


def _arrive(run: Run, frame: types.FrameType, site: Any, without: Sequence[Any] = ()) -> None:
    memory, shapes = run.memory, run.shapes
    pending = _pending(run, frame)
    if pending and run.visits and pending[0] < run.visits[-1].position:
        return  # the last node does not show what was decided before it
    visit = _as_foretold(run, frame, site) or _visit(run, frame, site, pending, without)
    if visit is None:
        return
    if not run.visits:
        if run.beyond is not None and visit.node == run.beyond.node:
            shapes.asked_anew()  # what was asked before belongs to edges of other runs
            run.visits.append(visit)
            _foretell(run, visit)
        return
    memory.passed(run, visit)
    _foretell(run, visit)
    if run.aim and run.aim.pop(0) == visit.node:
        return
    run.aim = []
    way = memory.way(visit, shapes.hints)
    if way is not None and not onward.aims(run, way):
        run.merged = visit
        raise Stop(None, "merged")


def _foretell(run: Run, visit: Visit) -> None:
    """Where the run comes by next: as long as others have gone the same way, there is no need to look at the state."""
    step = run.memory.step(visit.node, visit.names, visit.values, run.shapes.hints)
    run.foretold = None if step is None else step.foretold(visit.passes)


def _as_foretold(run: Run, frame: types.FrameType, site: Any) -> Visit | None:
    """The node that the run was to come by, if this is where: after as many statements, values and the same answers."""
    known = run.foretold
    if known is None or (site, run.passes, run.shapes.values) != (known.site, known.passes, known.values):
        return None
    if (
        run.visits
        and site in run.memory.apart
        and not all(isinstance(one, str) for one in known.names.values())
    ):
        return None  # symbols have names of their own here, which the node before had put together
    same = known.holds(run.shapes.hints) and run.memory.settings.get(known.node) == _setting(run, frame, site)
    if not same:
        return None
    return _visit_of(run, known.node, site, known.names)


def _visit_of(run: Run, node: str, site: Any, names: Mapping[str, Meaning]) -> Visit:
    literals, values = run.shapes.literals, run.shapes.values
    known = Naming(names, values, values).known(literal.condition for literal in literals)
    return Visit(node, site, len(literals), values, names, known, run.passes)


def _setting(run: Run, frame: types.FrameType, site: Any) -> str:
    """What tells a node beside the values of the state: where all stands, and what is set."""
    sizes = sorted(name for name, symbol in run.shapes.symbols.items() if symbol.kind == "size")
    return f"{(site, _stack(run, frame), [tuple(loop.at) for loop in run.rounds], sizes, _settings(run))}"


def _visit(
    run: Run, frame: types.FrameType, site: Any, pending: tuple[int, ...], without: Sequence[Any]
) -> Visit | None:
    before, run.written = run.written, None
    here = _Written(
        id(frame), frame.f_code, frame.f_lasti, run.passes, _counts(run), site in run.memory.apart
    )
    if before is not None and not without and before.leads_to(here):
        here.text, here.names = before.text, before.names
    elif not _write(run, frame, site, pending, without, here):
        return None
    if not without:
        run.written = here
    setting = _setting(run, frame, site)
    key = hashlib.sha256(f"{setting}{here.text}".encode("utf-8", "surrogatepass")).hexdigest()
    run.memory.settings[key] = setting
    return _visit_of(run, key, site, here.names)


@dataclasses.dataclass
class _Written:
    """The state of a run as it was written down last, and where.

    Args:
        frame: That was in a hook, by its identity.
        code: Of it.
        position: Where it stood.
        passes: How many statements had begun or been left behind.
        counts: What else the run has counted.
        apart: Whether symbols that occur together alone kept their names.
        text: All of it, with names of its own for values.
        names: What these stand for.
    """

    frame: int
    code: types.CodeType
    position: int
    passes: int
    counts: tuple[int, ...]
    apart: bool
    text: str = ""
    names: Mapping[str, Meaning] = dataclasses.field(default_factory=dict)

    def leads_to(self, other: "_Written") -> bool:
        """Whether nothing lies between them: an `if` has ended, and so has the one around it."""
        return (
            self.frame == other.frame
            and self.passes + 1 == other.passes
            and (self.counts, self.apart) == (other.counts, other.apart)
            and adjacent(self.code, self.position, other.position)
        )


def _counts(run: Run) -> tuple[int, ...]:
    return len(run.shapes.literals), run.shapes.values, len(run.rounds), len(run.inductions)


def _write(
    run: Run,
    frame: types.FrameType,
    site: Any,
    pending: tuple[int, ...],
    without: Sequence[Any],
    into: _Written,
) -> bool:
    """Writes the state down; False where it has too many values."""
    try:
        with run.shapes.unrecorded():
            state = Snapshot(
                frame,
                run.places,
                [*(loop.over for loop in run.rounds), *_inputs(frame)],
                gradients=run.memory.gradients,
                ended=run.ended(),
            )
    except TooLarge:
        return False
    beside = state.beside(without) + "".join(induction.text() for induction in run.inductions)
    beside += described({kind: dict(sorted(run.notes.get(kind, {}).items())) for kind in FILES})
    decided = "".join(written(run.shapes.literals[number].condition) for number in pending)
    sums = {} if site in run.memory.apart else together(state.symbols, state.text(without) + beside + decided)
    if sums:
        state.name(sums)
    stand = {printed(symbol): expression for expression, symbol in sums.items()}
    renamed: dict[str, str] = {}
    text = _with_names(state.text(without) + beside, "w", renamed)
    # What was decided counts, and not about which of the values that no variable shows.
    text += _with_names(decided, "p", dict(renamed))
    into.text = text
    into.names = {name: stand.get(symbol, symbol) for symbol, name in renamed.items()}
    return True


def _with_names(text: str, letter: str, names: dict[str, str]) -> str:
    """A text with other names of values, in the order in which they occur; `names` has them afterwards."""

    def name(match: re.Match[str]) -> str:
        kind = text[max(0, match.start() - 3) : match.start()]
        if not _KIND.fullmatch(kind):
            return match.group()
        return names.setdefault(match.group(1), f"{letter}{len(names)}")

    return _NAMES.sub(name, text)


def _pending(run: Run, frame: types.FrameType | None) -> tuple[int, ...]:
    """Numbers of what was decided in expressions that callers are in the middle of, before they called.

    It may have made values that lie on a caller's stack, where no variable shows them: the first items of a list that
    is being made, an argument beside the one that is being worked out.
    """
    found: list[int] = []
    began: int | None = None  # when the call began that is in progress
    called: int | None = None  # the same, of a module, if nothing but modules lies between
    plain = True
    while frame is not None:
        names = frame.f_locals
        if run.places.own(frame.f_code.co_filename):
            start = run.decided[names[MARK]] if MARK in names else names.get(ENTRY)
            until = called if plain and called is not None else began
            if until is not None and start is not None:
                literals = run.shapes.literals
                found += (at for at in range(start, until) if literals[at].kind == "guard")
            if frame.f_code.co_flags & inspect.CO_GENERATOR:
                began = len(
                    run.shapes.literals
                )  # when it went on is not known: at most all belongs to the caller
            else:
                began = names.get(ENTRY, began)
            called, plain = None, True
        elif frame.f_code is modules.called.__code__:
            called = names["entry"]
        elif frame.f_code not in modules.INNER:
            plain = False
        frame = frame.f_back
    return tuple(sorted(set(found)))


def modes(run: Run) -> tuple[Any, ...]:
    """What is set for the whole process and can change what a program does."""
    return (
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype(), torch.get_default_device(),
        torch.is_autocast_enabled(), torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cuda"),
        torch.get_autocast_dtype("cpu"), os.getcwd(), sorted(run.notes.get(ENVIRONMENT, {}).items()), HOOKED in run.notes,
        [word for word in sys.argv if not _NUMBER.fullmatch(word)], process.settings(),
    )  # fmt: skip


def _settings(run: Run) -> tuple[Any, ...]:
    """The same, devices and files."""
    return (*modes(run), run.elsewhere, run.notes.get("gpu"), run.placed, overlay.written())


def _inputs(frame: types.FrameType | None) -> Iterator[Any]:
    """Of sequences of modules in progress: which module's turn it is, and what it was given."""
    while frame is not None:
        if frame.f_code is modules.SEQUENCE:
            yield tuple(frame.f_locals.get(name) for name in ("self", "module", "input"))
        frame = frame.f_back


def _stack(run: Run, frame: types.FrameType | None) -> list[tuple[Any, ...]]:
    """Where the program's frames stand; how often a library that one of them called has called the program back."""
    found = []
    library = False
    while frame is not None:
        code = frame.f_code
        if run.places.own(code.co_filename):
            mark = frame.f_locals.get(MARK) if library else None
            passed = None if mark is None else run.passes - mark
            found.append((code.co_filename, code.co_firstlineno, frame.f_lasti, passed))
        library = not run.places.own(code.co_filename) and (library or not modules.shows_where(frame))
        frame = frame.f_back
    return found
