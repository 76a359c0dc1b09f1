"""Which files of its own a program imports, and whether any of them brings in tensors; read from the source alone."""

import ast
import os
import sys
from pathlib import Path

from sparsam.errors import Refused
from sparsam.shapes.text import Limits, load, parse

INSTALLED = frozenset({"site-packages", "dist-packages"})
_WITH_TORCH = frozenset(
    {
        "torch", "torchvision", "torchaudio", "torchtext", "torchdata", "torchmetrics",
        "transformers", "lightning", "pytorch_lightning", "ignite", "timm", "diffusers",
        "accelerate", "peft", "monai", "kornia", "functorch", "torch_geometric", "fastai",
        "sentence_transformers", "safetensors", "sparsam", "xformers", "flash_attn", "einops",
        "bitsandbytes", "deepspeed", "apex", "optimum", "trl",
    }
)  # fmt: skip
_WITHOUT_TORCH = frozenset(
    {
        "numpy", "scipy", "pandas", "matplotlib", "PIL", "sklearn", "cv2", "yaml", "tqdm",
        "requests", "click", "typer", "rich", "pytest", "setuptools", "jinja2", "pydantic", "attr",
        "attrs", "networkx", "sympy", "seaborn", "plotly", "IPython",
    }
)  # fmt: skip


def own_files(
    main: Path, tree: ast.Module, root: Path, module: str, limits: Limits
) -> tuple[tuple[Path, ...], str]:
    """The files below the root that the main one imports, directly or not, and whether any of them uses tensors.

    The search ends where tensors are found. Of an installed package only the main file is read.
    """
    package = module.rpartition(".")[0] if main.name != "__init__.py" else module
    todo, files, tensors = [(tree, "" if module == "__main__" else package)], [main], "no"
    seen = {os.path.realpath(main)}
    while todo and tensors != "yes":
        one, package = todo.pop(0)
        names, dynamic = _imported(one, package)
        if dynamic and tensors == "no":
            tensors = "maybe"
        for name in names:
            stands, own = _stands_on(name), [] if root.name in INSTALLED else _own(root, name)
            if not own or stands == "yes":
                tensors = max(tensors, stands, key=("no", "maybe", "yes").index)
            for path, inside in own:
                if os.path.realpath(path) in seen or len(files) >= limits.files:
                    continue
                seen.add(os.path.realpath(path))
                files.append(path)
                try:
                    todo.append((parse(load(path, limits=limits), path, limits=limits), inside))
                except Refused:
                    tensors = "maybe" if tensors == "no" else tensors
    if len(files) >= limits.files and tensors == "no":
        tensors = "maybe"
    return tuple(files), tensors


def _imported(tree: ast.Module, package: str) -> tuple[list[str], bool]:
    """Dotted names that a module imports, of both a module and what may be one in it; whether it imports by other means."""
    names: dict[str, None] = {}
    dynamic = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".") if package else []
            base = parts[: len(parts) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            names.update((f"{start}.{alias.name}" if start else alias.name, None) for alias in node.names)
        elif isinstance(node, ast.Name):
            dynamic |= node.id in ("__import__", "exec", "eval")
        elif isinstance(node, ast.Attribute):
            dynamic |= node.attr in ("import_module", "run_path", "run_module")
    return list(names), dynamic


def _own(root: Path, name: str) -> list[tuple[Path, str]]:
    """Files below the root that importing a dotted name runs, each with the package it stands in."""
    found, at = [], root
    parts = [part for part in name.split(".") if part not in ("", "*")]
    for depth, part in enumerate(parts):
        at = at / part
        if os.path.isfile(at / "__init__.py"):
            found.append((at / "__init__.py", ".".join(parts[: depth + 1])))
        elif os.path.isfile(at.with_name(part + ".py")):
            found.append((at.with_name(part + ".py"), ".".join(parts[:depth])))
            break
        elif not os.path.isdir(at):
            break
    return found


def _stands_on(name: str) -> str:
    top = name.partition(".")[0]
    if top in _WITH_TORCH:
        return "yes"
    return "no" if top in sys.stdlib_module_names or top in _WITHOUT_TORCH or not top else "maybe"
