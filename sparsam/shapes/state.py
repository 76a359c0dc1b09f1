"""What a program can change: everything that its frames reach, written down.

A snapshot is a tree over the local variables of the program's frames and the globals of its modules. Two of them tell what
a loop's round changes (:mod:`sparsam.shapes.changes`); as text one tells whether another run was in the same state
(:mod:`sparsam.shapes.merging`).
"""

import collections
import contextvars
import dataclasses
import enum
import functools
import gc
import hashlib
import io
import logging
import pathlib
import re
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch.utils._mode_utils import no_dispatch

from sparsam.shapes.devices import place
from sparsam.shapes.environment import SYMBOLIC, symbolic
from sparsam.shapes.graphs import Graphs
from sparsam.shapes.layouts import expressions, layout_of
from sparsam.shapes.liveness import unread
from sparsam.shapes.mode import device_of
from sparsam.shapes.notes import drawn_from
from sparsam.shapes.places import Places
from sparsam.shapes.project import written
from sparsam.shapes.rewrite import JOIN, MODULES
from sparsam.shapes.series import Repeated, Series
from sparsam.shapes.spans import span_of
from sparsam.shapes.unused import Unused

_VALUE = re.compile(r"\b(?:s|zf)_v\d+\b")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
LARGEST = 200_000  # nodes of a snapshot
LONGEST = 256  # bytes of a view of memory that are part of the state as they are
ATOMS = (
    str, bytes, type(None), type, types.ModuleType, torch.dtype, torch.device, slice, range, property, torch.Generator,
)  # fmt: skip
SKIPPED = (
    torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, types.FrameType, types.CodeType,
)  # fmt: skip
WHOLE = (torch.int64, torch.int32)
SPAN = ".span"  # of a tensor of whole numbers: their bounds
RANGE = ".range"  # of a tensor: the bounds that it was made with
GRAD = ".grad"  # of a tensor: nothing, true, or a gradient that is unlike the tensor
CONSTANT = "constant"  # of a tensor, beside its layout: its items, where the program has given them
LAYOUT = ".layout"  # of a tensor: where its items lie, empty for one behind the other
# Attributes of a tensor without data that are not the program's: what it is, and what was found out about its items.
OF_THE_TENSOR = frozenset(
    {"fake_mode", "_fake_device", "constant", "pytype", "dispatch_keys", "real_tensor", "_is_param", "span", "value_range",
     "placed"}
)  # fmt: skip
MEMOS = ("_nonzero_memo", "_item_memo", "_unique_memo", "_unique_consecutive_memo")
# What objects of these modules, written in C, hold is told by what they would be stored as.
STORED_AS = frozenset(
    {"builtins", "functools", "itertools", "operator", "datetime", "decimal", "array", "collections", "_operator",
     "_collections"}
)  # fmt: skip
_PLAIN = (str, int, float, bytes, bool, type(None))
_CACHING = type(functools.lru_cache(id))
# Of ours, what generators of hooks hold: no state of the program, or compared on its own.
OURS = {
    "sparsam.shapes.run": {"Run", "Loop"},
    "sparsam.shapes.state": {"Snapshot"},
    "sparsam.shapes.loops": {"_Begun"},
    "sparsam.shapes.rounds": {"Rounds"},
}
DESCRIPTORS = (
    types.FunctionType, staticmethod, classmethod, property, types.GetSetDescriptorType, types.MemberDescriptorType,
)  # fmt: skip


@dataclasses.dataclass(slots=True)
class Node:
    """One value of a snapshot.

    Args:
        kind: "number", "tensor", "layout", "list", "dict", "object", "generator", "atom", "again" (seen
            before), "skipped".
        value: Of a number its expression, of a tensor (sizes, dtype, device, the same if it is known, whether it is a result
            that has a gradient, whether it has one), of a layout where the items lie, of an atom a key for comparison, of
            "again" the number of the value it repeats.
        children: By key.
        held: The value itself.
        number: Of a value that may be repeated.
        text: Of a plain value, which has one node wherever it is met; "" of others.
    """

    kind: str
    value: Any
    held: Any
    children: dict[Any, "Node"] = dataclasses.field(default_factory=dict)
    number: int = 0
    text: str = ""


