"""Packages that are not installed: torchvision and torchtext in our words, others by modules that do nothing."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from sparsam.shapes.run import current
from sparsam.shapes.standins import progress, vision, words

HARMLESS = frozenset(
    {
        "matplotlib", "mpl_toolkits", "seaborn", "plotly", "bokeh", "visdom", "tensorboard", "tensorboardX", "wandb",
        "comet_ml", "mlflow", "neptune", "clearml", "aim", "tqdm", "progressbar", "alive_progress", "rich", "colorama",
        "termcolor", "coloredlogs", "loguru", "absl", "humanize", "psutil", "pynvml", "GPUtil", "nvidia_smi", "prettytable",
        "tabulate", "torchinfo", "torchsummary", "thop", "fvcore", "onnx", "onnxruntime", "onnx_caffe2", "graphviz",
        "torchviz", "hiddenlayer", "IPython", "ipywidgets", "dotenv", "livelossplot", "imageio", "moviepy", "pprint",
    }
)  # fmt: skip
KNOWN = {"torchvision": vision.MODULES, "torchtext": words.MODULES}
OWN = {"tqdm": progress, "tqdm.auto": progress, "tqdm.notebook": progress}


class Absent:
    """Stands for whatever a module that is not installed has: can be called, asked for attributes, and derived from.

    Args:
        name: Dotted.
        harmless: Whether what it does cannot matter to the sizes of tensors; otherwise each use is unknown.
    """

    def __init__(self, name: str = "", *args: Any, harmless: bool = True, **kwargs: Any) -> None:
        self.__dict__["_name"], self.__dict__["_harmless"] = name, harmless

    def _used(self) -> None:
        run = current()
        if run is not None and not self.__dict__["_harmless"]:
            name = self.__dict__["_name"]
            run.unknown(
                "missing-module", f"{name} is of a package that is not installed; what it does is not known"
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._used()
        if len(args) == 1 and not kwargs and isinstance(args[0], (type, types.FunctionType)):
            return args[0]  # as a decorator
        return Absent(f"{self.__dict__['_name']}(…)", harmless=self.__dict__["_harmless"])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return Absent(f"{self.__dict__['_name']}.{name}", harmless=self.__dict__["_harmless"])

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__[name] = value

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        self._used()
        return (object,)

    def __enter__(self) -> "Absent":
        return self

    def __exit__(self, *args: object) -> None:
        """Nothing is open."""

    def __iter__(self) -> Iterator[Any]:
        self._used()
        # Two of them, for `fig, ax = plt.subplots()`.
        return iter(
            [Absent(f"{self.__dict__['_name']}[{i}]", harmless=self.__dict__["_harmless"]) for i in range(2)]
        )

    def __getitem__(self, key: Any) -> "Absent":
        return Absent(f"{self.__dict__['_name']}[…]", harmless=self.__dict__["_harmless"])

    def __setitem__(self, key: Any, value: Any) -> None:
        """Nothing is kept."""

    def __len__(self) -> int:
        self._used()
        return 0

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"<{self.__dict__['_name']}>"

    __repr__ = __str__

    def __format__(self, form: str) -> str:
        return "0"

    def _arithmetic(self, *others: Any) -> Any:
        self._used()
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _arithmetic
    __floordiv__ = __mod__ = __pow__ = __neg__ = _arithmetic

    def _compared(self, other: Any) -> bool:
        self._used()
        return False

    __lt__ = __le__ = __gt__ = __ge__ = _compared

    def __float__(self) -> float:
        self._used()
        return 0.0

    def __int__(self) -> int:
        self._used()
        return 0

    __index__ = __int__

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Used as a tensor: what it would be is not known."""
        from sparsam.shapes.run import Stop
        from sparsam.shapes.verdict import Unknown

        run = current()
        found = next((arg for arg in args if isinstance(arg, Absent)), None)
        name = found.__dict__["_name"] if found is not None else "an unknown value"
        raise Stop(
            Unknown(
                "missing-module",
                f"{name} is used as a tensor and nothing is known of it",
                run._here() if run is not None else None,
            )
        )


class AbsentModule(types.ModuleType):
    """A module of a package that is not installed."""

    def __init__(self, name: str, harmless: bool) -> None:
        super().__init__(name)
        self.__dict__["_harmless"] = harmless
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        if name == "SummaryWriter":
            return Absent("SummaryWriter")
        return Absent(f"{self.__name__}.{name}", harmless=self.__dict__["_harmless"])


