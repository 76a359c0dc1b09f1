"""From a program and its arguments to what a run calls, and the symbols that exist before it runs."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sparsam.errors import Refused
from sparsam.shapes import program as programs
from sparsam.shapes.arguments import Argument, ScriptArgument, behind, chosen_commands
from sparsam.shapes.environment import Unknown
from sparsam.shapes.run import Run
from sparsam.shapes.source import Program

SMALLEST = 1  # size of a tensor's dimension that no range was given for


class Entry:
    """What a run calls.

    Args:
        program: To be checked.
        arguments: From `--arg`.

    Raises:
        Refused: If an argument fits no parameter ("argument"), or a dtype is none ("argument").
    """

    def __init__(self, program: Program, arguments: Sequence[Argument]) -> None:
        self.program = program
        self.arguments = tuple(arguments)
        self.finder: programs.Finder | None = None
        ranges = {argument.name: argument for argument in arguments if argument.kind == "range"}
        self.declared: dict[str, Unknown] = {}
        for argument in arguments:
            for size in argument.sizes:
                if isinstance(size, str):
                    known = ranges.get(size)
                    low, high = (known.low, known.high) if known else (SMALLEST, None)
                    self.declared.setdefault(
                        size, Unknown(size, low, high, meaning=f"a size of {argument.name}")
                    )
        for name, argument in ranges.items():
            meaning = f"{name} of the command line" if program.kind != "function" else f"argument {name}"
            self.declared.setdefault(name, Unknown(name, argument.low, argument.high, meaning=meaning))

    def __call__(self, run: Run) -> Any:
        """Runs the program once."""
        if self.finder is not None:
            self.finder.forget()
        symbols = {name: run.shapes.declare(unknown) for name, unknown in self.declared.items()}
        if self.program.kind == "function":
            return self._function(run, symbols)
        return self._script(run, symbols)

    # -- scripts ------------------------------------------------------------------------------------------------------

    def _script(self, run: Run, symbols: dict[str, Any]) -> None:
        declared = self._declared()
        run.notes["options"] = {
            _read_as(argument, declared): symbols[argument.name]
            for argument in self.arguments
            if argument.kind == "range"
        }
        source = self.program.text if self.program.kind == "notebook" else None
        package = self.program.module.rpartition(".")[0] if self.program.kind == "package" else None
        programs.run_main(str(self.program.file), self.command_line(run), source, package or None)
        unused = run.notes["options"].keys() - run.notes.get("delivered", set())
        for name in sorted(unused):
            run.unknown(
                "argument",
                f"the range of {name} did not reach the program: its command line is not argparse's",
            )

    def _commands(self) -> tuple[str, ...]:
        return chosen_commands(self.program.arguments, {one.name: one for one in self.arguments})

    def _declared(self) -> dict[str, ScriptArgument]:
        """What the script declares, by each of its names."""
        possible = behind(self.program.arguments, self._commands())
        return {name: option for option in possible for name in option.names}

    def command_line(self, run: Run) -> list[str]:
        """The words after the program's name: of the program itself, then a sub-command and what belongs to it."""
        commands, declared = self._commands(), self._declared()
        options: list[list[str]] = [[] for _ in range(len(commands) + 1)]
        positional: list[list[tuple[int, str]]] = [[] for _ in options]
        for argument in self.arguments:
            if argument.kind in ("tensor", "sizes"):
                continue
            option = declared.get(argument.name.replace("-", "_"))
            if option is not None and option.selects:
                continue
            level = len(commands) if option is None or option.under is None else len(option.under)
            value = self._word(argument, run)
            flag = option.flag if option is not None else f"--{argument.name.replace('_', '-')}"
            if option is not None and option.positional:
                positional[level].append((option.line, value))
            elif argument.kind == "flag" or (option is not None and not option.takes_value):
                if value not in ("False", "false", "0"):
                    options[level].append(flag)
            else:
                options[level] += [flag, value]
        words: list[str] = []
        for level, command in enumerate((*commands, None)):
            words += options[level] + [value for _, value in sorted(positional[level])]
            words += [command] if command is not None else []
        return words

    def _word(self, argument: Argument, run: Run) -> str:
        if argument.kind == "range":
            return str(run.shapes.hints[argument.name])
        return argument.text

    # -- functions ----------------------------------------------------------------------------------------------------

    def _function(self, run: Run, symbols: dict[str, Any]) -> Any:
        source = self.program.text if self.program.cells else None
        name = self.program.module
        if name == "__main__" or source is not None:
            name = self.program.file.stem
        if self.finder is not None:
            self.finder.loaded.add(name)
        module = programs.load(name, str(self.program.file), source)
        function = programs.attribute(module, self.program.entry)
        values = {a.name: self._value(a, symbols) for a in self.arguments if not self._only_a_size(a)}
        return call(function, values, self._owner(module))

    def _only_a_size(self, argument: Argument) -> bool:
        return argument.kind == "range" and any(argument.name in other.sizes for other in self.arguments)

    def _owner(self, module: Any) -> Any:
        owner = self.program.entry.rpartition(".")[0]
        return programs.attribute(module, owner) if owner else None

    def _value(self, argument: Argument, symbols: dict[str, Any]) -> Any:
        if argument.kind == "range":
            return symbols[argument.name]
        if argument.kind == "number":
            return argument.number
        if argument.kind == "flag":
            return True
        sizes = [symbols[size] if isinstance(size, str) else size for size in argument.sizes]
        if argument.kind == "sizes":
            return tuple(sizes)
        if argument.kind == "tensor":
            dtype = getattr(torch, argument.dtype or "float32", None)
            if not isinstance(dtype, torch.dtype):
                raise Refused(
                    f"--arg {argument.name}: {argument.dtype} is no dtype of torch; give one like float32 or int64",
                    code="argument",
                )
            return torch.empty(sizes, dtype=dtype, device=argument.device or "cpu")
        return {"True": True, "False": False, "None": None}.get(argument.text, argument.text)