class Snapshot:
    """The state that a loop in a frame can change.

    Args:
        frame: Of the loop.
        places: Which frames and modules are the program's.
        loops: What the loops in progress run over, from the outermost on.
        earlier: That this one is to be compared with.
        gradients: Whether they belong to the state, and what a backward pass would give one.
        ended: Of frames with loops in progress, by `id`: for each, from the outermost on, whether this is its last round.
    """

    def __init__(
        self,
        frame: types.FrameType,
        places: Places,
        loops: Sequence[Any] = (),
        earlier: "Snapshot | None" = None,
        gradients: bool = True,
        ended: Mapping[int, Sequence[bool]] | None = None,
    ) -> None:
        with torch._C.DisableTorchFunction():
            self._begin(places, gradients)
            self._take(frame, earlier, ended or {})
            for number, over in enumerate(loops):
                self._root(("loop", number), {"over": over})
            self._root(("handled", 0), {"exception": sys.exc_info()[1]})
            self._note_graphs()

    def _begin(self, places: Places | None, gradients: bool) -> None:
        self._gradients = gradients
        self._texts: dict[frozenset[tuple[int, Any]], str] = {}  # by the values that are left out
        self._places = places
        self._seen: dict[int, int] = {}
        self._classes: dict[type, bool] = {}  # whether they are the program's
        self._keep: list[Any] = []
        self._trainers: list[Any] = []  # optimizers and their schedules, in the order in which they are met
        self.count = 0
        self.roots: dict[Any, Node] = {}
        self._spared: frozenset[int] = frozenset()  # tensors whose gradients are left out
        self.symbols: list[Node] = []  # numbers that are symbolic
        self._leaves: dict[int, int] = {}  # number of each tensor that may get a gradient
        self._results: list[tuple[Node, torch.Tensor]] = []  # tensors with a graph behind them
        self.trained = ""  # what the optimizers have noted of the parameters
        self._earlier: dict[Any, Node] | None = None
        # Variables that the earlier snapshot did not have come last: what they share with others is told of those.
        self._new: list[tuple[Node, str, Any]] = []

    def _take(
        self, frame: types.FrameType, earlier: "Snapshot | None", ended: Mapping[int, Sequence[bool]]
    ) -> None:
        places = self._places
        assert places is not None
        self._earlier = earlier.roots if earlier is not None else None
        modules: dict[str, dict[str, Any]] = {}
        gone: dict[str, frozenset[str]] = {}  # variables of modules that nobody reads any more
        depth = 0
        at: types.FrameType | None = frame
        while at is not None:
            if places.own(at.f_code.co_filename):
                module = str(at.f_globals.get("__name__"))
                if at.f_locals is not at.f_globals:
                    self._root(("local", depth), at.f_locals, unread(at, ended.get(id(at), ())))
                elif module == "__main__":
                    gone[module] = unread(at, ended.get(id(at), ()))
                modules[module] = at.f_globals
                depth += 1
            at = at.f_back
        for name in sorted(MODULES & sys.modules.keys()):
            if JOIN in vars(sys.modules[name]):  # and not another of that name
                modules.setdefault(name, vars(sys.modules[name]))
        for name, names in modules.items():
            self._root(("global", name), names, gone.get(name, frozenset()))
        for node, name, value in self._new:
            node.children[name] = self._node(value)
        optimizers = (one for one in self._trainers if isinstance(one, torch.optim.Optimizer))
        self.trained = described([list(one.state.values()) for one in optimizers])

    def _note_graphs(self) -> None:
        """What a backward pass would do, beside the layout, for a loop does not ask whether that changes."""
        if not self._gradients:
            return
        for optimizer in self._trainers:
            if isinstance(optimizer, torch.optim.Optimizer):
                for parameter in (one for group in optimizer.param_groups for one in group["params"]):
                    self._leaves.setdefault(id(parameter), len(self._leaves))
        graphs = Graphs(self._leaves, described)
        for node, tensor in self._results:
            text = graphs.text(tensor)
            node.children[LAYOUT].children["graph"] = Node("atom", text, text)

    def at(self, path: tuple[Any, ...]) -> Node | None:
        """The value at a path, None if there is none."""
        root, *rest = path
        node = self.roots.get(root)
        for key in rest:
            node = node.children.get(key) if node is not None else None
        return node

    def text(self, without: Iterable[tuple[Any, ...]] = ()) -> str:
        """All of it, for comparison with states of other runs. Sizes and numbers stand for themselves.

        Args:
            without: Paths of values that are left out.
        """
        omitted = frozenset(
            (id(node), path[-1])
            for path in without
            if len(path) > 1 and (node := self.at(path[:-1])) is not None
        )
        if omitted not in self._texts:
            parts: list[str] = []
            for root, node in sorted(self.roots.items()):
                parts.append(f"{root}:")
                _write(node, parts, omitted)
            self._texts[omitted] = "".join(parts)
        return self._texts[omitted]

    def name(self, names: Mapping[sympy.Basic, sympy.Symbol]) -> None:
        """Has symbols in place of expressions in its symbolic numbers."""
        for node in self.symbols:
            node.value = node.value.xreplace(names)
        self._texts.clear()

    def beside(self, without: Iterable[tuple[Any, ...]] = ()) -> str:
        """What the optimizers and their schedules hold that the state contains, at this moment.

        Args:
            without: Paths of values that are left out.
        """
        of = (self.at(path[:-1]) for path in without if path[-1] == GRAD)
        spared = frozenset(id(node.held) for node in of if node is not None)
        with torch._C.DisableTorchFunction():
            return "".join(_where(value, self._gradients, spared) for value in self._trainers)

    def _root(self, key: Any, names: Mapping[str, Any], gone: frozenset[str] = frozenset()) -> None:
        node = Node("dict", None, names)
        before = self._earlier.get(key) if self._earlier is not None else None
        # In no order of their own: that of a frame's variables depends on when somebody asked for them before.
        for name, value in sorted(names.items()):
            if name in gone and not hasattr(type(value), "__del__"):
                continue
            if name.startswith(("__", ".", "@")):
                continue
            if before is not None and name not in before.children:
                self._new.append((node, name, value))
            else:
                node.children[name] = self._node(value)
        self.roots[key] = node

    def _node(self, value: Any) -> Node:
        kind = type(value)
        plain = _PLAIN_NODES.get(kind)
        if plain is not None:
            return plain.get(value) or _plain_node(plain, value)
        shared, make = _COMMON.get(kind) or _MAKERS.get(kind) or _maker(value)
        if not shared:
            return make(self, value)
        identity = id(value)
        known = self._seen.get(identity)
        if known is not None:
            return Node("again", known, value)
        self.count += 1
        if self.count > LARGEST:
            raise TooLarge
        self._seen[identity] = number = self.count
        self._keep.append(value)
        node = make(self, value)
        node.number = number
        return node

    def _unused(self, value: Any) -> Node:
        return Node("skipped", Unused, value)

    def _atom(self, value: Any) -> Node:
        return Node("atom", value, value)

    def _member(self, value: enum.Enum) -> Node:
        node = Node("object", (*_identity(type(value)), value.name), value)
        self._attributes(node, value)
        return node

    def _number(self, value: Any) -> Node:
        return Node("number", value, value)

    def _symbol(self, value: Any) -> Node:
        node = Node("number", value.node.expr, value)
        self.symbols.append(node)
        return node

    def _path(self, value: pathlib.PurePath) -> Node:
        return Node("atom", str(value), str(value))

    def _repeated(self, value: Repeated) -> Node:
        node = Node("object", "repeated", value)
        node.children = {"item": self._node(value.item), "count": self._node(value.count)}
        return node

    def _function(self, value: types.FunctionType) -> Node:
        code = value.__code__
        node = Node("object", (code.co_filename, code.co_firstlineno, code.co_qualname), value)
        for i, cell in enumerate(value.__closure__ or ()):
            if cell_filled(cell):
                node.children["closure", i] = self._node(cell.cell_contents)
        if self._places is not None and self._places.own(code.co_filename):
            for name in ("__defaults__", "__kwdefaults__"):
                node.children["." + name] = self._node(getattr(value, name))
            self._attributes(node, value)
        return node

    def _optimizer(self, value: torch.optim.Optimizer) -> Node:
        self._trainers.append(value)
        node = Node("object", _identity(type(value)), value)
        groups = [
            {name: held for name, held in group.items() if isinstance(held, (int, float)) or symbolic(held)}
            for group in value.param_groups
        ]
        node.children[".param_groups"] = self._node(groups)
        return node

    def _skipped(self, value: Any) -> Node:
        if isinstance(value, torch.optim.lr_scheduler.LRScheduler):
            self._trainers.append(value)
        return Node("skipped", type(value), value)

    def _generator(self, value: "types.GeneratorType[Any, Any, Any]") -> Node:
        node = Node("generator", (), value)
        node.children["place"] = self._node(_place_of(value))
        return node

    def _series(self, value: Series) -> Node:
        node = Node("object", _identity(value), value)
        node.children["segments"] = self._node(value._segments)
        return node

    def _class(self, value: type) -> Node:
        if not self._owns(value):
            return Node("atom", _identity(value), value)
        node = Node("object", _identity(value), value)
        if any(map(self._owns, value.__bases__)):
            node.children[".__bases__"] = self._node(value.__bases__)
        for name, child in list(vars(value).items()):
            if not name.startswith("__") and not isinstance(child, DESCRIPTORS):
                node.children["." + name] = self._node(child)
        return node

    def _named_atom(self, value: Any) -> Node:
        return Node("atom", _identity(value), value)

    def _mapping(self, value: Mapping[Any, Any]) -> Node:
        node = Node("dict", None, value)
        for key in list(value):
            node.children[_key(key)] = self._node(value[key])
        if isinstance(value, dict) and type(value) is not dict:
            self._attributes(node, value)
        return node

    def _list(self, value: Any) -> Node:
        longest = value.maxlen if isinstance(value, collections.deque) else None
        node = Node("list", (_identity(type(value)), longest), value)
        node.children = dict(enumerate(map(self._node, value)))
        if type(value) is not list and type(value) is not tuple:
            self._attributes(node, value)
        return node

    def _set(self, value: Any) -> Node:
        if all(isinstance(item, _PLAIN) for item in value):
            return Node("atom", ("set", sorted(map(repr, value))), value)
        node = Node("list", _identity(type(value)), value)
        node.children = dict(enumerate(map(self._node, sorted(value, key=described))))
        return node

    def _method(self, value: types.MethodType) -> Node:
        node = Node("object", value.__func__.__qualname__, value)
        node.children["self"] = self._node(value.__self__)
        return node

    def _builtin(self, value: types.BuiltinFunctionType) -> Node:
        node = Node("object", _identity(value), value)
        if not isinstance(value.__self__, (types.ModuleType, type, type(None))):
            node.children["self"] = self._node(value.__self__)
        return node

    def _logger(self, value: logging.Logger) -> Node:
        """What it lets pass, and not what all libraries have asked it."""
        node = Node("object", value.name, value)
        for name in ("level", "disabled", "propagate", "handlers", "filters", "parent"):
            node.children["." + name] = self._node(getattr(value, name))
        return node

    def _object(self, value: Any) -> Node:
        node = Node("object", _identity(type(value)), value)
        self._attributes(node, value)
        self._inside(node, value)
        return node

    def _inside(self, node: Node, value: Any) -> None:
        """What an object holds that shows no attributes: to look at it does not change it."""
        kind = type(value)
        if isinstance(value, memoryview):
            node.children["held"] = self._node((_bytes_of(value),))
        elif isinstance(value, weakref.ReferenceType):
            referent = value()  # of which the state is told where the program holds it
            alive = ("gone",) if referent is None else _identity(type(referent))
            node.children["held"] = Node("atom", alive, alive)
        elif isinstance(value, contextvars.ContextVar):
            node.children["held"] = self._node(value.get(None))
        elif isinstance(value, types.CellType):
            node.children["held"] = self._node(value.cell_contents if cell_filled(value) else None)
        elif isinstance(value, _CACHING):
            node.children["kept"] = self._node([_kept(held) for held in gc.get_referents(value)])
        elif isinstance(value, types.TracebackType):
            node.children["lines"] = self._node(list(self._lines(value)))
        elif any(base.__module__ in STORED_AS and base is not object for base in kind.__mro__):
            if isinstance(value, BaseException):
                for name in ("__context__", "__cause__", "__traceback__"):
                    node.children["." + name] = self._node(getattr(value, name))
            try:
                stored = value.__reduce_ex__(2)
            except TypeError:
                stored = gc.get_referents(value), _ADDRESS.sub("", repr(value))
            node.children["stored"] = self._node(stored[1:] if isinstance(stored, tuple) else stored)
        elif isinstance(value, io.IOBase) and not value.closed:
            node.children["at"] = self._node(_position(value))
        elif type(value).__module__ == "numpy" and hasattr(value, "tobytes"):
            node.children["data"] = self._node((value.tobytes(), str(value.dtype), value.shape))
        elif kind.__module__ == "re":
            node.children["text"] = self._node(repr(value))

    def _lines(self, at: types.TracebackType | None) -> Iterator[tuple[str, int]]:
        """Lines of the program that an exception has come by."""
        while at is not None:
            file = at.tb_frame.f_code.co_filename
            if self._places is not None and self._places.own(file):
                yield file, at.tb_lineno
            at = at.tb_next

    def _attributes(self, node: Node, value: Any) -> None:
        for name, child in list(getattr(value, "__dict__", {}).items()):
            if name.endswith("_hooks") and isinstance(child, dict):
                if not child:
                    node.children["." + name] = _NO_HOOKS
                    continue
                child = list(child.values())  # the keys are numbers that no two runs have in common
            node.children["." + name] = self._node(child)
        kind = type(value)
        slots = _SLOTS.get(kind)
        if slots is None:
            slots = _SLOTS[kind] = tuple(_slots(kind))
        for name in slots:
            if hasattr(value, name):
                node.children["." + name] = self._node(getattr(value, name))
        if self._owns(kind):
            node.children[".__class__"] = self._node(kind)

    def _owns(self, kind: type) -> bool:
        """Whether a class is the program's."""
        if kind not in self._classes:
            self._classes[kind] = self._places is not None and self._places.own(_file_of(kind))
        return self._classes[kind]

    def _tensor(self, value: torch.Tensor) -> Node:
        sizes = expressions(value.shape)
        graph = (value.grad_fn is not None, value.requires_grad)
        node = Node("tensor", (sizes, value.dtype, device_of(value), place(value), *graph), value)
        node.children[LAYOUT] = Node("layout", layout_of(value), None)
        constant = getattr(value, "constant", None)
        if constant is not None:
            node.children[LAYOUT].children[CONSTANT] = Node("atom", _items(constant), None)
        if value.grad_fn is not None:
            self._results.append((node, value))
        elif value.requires_grad:
            self._leaves.setdefault(id(value), len(self._leaves))
        told = self._gradients and id(value) not in self._spared
        if told and value.is_leaf and (value.requires_grad or value.grad is not None):
            node.children[GRAD] = self._gradient(value)
        if value.dtype in WHOLE:
            span = span_of(value)
            node.children[SPAN] = Node(
                "atom",
                None if span is None else described((span.low, span.high, span.reached, span.first)),
                span,
            )
        for name in ("_backward_hooks", "_post_accumulate_grad_hooks"):
            hooks = getattr(value, name)
            if hooks:
                node.children["." + name] = self._node(list(hooks.values()))
        noted = vars(value)
        for name in MEMOS:
            if noted.get(name) is not None:  # beside the layout, for a loop does not ask whether they change
                node.children[LAYOUT].children[name] = self._node(noted[name])
        drawn = drawn_from(value)
        if drawn is not None:
            node.children[RANGE] = self._node(drawn)
        for name, held in noted.items():
            if name not in OF_THE_TENSOR and "_memo" not in name:
                node.children["." + name] = self._node(held)
        return node

    def _gradient(self, value: torch.Tensor) -> Node:
        """Of most gradients it is enough to say that they are there."""
        grad = value.grad
        if grad is None:
            return Node("atom", None, None)
        alike = (grad.dtype, device_of(grad), place(grad)) == (value.dtype, device_of(value), place(value))
        plain = grad.layout == torch.strided and not (
            grad.requires_grad or layout_of(grad) or layout_of(value)
        )
        return Node("atom", True, True) if alike and plain else self._node(grad)


