"""Which variables of a frame nobody reads any more before they are set again: what they hold is no part of the state.

Backward data-flow analysis over the bytecode (Aho, Lam, Sethi, Ullman, Compilers, 9.2.5), with an edge to the handler from
each instruction that an exception may leave. A variable counts as read where a closure shares it, where the code asks for
its own variables by name, and in code whose instructions are not all known.

Of a script's own variables those count that no function of it names: an instruction of the script itself is then all that
reads them.

The bytecode tells as well whether anything lies between two places (`adjacent`).
"""

import bisect
import dis
import functools
import itertools
import types
from collections.abc import Iterator, Mapping, Sequence

OPTIMIZED = 0x2  # code whose variables have places, and no dictionary
READS = frozenset(
    {"LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW", "LOAD_NAME", "DELETE_FAST", "DELETE_NAME"}
)
WRITES = frozenset({"STORE_FAST", "STORE_NAME"})
MOVES = frozenset({"SWAP", "COPY"})  # values on the stack, as many as the argument says
DROPS = frozenset(
    {
        "STORE_FAST", "STORE_NAME", "STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR", "STORE_SUBSCR", "STORE_SLICE", "POP_TOP",
        "POP_EXCEPT", "DELETE_SUBSCR", "DELETE_ATTR", "RETURN_VALUE",
    }
)  # fmt: skip
"""Instructions that leave no value of their own."""
UNKNOWN = frozenset({"IMPORT_STAR", "LOAD_CLASSDEREF", "SETUP_ANNOTATIONS"})
LEAVE = frozenset({"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE"})
JUMPS = frozenset({"JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT", "JUMP_ABSOLUTE", "JUMP"})
SILENT = frozenset({"NOP", "CACHE", "POP_TOP", "PUSH_NULL", "LOAD_CONST", "PRECALL", "EXTENDED_ARG"})
NAMING = frozenset(
    {"LOAD_GLOBAL", "LOAD_NAME", "STORE_FAST", "STORE_NAME", "STORE_GLOBAL"}
)  # of hooks and marks
BY_NAME = frozenset(
    {
        "locals",
        "vars",
        "eval",
        "exec",
        "dir",
        "globals",
        "_getframe",
        "currentframe",
        "stack",
        "query",
        "evaluate",
        "f_locals",
    }
)
"""What gives a program its variables otherwise than by their names in the code."""


def unread(frame: types.FrameType, ended: Sequence[bool] = ()) -> frozenset[str]:
    """Names of a frame's variables whose values no instruction reads from here on, until they are set again.

    Args:
        frame: In progress.
        ended: For each `for` of it that is in progress, from the outermost on, whether this is its last round.
    """
    offsets, found = _unread(frame.f_code, _at_an_end(frame.f_code, frame.f_lasti, tuple(ended)))
    at = (
        bisect.bisect_right(offsets, frame.f_lasti) - 1
    )  # during a call it is behind the instruction, among its caches
    return found[at] if at >= 0 else frozenset()


@functools.lru_cache(maxsize=4096)
def adjacent(code: types.CodeType, first: int, last: int) -> bool:
    """Whether nothing of the program lies between two calls of hooks: an `if` that ends where the one around it does.

    Args:
        code: Of a frame.
        first: Where it stands in the first call.
        last: Where it stands in the second.
    """
    instructions = list(dis.get_instructions(code))
    offsets = [one.offset for one in instructions]
    begin, end = (bisect.bisect_right(offsets, position) - 1 for position in (first, last))
    at = begin + 1
    while begin < at < end:
        one = instructions[at]
        if one.opname == "JUMP_FORWARD":
            at = bisect.bisect_left(offsets, one.argval)
        elif one.opname in SILENT or (one.opname in NAMING and str(one.argval).startswith("@")):
            at += 1
        else:
            return False
    return at == end


Range = tuple[int, int, int]
"""Of a `for`: where a round ends, where it asks for the next item, and where it goes on after the last."""


