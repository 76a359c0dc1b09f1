"""Branches that come together: a fork that did not influence any shape is followed once.

Where a statement decided something about values (what data, chance or a round of a loop say), the state after it is
compared with that of earlier runs at the same place. If all that can be reached is the same, and the same is known about
what is left in it, what follows is the same too, and the run ends there: n forks of this kind cost n + 1 runs, not 2^n.
"""

import re
import sys
import types
from typing import Any

import torch

from sparsam.shapes.environment import printed
from sparsam.shapes.run import Run, Stop, current
from sparsam.shapes.state import Node, Snapshot, TooLarge

_VALUE = re.compile(r"\b(?:s|zf)_v\d+\b")


def fork(site: int) -> None:
    """Before a statement of the program."""
    run = current()
    if run is not None:
        run.forks[id(sys._getframe(1)), site] = len(run.shapes.literals)


def join(site: int) -> None:
    """After a statement of the program.

    Raises:
        Stop: If what follows was followed before.
    """
    run = current()
    if run is None or run.plain:
        return
    frame = sys._getframe(1)
    before = run.forks.pop((id(frame), site), None)
    if before is None or not _forked(run, before):
        return
    count = run.joins[site] = run.joins.get(site, 0) + 1
    found = _key(run, frame, site, count)
    if found is None:
        return
    key, known = found
    seen = run.memory.setdefault(key, [])
    # An earlier run that knew no more about its sizes than this one followed all that can follow here.
    if any(number != run.number and others <= known for number, others in seen):
        raise Stop(None, "merged")
    seen.append((run.number, known))


def _forked(run: Run, before: int) -> bool:
    """Whether something was decided about values since."""
    fresh = run.shapes.fresh
    return any(
        literal.kind == "guard" and any(printed(symbol) in fresh for symbol in literal.condition.free_symbols)
        for literal in run.shapes.literals[before:]
    )


def _key(run: Run, frame: types.FrameType, site: int, count: int) -> Any:
    try:
        with run.shapes.unrecorded():
            state = Snapshot(frame, run.places)
    except TooLarge:
        return None
    renamed: dict[str, str] = {}
    shape = tuple((key, _text(node, renamed)) for key, node in sorted(state.roots.items()))
    known = []
    for literal in run.shapes.literals:
        text = str(literal.condition)
        names = set(_VALUE.findall(text))
        sizes = any(printed(symbol) not in run.shapes.fresh for symbol in literal.condition.free_symbols)
        if sizes or any(name in renamed for name in names):
            known.append(_renamed(text, renamed))
    settings = (torch.is_grad_enabled(), torch.get_default_dtype(), torch.is_autocast_enabled())
    return (site, count, _stack(run, frame), shape, settings), frozenset(known)


def _stack(run: Run, frame: types.FrameType | None) -> tuple[Any, ...]:
    found = []
    while frame is not None:
        if run.places.own(frame.f_code.co_filename):
            found.append((frame.f_code.co_filename, frame.f_code.co_firstlineno, frame.f_lasti))
        frame = frame.f_back
    return tuple(found)


def _text(node: Node, renamed: dict[str, str]) -> Any:
    """A snapshot as a value to compare: symbols of values by the order in which they are met."""
    value = node.value
    if node.kind in ("number", "tensor"):
        value = _renamed(str(value), renamed)
        value = (type(node.held).__name__, value)
    elif node.kind == "atom" and isinstance(node.held, str):
        value = node.held if not _VALUE.search(node.held) else ""
    elif node.kind == "atom" and isinstance(node.held, type):
        # Each run makes the program's classes anew.
        value = f"{node.held.__module__}.{node.held.__qualname__}"
    children = tuple((str(key), _text(child, renamed)) for key, child in node.children.items())
    return node.kind, str(value) if not isinstance(value, (str, tuple)) else value, children


def _renamed(text: str, renamed: dict[str, str]) -> str:
    return _VALUE.sub(lambda match: renamed.setdefault(match.group(), f"w{len(renamed)}"), text)