_NO_HOOKS = Node("list", (("builtins", "list"), None), [])
# How a value is looked at, by its type: whether it may be met again, and by what. What the program's own types are is
# forgotten with them.
_MAKERS: "weakref.WeakKeyDictionary[type, tuple[bool, Callable[[Snapshot, Any], Node]]]" = (
    weakref.WeakKeyDictionary()
)
# Of plain values: that of one of a type, wherever it is met. Not of real numbers, of which two zeros are equal.
_PLAIN_NODES: dict[type, dict[Any, Node]] = {bool: {}, type(None): {}, int: {}, str: {}}
# Of types that are there for good, which are looked up sooner.
_COMMON: dict[type, tuple[bool, Callable[[Snapshot, Any], Node]]] = {}
_SLOTS: "weakref.WeakKeyDictionary[type, tuple[str, ...]]" = weakref.WeakKeyDictionary()
_KINDS: tuple[tuple[Any, bool, Callable[[Snapshot, Any], Node]], ...] = (
    ((bool, type(None)), False, Snapshot._atom),
    (enum.Enum, True, Snapshot._member),
    ((int, float), False, Snapshot._number),
    (SYMBOLIC, False, Snapshot._symbol),
    ((str, bytes), False, Snapshot._atom),
    (pathlib.PurePath, False, Snapshot._path),
    (torch.Tensor, False, Snapshot._tensor),
    (Repeated, True, Snapshot._repeated),
    (types.FunctionType, True, Snapshot._function),
    (torch.optim.Optimizer, True, Snapshot._optimizer),
    (SKIPPED, True, Snapshot._skipped),
    (types.GeneratorType, True, Snapshot._generator),
    (Series, True, Snapshot._series),
    (type, True, Snapshot._class),
    (ATOMS, True, Snapshot._named_atom),
    (Mapping, True, Snapshot._mapping),
    ((list, tuple, collections.deque), True, Snapshot._list),
    ((set, frozenset), True, Snapshot._set),
    (types.MethodType, True, Snapshot._method),
    (types.BuiltinFunctionType, True, Snapshot._builtin),
    (logging.Logger, True, Snapshot._logger),
    (object, True, Snapshot._object),
)  # fmt: skip