def _at_an_end(code: types.CodeType, position: int, ended: tuple[bool, ...]) -> tuple[Range, ...]:
    """The loops around a position that are in their last round, from the outermost on."""
    if not any(ended):
        return ()
    around = [loop for loop in _loops(code) if loop[1] <= position < loop[2]]
    return tuple(itertools.compress(around, ended)) if len(around) == len(ended) else ()


@functools.lru_cache(maxsize=4096)
def _loops(code: types.CodeType) -> tuple[Range, ...]:
    found, start = [], None
    for one in dis.get_instructions(code):
        start = one.offset if start is None else start  # of an instruction with its EXTENDED_ARGs
        if one.opname == "FOR_ITER":
            found.append((start, one.offset, one.argval))
        start = start if one.opname == "EXTENDED_ARG" else None
    return tuple(found)


@functools.lru_cache(maxsize=4096)
def _unread(code: types.CodeType, ends: tuple[Range, ...]) -> tuple[Sequence[int], Sequence[frozenset[str]]]:
    names = _eligible(code)
    steps = list(dis.get_instructions(code)) if names else []
    if not steps or not all(_known(step) for step in steps):
        return (), ()
    handlers = _handlers(code, steps)
    held = _held(code, steps, handlers)
    if held is None:
        return (), ()
    before, live = _live(steps, handlers, names)
    for loop in ends:
        # Of this time round alone: when the program comes by the loop again, there are items.
        before, live = _live(steps, handlers, names, loop, before)
    return [step.offset for step in steps], [names - live[step.offset] - held[step.offset] for step in steps]


def _known(step: dis.Instruction) -> bool:
    return ("FAST" not in step.opname or step.opname in READS | WRITES) and step.opname not in UNKNOWN


def _eligible(code: types.CodeType) -> frozenset[str]:
    """The variables that nobody but the code's own instructions can read."""
    if _by_name(code):
        return frozenset()
    if code.co_flags & OPTIMIZED:
        kept = {*code.co_cellvars, *code.co_freevars}
        if kept & {"__class__"} or "super" in code.co_names:
            kept |= set(code.co_varnames[:1])  # `super()` reads it
        return frozenset(code.co_varnames) - kept
    if code.co_name != "<module>":
        return frozenset()
    inner = list(_inside(code))
    if any(map(_by_name, inner)):
        return frozenset()
    named = {name for other in inner for name in other.co_names}
    return frozenset(name for name in code.co_names if name not in named and not name.startswith("__"))


def _by_name(code: types.CodeType) -> bool:
    """Whether the code names something that gives it variables otherwise: `model.eval()` does not, for it has no text."""
    if not BY_NAME & {*code.co_names, *code.co_freevars}:
        return False
    steps = list(dis.get_instructions(code))
    for step, *behind in itertools.zip_longest(steps, steps[1:], steps[2:]):
        if step.argval in BY_NAME and step.opname not in ("LOAD_CONST", "KW_NAMES"):
            call = [(one.opname, one.arg) for one in behind if one is not None and one.opname != "PRECALL"]
            if (
                step.opname not in ("LOAD_METHOD", "LOAD_ATTR")
                or step.argval != "eval"
                or call[:1] != [("CALL", 0)]
            ):
                return True
    return False