HERE = os.path.dirname(__file__)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Comes last: finds what no one else has."""

    def __init__(self) -> None:
        self.made: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A spec for a module that the program asks for and that is not installed."""
        root = fullname.partition(".")[0]
        known = root in KNOWN
        if known and not self._wanted():
            return None  # a library that asks whether a package is there is told the truth
        parent = fullname.rpartition(".")[0]
        inside = parent in self.made
        if (
            not known
            and not inside
            and fullname != "torch.utils.tensorboard"
            and not self._asked(root, fullname)
        ):
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def _wanted(self) -> bool:
        """Whether the program itself, or a stand-in, asks."""
        frame: types.FrameType | None = sys._getframe(2)
        while frame is not None and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        run = current()
        if frame is None or run is None:
            return True
        file = frame.f_code.co_filename
        return run.places.own(file) or file.startswith(HERE)

    def _asked(self, root: str, fullname: str) -> bool:
        """Whether a line of the program imports it, at its top level and not for want of something better."""
        run = current()
        if (
            run is None
            or fullname != root
            or root in sys.builtin_module_names
            or root in sys.stdlib_module_names
        ):
            return False
        frame: types.FrameType | None = sys._getframe(2)
        while frame is not None and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        if frame is None or not run.places.own(frame.f_code.co_filename):
            return False
        return not _guarded(frame)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """The stand-in."""
        name = spec.name
        self.made.add(name)
        root = name.partition(".")[0]
        ours = KNOWN.get(root, {}).get(name)
        if ours is not None:
            return types.ModuleType(name)
        if root in OWN:
            return types.ModuleType(name)
        harmless = root in HARMLESS or name == "torch.utils.tensorboard"
        run = current()
        if not harmless and run is not None:
            run.unknown(
                "missing-module", f"{name} is not installed; install it, so that its calls can be checked"
            )
        return AbsentModule(name, harmless)

    def exec_module(self, module: types.ModuleType) -> None:
        """Fills a module of ours, and makes those below it."""
        name = module.__name__
        root = name.partition(".")[0]
        source = KNOWN.get(root, {}).get(name) or OWN.get(name)
        if source is None:
            return
        _fill(module, source)
        if name == root:
            for below in KNOWN.get(root, {}):
                if below != root and below not in sys.modules:
                    self._make(below)

    def _make(self, name: str) -> None:
        module = types.ModuleType(name)
        module.__path__ = []
        _fill(module, KNOWN[name.partition(".")[0]][name])
        sys.modules[name] = module
        self.made.add(name)
        parent, _, last = name.rpartition(".")
        setattr(sys.modules[parent], last, module)

    def forget(self) -> None:
        """Removes what was made."""
        for name in self.made:
            sys.modules.pop(name, None)
            parent, _, last = name.rpartition(".")
            if (
                parent in sys.modules
                and getattr(sys.modules[parent], last, None) is not None
                and parent.startswith("torch.")
            ):
                delattr(sys.modules[parent], last)
        self.made.clear()


def _fill(module: types.ModuleType, source: types.ModuleType) -> None:
    own = {key: value for key, value in vars(source).items() if not key.startswith("__")}
    vars(module).update(own, __version__="0.0")
    fallback = getattr(source, "__getattr__", None)
    if fallback is not None:
        vars(module)["__getattr__"] = fallback


def _guarded(frame: types.FrameType) -> bool:
    """Whether an import stands in a `try` that catches its failure: then it may fail."""
    import ast
    import linecache

    lines = linecache.getlines(frame.f_code.co_filename)
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:
        return False
    line = frame.f_lineno
    for node in ast.walk(tree):
        if not isinstance(node, ast.Try) or not node.handlers:
            continue
        inside = any(part.lineno <= line <= (part.end_lineno or part.lineno) for part in node.body)
        if inside and any(_catches(handler) for handler in node.handlers):
            return True
    return False


def _catches(handler: Any) -> bool:
    import ast

    if handler.type is None:
        return True
    names = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
    return bool(names & {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})


@contextmanager
def found() -> Iterator[Finder]:
    """Absent packages can be imported within."""
    finder = Finder()
    first = _Tensorboard(finder)
    sys.meta_path.append(finder)
    sys.meta_path.insert(0, first)
    try:
        yield finder
    finally:
        sys.meta_path.remove(finder)
        sys.meta_path.remove(first)
        finder.forget()


class _Tensorboard(importlib.abc.MetaPathFinder):
    """The framework has a module for tensorboard that fails without it."""

    def __init__(self, finder: Finder) -> None:
        self.finder = finder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Ours for that module, unless tensorboard is installed."""
        if fullname != "torch.utils.tensorboard" or importlib.util.find_spec("tensorboard") is not None:
            return None
        return self.finder.find_spec(fullname, path, target)


def patches() -> list[tuple[Any, str, Any]]:
    """(owner, attribute, stand-in) for all of this module."""
    return []


_ = torch
