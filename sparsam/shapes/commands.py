"""Sub-commands of a script: which of argparse's parsers an argument is declared on, as far as the source says."""

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Selector:
    """Where a sub-command is chosen.

    Args:
        under: Sub-commands that it stands behind, None where that cannot be told.
        name: Under which the program reads it, "command" if it does not.
        choices: The sub-commands.
        required: Whether the script stops without one.
        line: Where it is declared.
    """

    under: Path | None
    name: str
    choices: tuple[str, ...]
    required: bool
    line: int


def commands_of(
    tree: ast.Module,
) -> tuple[tuple[Selector, ...], Mapping[ast.Call, tuple[Path | None, ...]]]:
    """The selectors of a script, and for each call of `add_argument` the sub-commands that its parsers stand behind.

    A parser is followed through plain assignments, and into functions of the module that it is given to. One that comes
    otherwise, from a list or another module, has None.
    """
    reader = _Reader()
    reader.read(tree)
    selectors = tuple(
        dataclasses.replace(selector, choices=tuple(reader.choices.get(key, ())))
        for key, selector in reader.selectors.items()
    )
    if not selectors:
        return (), dict.fromkeys(reader.owners, ((),))
    return selectors, {call: tuple(dict.fromkeys(paths)) for call, paths in reader.owners.items()}


_DEEPEST = 20  # functions that hand a parser on, and calls in a chain
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Scopes = list[dict[str, Any]]


class _Reader:
    """Follows the parsers of a module, statement by statement, without recursion over what is nested in its text."""

    def __init__(self) -> None:
        self.selectors: dict[ast.Call, Selector] = {}
        self.choices: dict[ast.Call, list[str]] = {}
        self.owners: dict[ast.Call, list[Path | None]] = {}
        self._functions: dict[str, tuple[_Function, _Scopes]] = {}
        self._left: list[tuple[_Function, _Scopes]] = []
        self._entered: list[_Function] = []

    def read(self, tree: ast.Module) -> None:
        """Reads the module's statements, then the functions that no parser was given to."""
        self._body(tree.body, [{}])
        while self._left:
            function, scopes = self._left.pop(0)
            if function not in self._entered:
                self._function(function, scopes, {})

    def _function(self, function: _Function, scopes: _Scopes, given: Mapping[str, Any]) -> None:
        self._entered.append(function)
        every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        own = {argument.arg: given.get(argument.arg) for argument in every}
        self._body(function.body, [*scopes, own])

    def _body(self, body: Sequence[ast.AST], scopes: _Scopes) -> None:
        """In the order of the text, what is inside a statement before the statement."""
        todo: list[tuple[ast.AST, bool]] = [(node, False) for node in reversed(body)]
        while todo:
            node, inside_done = todo.pop()
            if inside_done:
                self._leave(node, scopes)
            elif isinstance(node, _Function):
                self._functions[node.name] = (node, scopes)
                self._left.append((node, scopes))
            elif not isinstance(node, ast.Lambda):
                if isinstance(node, ast.For) and isinstance(node.target, ast.Name):
                    scopes[-1][node.target.id] = None  # it stands for several
                todo.append((node, True))
                todo += [(child, False) for child in reversed(list(ast.iter_child_nodes(node)))]

    def _leave(self, node: ast.AST, scopes: _Scopes) -> None:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                name = _name(target)
                if name:
                    scopes[0 if "." in name else -1][name] = self._value(node.value, scopes)
        elif isinstance(node, ast.Call):
            called = _called(node)
            if isinstance(node.func, ast.Name):
                self._handed_on(node, scopes)
            elif called == "add_argument" and isinstance(node.func, ast.Attribute):
                self.owners.setdefault(node, []).append(self._parser(node.func.value, scopes))
            elif called in ("add_parser", "add_subparsers"):
                self._value(node, scopes)

    def _handed_on(self, node: ast.Call, scopes: _Scopes) -> None:
        """A call of a function of the module with a parser among its arguments."""
        known_as = self._functions.get(_called(node))
        if known_as is None or self._entered.count(known_as[0]) >= _DEEPEST:
            return
        function, around = known_as
        names = [argument.arg for argument in [*function.args.posonlyargs, *function.args.args]]
        given = dict(zip(names, node.args, strict=False)) | {w.arg: w.value for w in node.keywords if w.arg}
        known = {name: self._value(value, scopes) for name, value in given.items()}
        if any(value is not None for value in known.values()):
            self._function(function, around, known)

    def _parser(self, node: ast.expr, scopes: _Scopes) -> Path | None:
        found = self._value(node, scopes)
        return found if isinstance(found, tuple) else None

    def _value(self, node: ast.expr, scopes: _Scopes, depth: int = 0) -> Any:
        """The sub-commands of a parser, the call that made a selector, or None."""
        name = _name(node)
        if name:
            return next((scope[name] for scope in reversed(scopes) if name in scope), None)
        if not isinstance(node, ast.Call) or depth > _DEEPEST:
            return None
        called = _called(node)
        if called == "ArgumentParser":
            return ()
        if not isinstance(node.func, ast.Attribute):
            return None
        maker = self._value(node.func.value, scopes, depth + 1)
        if called in ("add_argument_group", "add_mutually_exclusive_group"):
            return maker
        if called == "add_subparsers":
            under = maker if isinstance(maker, tuple) else None
            self.selectors.setdefault(node, _selector(node, under))
            return node
        return self._command(node, maker) if called == "add_parser" else None

    def _command(self, node: ast.Call, maker: Any) -> Path | None:
        """The sub-commands of the parser that `add_parser` makes."""
        name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        if not isinstance(maker, ast.Call) or not isinstance(name, str):
            return None
        choices = self.choices.setdefault(maker, [])
        if name not in choices:
            choices.append(name)
        under = self.selectors[maker].under
        return None if under is None else (*under, name)


def _name(node: ast.expr) -> str:
    """Of a variable, or of an attribute of one; "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return ""


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _selector(node: ast.Call, under: Path | None) -> Selector:
    words = {word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
    name = words.get("dest")
    return Selector(
        under=under,
        name=name if isinstance(name, str) else "command",
        choices=(),
        required=words.get("required") is True,
        line=node.lineno,
    )