def _inside(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _inside(constant)


Handlers = dict[int, list[tuple[int, int, int]]]
"""Of an instruction: where its exceptions go, how much stays on the stack, and how much is put there."""


def _handlers(code: types.CodeType, steps: Sequence[dis.Instruction]) -> Handlers:
    found: Handlers = {}
    for entry in dis.Bytecode(code).exception_entries:  # type: ignore[attr-defined]
        for step in steps:
            if entry.start <= step.offset < entry.end:
                found.setdefault(step.offset, []).append((entry.target, entry.depth, 1 + entry.lasti))
    return found


def _next(steps: Sequence[dis.Instruction], position: int, end: int = -1) -> Iterator[tuple[int, bool]]:
    """Where it goes on behind an instruction, and whether by a jump; at `end` there is no next item."""
    step = steps[position]
    if step.opname not in LEAVE | JUMPS and position + 1 < len(steps) and step.offset != end:
        yield steps[position + 1].offset, False
    if step.opcode in dis.hasjrel or step.opcode in dis.hasjabs:
        yield step.argval, True


def _live(
    steps: Sequence[dis.Instruction],
    handlers: Handlers,
    names: frozenset[str],
    loop: Range | None = None,
    known: Mapping[int, frozenset[str]] | None = None,
) -> tuple[dict[int, frozenset[str]], dict[int, frozenset[str]]]:
    """For each instruction what may be read from it on, and what behind it.

    Args:
        steps: All instructions.
        handlers: Of exceptions.
        names: That count.
        loop: Is in its last round; instructions outside of it are left out, …
        known: … and this may be read from them on.
    """
    none: frozenset[str] = frozenset()
    inside = [n for n, step in enumerate(steps) if loop is None or loop[0] <= step.offset < loop[2]]
    before = {**(known or {}), **{steps[position].offset: none for position in inside}}
    behind = dict(before)
    changed = True
    while changed:
        changed = False
        for position in reversed(inside):
            step = steps[position]
            caught = none.union(*(before[target] for target, _, _ in handlers.get(step.offset, ())))
            after = _next(steps, position, loop[1] if loop is not None else -1)
            out = caught.union(*(before[target] for target, _ in after))
            named = frozenset({step.argval}) & names if step.opname in READS | WRITES else none
            new = (out - named if step.opname in WRITES else out | named) | caught
            if new != before[step.offset] or out != behind[step.offset]:
                before[step.offset], behind[step.offset] = new, out
                changed = True
    return before, behind


def _held(
    code: types.CodeType, steps: Sequence[dis.Instruction], handlers: Handlers
) -> dict[int, frozenset[str]] | None:
    """For each instruction the variables that values on the stack come from, its operands among them.

    What an expression has worked out so far is not in any variable: those that it was worked out from stay in the state.
    """
    at = {step.offset: position for position, step in enumerate(steps)}
    stacks: dict[int, list[frozenset[str]]] = {steps[0].offset: []}
    held: dict[int, frozenset[str]] = {
        step.offset: frozenset(code.co_varnames + code.co_names) for step in steps
    }
    waiting = [steps[0].offset]
    while waiting:
        offset = waiting.pop()
        step, stack = steps[at[offset]], stacks[offset]
        reached = [(target, _behind(step, stack, jump)) for target, jump in _next(steps, at[offset])]
        for target, depth, more in handlers.get(offset, ()):
            if depth > len(stack):
                return None
            reached.append((target, [*stack[:depth], *[frozenset()] * more]))
        for target, new in reached:
            if new is None:
                return None
            known = stacks.get(target)
            if known is not None and len(known) != len(new):
                return None
            merged = new if known is None else [one | other for one, other in zip(known, new, strict=True)]
            if merged != known:
                stacks[target] = merged
                waiting.append(target)
    # An instruction in progress has its operands still: what runs over them may call the program back.
    held.update({offset: frozenset().union(*stack) for offset, stack in stacks.items()})
    return held


def _behind(
    step: dis.Instruction, stack: Sequence[frozenset[str]], jump: bool
) -> list[frozenset[str]] | None:
    """The stack behind an instruction: each value with the variables that it may come from."""
    effect = 1 if step.opname == "RETURN_GENERATOR" else dis.stack_effect(step.opcode, step.arg, jump=jump)
    left = list(stack)
    if step.opname in READS and effect == 1:
        return [*left, frozenset({step.argval})]
    if step.opname in MOVES:
        count = int(step.arg or 0)
        if count > len(left):
            return None
        mixed = frozenset().union(*left[len(left) - count :])
        return [*left[: len(left) - count], *[mixed] * (count + effect)]
    if effect >= 0:
        return [*left, *[left[-1] if left else frozenset()] * effect]
    if -effect > len(left):
        return None
    taken = frozenset().union(*left[effect:])
    left = left[:effect]
    drops = step.opname in DROPS or step.opname.startswith("POP_JUMP") or (step.opname == "FOR_ITER" and jump)
    if left and not drops:
        left[-1] = left[-1] | taken
    return left