def _maker(value: Any) -> tuple[bool, Callable[[Snapshot, Any], Node]]:
    kind = type(value)
    found: tuple[bool, Callable[[Snapshot, Any], Node]]
    if kind is Unused:
        found = False, Snapshot._unused
    elif kind.__name__ in OURS.get(kind.__module__, ()):
        found = True, Snapshot._skipped
    else:
        found = next((shared, make) for kinds, shared, make in _KINDS if isinstance(value, kinds))
    if value.__class__ is kind:  # else this is said of the one value
        lasting = str(kind.__module__).partition(".")[0] in ("builtins", "collections", "torch")
        (_COMMON if lasting else _MAKERS)[kind] = found
    return found


def _bytes_of(view: memoryview) -> bytes:
    """What a view of memory shows; nothing once it is released."""
    try:
        data = bytes(view)
    except ValueError:
        return b""
    return data if len(data) <= LONGEST else hashlib.sha256(data).digest()


def _items(constant: torch.Tensor) -> tuple[str, str]:
    """The items of a tensor that has some: torch keeps those of tensors of one."""
    with no_dispatch():
        return str(constant.dtype), repr(constant.tolist())


def _plain_node(known: dict[Any, Node], value: Any) -> Node:
    """The node of a plain value, which is kept unless it is long."""
    if isinstance(value, str):
        shown = "''" if "_v" in value and _VALUE.search(value) else repr(value)
        node = Node("atom", value, value, text=shown)
        if len(value) > LONGEST:
            return node
    elif type(value) is int:
        node = Node("number", value, value, text=f"int {value}")
    else:
        node = Node("atom", value, value, text=f"atom {value}")
    if len(known) > LARGEST:
        known.clear()
    known[value] = node
    return node


