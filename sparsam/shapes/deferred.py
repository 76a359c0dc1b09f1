"""The framework's compiler, not loaded for programs that do not name it: its import takes a third of the start of a check.

Tensors without data import its settings and sources of symbols alone, optimizers a decorator that keeps it out. So the
package stands in `sys.modules` without having been run, and those modules of it that need no other are imported as ever.
It cannot be run in the middle of a check, where stand-ins are in the place of what it looks for: if something else of it
is wanted after all, the run ends, and the program is checked again in a process that has the compiler from the beginning.
"""

import functools
import importlib.util
import re
import sys
import types
from collections.abc import Iterable
from typing import Any

NAME = "torch._dynamo"
# Modules of it that need nothing of the rest when they are imported.
ALONE = frozenset(
    {"bytecode_analysis", "bytecode_transformation", "config", "exc", "graph_utils", "metrics_context", "source", "utils"}
)  # fmt: skip
AGAIN = "again"  # in place of a result: what was wanted
_NAMED = re.compile(r"torch\.(?:compile|export)\b|_dynamo|_inductor|flex_attention|transformers")
wanted: list[str] = []  # what runs have asked for that is not there


class Deferred(types.ModuleType):
    """A package that is there in part."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ALONE:  # the latter are imported then
            raise AttributeError(f"module {NAME!r} has no attribute {name!r}")
        _want(f"{NAME}.{name}")


class _Finder:
    """Ends a run in which a module of it is imported that needs the rest."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        """Nothing: other modules are found as ever."""
        package, _, module = name.rpartition(".")
        if package.startswith(NAME) and module not in ALONE:
            _want(name)


def named(texts: Iterable[str]) -> bool:
    """Whether sources may name the compiler, or what is known to use it."""
    return any(_NAMED.search(text) for text in texts)


def defer() -> None:
    """Leaves it out of this process, unless it is there already."""
    import torch

    spec = importlib.util.find_spec(NAME)
    if NAME in sys.modules or spec is None or spec.submodule_search_locations is None:
        return
    module = Deferred(NAME)
    module.__spec__, module.__loader__, module.__file__ = spec, spec.loader, spec.origin
    module.__package__, module.__path__ = NAME, list(spec.submodule_search_locations)
    vars(module)["disable"] = _disable
    sys.modules[NAME] = torch._dynamo = module
    sys.meta_path.insert(0, _Finder)
    # As attributes, too, which the package would have.
    from torch._dynamo import (  # noqa: F401
        bytecode_analysis,
        bytecode_transformation,
        config,
        exc,
        graph_utils,
        metrics_context,
        source,
        utils,
    )


def _want(name: str) -> None:
    from sparsam.shapes.run import Stop
    from sparsam.shapes.verdict import Unknown

    wanted.append(name)
    raise Stop(Unknown("compiler", f"{name} is not loaded in this process"))


def _disable(fn: Any = None, recursive: bool = True, **options: Any) -> Any:
    """What keeps a function from being compiled: nothing, as long as nothing can be compiled."""
    if isinstance(fn, (types.FunctionType, types.MethodType)):
        return fn
    if fn is None:
        return functools.partial(_disable, recursive=recursive, **options)
    return _want(f"{NAME}.disable of a {type(fn).__name__}")
