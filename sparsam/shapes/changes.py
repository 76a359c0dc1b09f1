"""What two snapshots of a loop differ in, and how another value is put in a place of the state.

Snapshots at the head of a loop after one round and after two tell what a round changes; a change that is understood becomes
a function of the number of rounds (:mod:`sparsam.shapes.guesses`), which one further round has to confirm.
"""

import ctypes
import dataclasses
import sys
import types
from collections.abc import Iterator
from typing import Any

import torch

from sparsam.shapes.devices import PLACED
from sparsam.shapes.places import Places
from sparsam.shapes.state import CONSTANT, GRAD, Node, Snapshot

# Looked up here, for in a sandbox nothing may be looked up any more.
_LOCALS_TO_FAST = ctypes.pythonapi.PyFrame_LocalsToFast


@dataclasses.dataclass(frozen=True)
class Change:
    """What differs between two snapshots at one path."""

    path: tuple[Any, ...]
    kind: str  # "number", "sizes", "layout", "constant", "generator", "growth", "text", "other"
    before: Node | None
    after: Node | None


def differences(before: Snapshot, after: Snapshot) -> list[Change]:
    """What differs between two snapshots of the same loop."""
    found: list[Change] = []
    repeated: list[Change] = []
    for key in before.roots.keys() | after.roots.keys():
        one, other = before.roots.get(key), after.roots.get(key)
        if one is None or other is None:
            found.append(Change((key,), "other", one, other))
        else:
            _compare((key,), one, other, found, repeated)
    if repeated:
        first, now = _places(before), _places(after)
        # The same object, or one that has taken the place of another everywhere.
        for change in repeated:
            if (
                change.before
                and change.after
                and first.get(change.before.value) != now.get(change.after.value)
            ):
                found.append(change)
    return found


def _places(snapshot: Snapshot) -> dict[int, tuple[Any, ...]]:
    """Where each value is met that is met again elsewhere, by number."""
    found: dict[int, tuple[Any, ...]] = {}
    left: list[tuple[tuple[Any, ...], Node]] = [((key,), root) for key, root in snapshot.roots.items()]
    while left:
        path, node = left.pop()
        if node.number:
            found[node.number] = path
        left += (((*path, key), child) for key, child in node.children.items())
    return found


def _compare(
    path: tuple[Any, ...], one: Node, other: Node, found: list[Change], repeated: list[Change]
) -> None:
    if one is other:
        return
    if one.kind == "number" and other.kind == "number":
        if one.value != other.value or type(one.held) is not type(other.held):
            found.append(Change(path, "number", one, other))
        return
    if one.kind != other.kind:
        found.append(Change(path, "other", one, other))
        return
    if one.kind == "tensor":
        if one.value != other.value:
            same = one.value[1:] == other.value[1:] and len(one.value[0]) == len(other.value[0])
            found.append(Change(path, "sizes" if same else "other", one, other))
    elif one.kind == "layout":
        if one.value != other.value:
            found.append(Change(path, "layout", one, other))
        items, now = (node.children.get(CONSTANT) for node in (one, other))
        if items is not None and (now is None or now.value != items.value):
            found.append(Change(path, "constant", one, other))
        return
    elif one.kind == "atom":
        if one.value != other.value:
            text = isinstance(one.held, str) and isinstance(other.held, str) and "stored" not in path
            found.append(Change(path, "text" if text else "other", one, other))
        return
    elif one.kind in ("object", "list") and one.value != other.value:
        found.append(Change(path, "other", one, other))
        return
    elif one.kind == "again":
        if one.held is not other.held:
            repeated.append(Change(path, "other", one, other))
        return
    elif one.kind == "skipped":
        return
    elif one.kind == "generator":
        inside: list[Change] = []
        _compare((*path, "place"), one.children["place"], other.children["place"], inside, repeated)
        if inside:
            found.append(Change(path, "generator", one, other))
        return
    missing = one.children.keys() - other.children.keys()
    new = other.children.keys() - one.children.keys()
    if one.kind == "list" and isinstance(other.held, list) and not missing and new:
        found.append(Change(path, "growth", one, other))
    elif missing or new:
        found.append(Change(path, "other", one, other))
    for key in one.children.keys() & other.children.keys():
        _compare((*path, key), one.children[key], other.children[key], found, repeated)


def put(
    snapshot: Snapshot, frame: types.FrameType, places: Places, path: tuple[Any, ...], value: Any
) -> bool:
    """Puts a value at a path of the state; False where that cannot be done."""
    root, *rest = path
    if not rest:
        return False
    if len(rest) == 1 and root[0] == "local":
        return _put_local(frame, places, root[1], rest[0], value)
    holder: Any = snapshot.roots[root].held
    try:
        for key in rest[:-1]:
            holder = _child(holder, key)
    except (AttributeError, LookupError, TypeError):
        return False  # within something that shows no attributes
    last = rest[-1]
    if last == GRAD and isinstance(holder, torch.Tensor) and value in (True, None):
        holder.grad = _gradient_of(holder) if value else None
        return True
    if isinstance(holder, tuple) and isinstance(last, int):
        items = [*holder[:last], value, *holder[last + 1 :]]
        kind: Any = type(holder)
        made = kind(*items) if hasattr(holder, "_fields") else kind(items)
        return put(snapshot, frame, places, path[:-1], made)
    try:
        if isinstance(last, tuple) and last[0] == "closure":
            holder.__closure__[last[1]].cell_contents = value
        elif isinstance(holder, type):
            setattr(holder, last[1:], value)
        elif isinstance(last, str) and last.startswith(".") and not isinstance(holder, dict):
            object.__setattr__(holder, last[1:], value)  # also where the class is frozen
        else:
            holder[_unkey(last)] = value
    except (TypeError, AttributeError):
        return False
    return True


def _gradient_of(tensor: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        made = torch.empty_like(tensor)
    made.__dict__.update({name: note for name, note in vars(tensor).items() if name == PLACED})
    return made


def _child(holder: Any, key: Any) -> Any:
    if isinstance(key, tuple) and key[0] == "closure":
        return holder.__closure__[key[1]].cell_contents
    if isinstance(key, str) and key.startswith(".") and not isinstance(holder, dict):
        return getattr(holder, key[1:])
    return holder[_unkey(key)]


def _put_local(frame: types.FrameType, places: Places, depth: int, name: str, value: Any) -> bool:
    for at in own_frames(frame, places):
        if depth == 0:
            at.f_locals[name] = value
            if sys.version_info < (3, 13):
                _LOCALS_TO_FAST(ctypes.py_object(at), ctypes.c_int(0))
            return True
        depth -= 1
    return False


def own_frames(frame: types.FrameType | None, places: Places) -> Iterator[types.FrameType]:
    """The program's frames from one upwards."""
    while frame is not None:
        if places.own(frame.f_code.co_filename) and frame.f_locals is not frame.f_globals:
            yield frame
        frame = frame.f_back


def _unkey(key: Any) -> Any:
    return key[2].key if isinstance(key, tuple) and key and key[0] == "key" else key