def _write(node: Node, parts: list[str], omitted: frozenset[tuple[int, Any]] = frozenset()) -> None:
    kind, value = node.kind, node.value
    if node.text:
        parts.append(node.text)
    elif kind == "number":
        parts.append(
            f"{type(node.held).__name__} {written(value) if isinstance(value, sympy.Basic) else value}"
        )
    elif kind == "tensor":
        parts.append(_of_tensor(value))
    elif kind == "skipped":
        parts.append(value.__qualname__)
    elif kind != "atom" or not isinstance(node.held, str):
        parts.append(f"{kind} {value}")
    else:
        text = str(node.held)
        parts.append("''" if "_v" in text and _VALUE.search(text) else repr(node.held))
    if node.children:
        parts.append("{")
        hookless = 0
        for key, child in node.children.items():
            if child is _NO_HOOKS:
                hookless += 1
                continue
            name = key if type(key) is not tuple else _named(key)
            if omitted and (id(node), key) in omitted:
                parts.append(f"{name}:,")
            elif child.text:
                parts.append(f"{name}:{child.text},")
            else:
                parts.append(f"{name}:")
                _write(child, parts, omitted)
                parts.append(",")
        parts.append(f"{hookless}}}")


@functools.lru_cache(maxsize=65536)
def _of_tensor(value: tuple[Any, ...]) -> str:
    return f"tensor {value}"