def _read_as(argument: Argument, declared: Mapping[str, ScriptArgument]) -> str:
    """The name under which the program reads an argument of its command line."""
    name = argument.name.replace("-", "_")
    return declared[name].names[0] if name in declared else name


def call(function: Any, values: dict[str, Any], owner: Any = None) -> Any:
    """Calls a function, a module's class (its constructor, then `forward`), or a method of a class with the values it takes.

    Raises:
        Refused: If a parameter without default has no value, or a value has no parameter ("argument").
    """
    if isinstance(function, type):
        made, rest = _with(
            function, values, function.__name__, strict=not issubclass(function, torch.nn.Module)
        )
        if issubclass(function, torch.nn.Module):
            result, rest = _with(made, rest, f"{function.__name__}.forward", signature=made.forward)
            return result
        return made
    if (
        owner is not None
        and isinstance(owner, type)
        and next(iter(inspect.signature(function).parameters), "") == "self"
    ):
        instance, rest = _with(owner, values, owner.__name__, strict=False)
        bound = instance if function.__name__ == "forward" else getattr(instance, function.__name__)
        return _with(bound, rest, function.__qualname__, signature=getattr(instance, function.__name__))[0]
    return _with(function, values, getattr(function, "__qualname__", "the function"))[0]


def _with(
    function: Callable[..., Any],
    values: dict[str, Any],
    name: str,
    *,
    signature: Callable[..., Any] | None = None,
    strict: bool = True,
) -> tuple[Any, dict[str, Any]]:
    """The result of a call with those values that it has parameters for, and the values that are left."""
    parameters = inspect.signature(signature or function).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    taken = {key: value for key, value in values.items() if anything or key in parameters}
    missing = [
        p.name
        for p in parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name not in taken
    ]
    if missing:
        raise Refused(
            f"{name} needs {', '.join(missing)}; give it with "
            + " ".join(f'--arg "{key}=…"' for key in missing)
            + ": a tensor as N×3×H×W, a number, or a range as 1..512",
            code="argument",
        )
    left = {key: value for key, value in values.items() if key not in taken}
    if strict and left:
        raise Refused(
            f"{name} has no parameter {', '.join(left)}; it has {', '.join(parameters) or 'none'}",
            code="argument",
        )
    ordered = [taken.pop(p.name) for p in parameters.values() if p.kind is p.POSITIONAL_ONLY]
    return function(*ordered, **taken), left
