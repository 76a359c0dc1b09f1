"""Registers sparsam's plug-in with transformers as soon as transformers' quantizers exist, and not before.

``import sparsam`` must not import transformers, yet after it stock ``from_pretrained`` must know our folders.
So a finder waits for the one module ``transformers.quantizers.auto`` and imports ``sparsam.plugin`` right after
that module was executed; where it was imported before sparsam, the plug-in is imported at once. The finder leaves
the module's spec as it is, apart from the loader's ``exec_module``, which is put back after its one use.
"""

import sys
import threading
import warnings
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

TYPE_CHECKING = False  # as in sparsam/__init__.py
if TYPE_CHECKING:
    from collections.abc import Sequence

AWAITED = "transformers.quantizers.auto"
PLUGIN = "sparsam.plugin"


class _Finder:
    """Finds nothing by itself: asks the finders after it, and lets the plug-in follow the module they find."""

    def __init__(self) -> None:
        self._asking = threading.local()

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != AWAITED or getattr(self._asking, "now", False):
            return None
        self._asking.now = True  # another finder that asks everybody else must not bring us back here
        try:
            spec = _spec_after(self, name, path, target)
        finally:
            self._asking.now = False
        if spec is not None and spec.loader is not None:
            _follow(spec)
        return spec


def _spec_after(
    finder: _Finder, name: str, path: "Sequence[str] | None", target: ModuleType | None
) -> ModuleSpec | None:
    finders = list(sys.meta_path)
    place = finders.index(finder) + 1 if finder in finders else 0
    for other in finders[place:]:
        find = getattr(other, "find_spec", None)
        spec: ModuleSpec | None = find(name, path, target) if find is not None else None
        if spec is not None:
            return spec
    return None


def _follow(spec: ModuleSpec) -> None:
    """Import the plug-in once the loader of ``spec`` has executed the awaited module."""
    loader = spec.loader
    execute = loader.exec_module  # type: ignore[union-attr]

    def exec_module(module: ModuleType) -> None:
        if module.__name__ == AWAITED:
            vars(loader).pop("exec_module", None)
        execute(module)
        if module.__name__ == AWAITED:
            _register()

    loader.exec_module = exec_module  # type: ignore[method-assign, union-attr]


def _register() -> None:
    try:
        import_module(PLUGIN)
    except Exception as error:
        warnings.warn(
            f"sparsam could not register with transformers ({type(error).__name__}: {error}). Folders saved by "
            f"sparsam will not load through from_pretrained; `import {PLUGIN}` shows the whole error.",
            RuntimeWarning,
            stacklevel=2,
        )


_finder = _Finder()


def install() -> None:
    """Make the plug-in known to transformers now or as soon as it can be; further calls change nothing.

    The plug-in's failure never stops an import of transformers: it is told in a ``RuntimeWarning``.
    """
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    if AWAITED in sys.modules:
        try:
            import_module(AWAITED)  # waits where another thread is still executing it
        except ImportError:
            return  # it failed there; a later import comes past the finder
        _register()