def described(value: Any, *, gradients: bool = False, spared: frozenset[int] = frozenset()) -> str:
    """A value of the state as text, for comparison; with gradients, if they are to belong to it, but for those of some."""
    snapshot = Snapshot.__new__(Snapshot)
    snapshot._begin(None, gradients)
    snapshot._spared = spared
    parts: list[str] = []
    with torch._C.DisableTorchFunction():
        _write(snapshot._node(value), parts)
    return "".join(parts)


def _named(key: Any) -> Any:
    return "key" if isinstance(key, tuple) and key and key[0] == "key" else key


def _where(value: Any, gradients: bool, spared: frozenset[int]) -> str:
    """What an optimizer or its schedule holds, at this moment."""
    if isinstance(value, torch.optim.Optimizer):
        held = [value.param_groups, list(value.state.values())]
        return described(held, gradients=gradients, spared=spared)
    if isinstance(value, torch.optim.lr_scheduler.LRScheduler):
        return described({name: held for name, held in vars(value).items() if name != "optimizer"})
    return ""


def _place_of(generator: "types.GeneratorType[Any, Any, Any]") -> tuple[Any, ...]:
    """Where a generator stands, with its variables and the iterators of its loops."""
    frame = generator.gi_frame
    if frame is None:
        return ("done",)
    names = frame.f_locals
    others = names, frame.f_globals, frame.f_builtins
    held = [
        one
        for one in gc.get_referents(generator)
        if not isinstance(one, (types.FunctionType, types.CodeType))
        and not any(one is other for other in others)
    ]
    # The variables come behind the frame, in their order: without our own, which count what a run has done so far.
    variables = next((at for at, one in enumerate(held) if one is frame), -1) + 1
    bound = [name for name in frame.f_code.co_varnames if name in names]
    counts = {
        at
        for at, name in enumerate(bound, variables)
        if variables and name.startswith("@") and at < len(held) and held[at] is names[name]
    }
    return frame.f_lasti, [one for at, one in enumerate(held) if at not in counts]


