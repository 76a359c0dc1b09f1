"""sparsam: the same answers for less work.

Importing this is light: the public names below arrive from their modules when they are first asked for. The one
thing done at once is to watch for transformers' quantizers, so that folders saved by sparsam load through stock
``from_pretrained`` (see :mod:`sparsam.import_hook`).
"""

import sys
from importlib import import_module
from types import ModuleType

from sparsam import import_hook

TYPE_CHECKING = False  # as type checkers read it; importing typing would cost more than all the rest
if TYPE_CHECKING:
    from sparsam.artifact import export, load, save
    from sparsam.bench import Benchmark, bench
    from sparsam.compress import Compressed, compress, evaluate, finetune
    from sparsam.cost import Budget, Cost
    from sparsam.errors import SparsamError
    from sparsam.models import inspect_model
    from sparsam.plan import LayerPlan, Plan, TokenPlan
    from sparsam.plugin import lift
    from sparsam.runtime import freeze
    from sparsam.task import Task
    from sparsam.tokens.control import Control
    from sparsam.tokens.ltp import LTP
    from sparsam.tokens.random import RandomTokens
    from sparsam.tokens.top_k import TopK

__version__ = "0.1.0.dev0"

__all__ = [
    "LTP",
    "Benchmark",
    "Budget",
    "Compressed",
    "Control",
    "Cost",
    "LayerPlan",
    "Plan",
    "RandomTokens",
    "SparsamError",
    "Task",
    "TokenPlan",
    "TopK",
    "__version__",
    "bench",
    "compress",
    "evaluate",
    "export",
    "finetune",
    "freeze",
    "inspect_model",
    "lift",
    "load",
    "save",
]

_HOME = {
    "LTP": "sparsam.tokens.ltp",
    "Benchmark": "sparsam.bench",
    "Budget": "sparsam.cost",
    "Compressed": "sparsam.compress",
    "Control": "sparsam.tokens.control",
    "Cost": "sparsam.cost",
    "LayerPlan": "sparsam.plan",
    "Plan": "sparsam.plan",
    "RandomTokens": "sparsam.tokens.random",
    "SparsamError": "sparsam.errors",
    "Task": "sparsam.task",
    "TokenPlan": "sparsam.plan",
    "TopK": "sparsam.tokens.top_k",
    "bench": "sparsam.bench",
    "compress": "sparsam.compress",
    "evaluate": "sparsam.compress",
    "export": "sparsam.artifact",
    "finetune": "sparsam.compress",
    "freeze": "sparsam.runtime",
    "inspect_model": "sparsam.models",
    "lift": "sparsam.plugin",
    "load": "sparsam.artifact",
    "save": "sparsam.artifact",
}


if not TYPE_CHECKING:  # a type checker would believe any name of a module that has __getattr__

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(
                f"module 'sparsam' has no attribute {name!r}; its public names are {__all__}"
            )
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """This package, where ``compress`` and ``bench`` are the functions even after their modules were imported.

    Importing ``sparsam.compress`` ends with Python setting the module as our attribute; the function takes its place.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("bench", "compress") and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
import_hook.install()