class TooLarge(Exception):
    """The state has too many values to be compared."""


def cell_filled(cell: Any) -> bool:
    """Whether a closure's cell has a value yet."""
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__[:-1]:
        if base.__module__.startswith(("torch", "builtins", "collections", "numpy")):
            continue
        slots = base.__dict__.get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else slots


def _kept(held: Any) -> Any:
    """What a function's cache holds: of a link of its chain the key and the result."""
    return gc.get_referents(held) if type(held).__name__ == "_lru_list_elem" else held


def _position(file: Any) -> Any:
    """How far a file has been read or written."""
    try:
        return file.tell()
    except (OSError, ValueError):  # while its lines are gone through
        return _position(file.buffer) if hasattr(file, "buffer") else "unknown"


def _file_of(kind: type) -> str:
    module = sys.modules.get(kind.__module__)
    return getattr(module, "__file__", None) or ""


def _key(key: Any) -> Any:
    return key if isinstance(key, _PLAIN) else ("key", id(key), _Held(key))


def _identity(value: Any) -> Any:
    """A key for what cannot change: the same in every run of the program."""
    if isinstance(value, (type, types.BuiltinFunctionType)):
        return value.__module__, value.__qualname__
    if isinstance(value, types.ModuleType):
        return value.__name__
    if isinstance(value, Series):
        return value.name
    return (
        repr(value)
        if isinstance(value, (slice, range, torch.dtype, torch.device))
        else type(value).__qualname__
    )


class _Held:
    """Keeps a key that is no atom with its identity."""

    def __init__(self, key: Any) -> None:
        self.key = key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and other.key is self.key

    def __hash__(self) -> int:
        return id(self.key)
