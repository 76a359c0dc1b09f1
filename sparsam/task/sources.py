"""From a name to tables: a hub data set, a folder, a file, or the built-in digits."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import InputOutput, Usage
from sparsam.task import hub
from sparsam.task.columns import holds_inputs
from sparsam.task.images import ImageFolderTable, digits, is_image, read_idx_pair
from sparsam.task.tables import CsvTable, JsonLinesTable, ParquetTable, Table

#: Endings of data files, the preferred form first where a split is there in several.
READERS: dict[str, Callable[[Sequence[Path]], Table]] = {
    ".parquet": ParquetTable,
    ".jsonl": JsonLinesTable,
    ".jsonl.gz": JsonLinesTable,
    ".csv": CsvTable,
    ".csv.gz": CsvTable,
}
SPLIT_NAMES = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "eval": "validation", "test": "test", "testing": "test", "t10k": "test",
}  # fmt: skip
_SPLIT = re.compile(rf"({'|'.join(sorted(SPLIT_NAMES, key=len, reverse=True))})(?![a-z])(.*)")
_SHARD = re.compile(r"[-_.]?\d+(?:-of-(\d+))?(?:-[0-9a-f]+)?$")
_IDX = re.compile(rf"({'|'.join(SPLIT_NAMES)})[-_](images|labels)[-.]idx\d-ubyte(\.gz)?")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Found:
    """Tables by split (train, validation, test); ``orders`` says which rows, where splits share a table.

    ``drawn``: the rows of validation were drawn by the split seed.
    """

    name: str
    tables: dict[str, Table]
    notes: tuple[str, ...] = ()
    orders: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    drawn: bool = False


def find(spec: str, split_seed: int) -> Found:
    """Everything that ``spec`` names; ``split_seed`` draws where rows have to be held out here.

    Raises Usage, Refused or InputOutput as the cause is.
    """
    if spec == "digits":
        return _digits(split_seed)
    path, config = Path(spec).expanduser(), None
    if not path.exists() and ":" in spec:
        before, _, config = spec.rpartition(":")
        path = Path(before).expanduser()
    if path.is_file():
        return _file(path)
    if path.is_dir():
        return _folder(path, config)
    repo, _, config = spec.partition(":")
    if _REPO.fullmatch(repo):
        return _hub(repo, config or None)
    raise InputOutput(
        f"{spec!r} is no folder or file here, and no hub data set by its form. Give a folder, a file, `digits`, or "
        "owner/name[:config] as in nyu-mll/glue:sst2.",
        code="data-missing",
    )


def _digits(split_seed: int) -> Found:
    table = digits()
    classes = table.values["label"]
    generator = np.random.default_rng(split_seed)
    held = []
    for label in np.unique(classes):
        rows = generator.permutation(np.flatnonzero(classes == label))
        held.append(rows[: round(0.2 * len(rows))])
    validation = np.sort(np.concatenate(held))
    train = np.setdiff1d(np.arange(len(table)), validation)
    orders = {"train": train, "validation": validation}
    return Found("digits", {"train": table, "validation": table}, orders=orders, drawn=True)


def _file(path: Path) -> Found:
    ending = _ending(path.name)
    if ending is None:
        raise Usage(
            f"{path} ends in none of {', '.join(READERS)}. Give a file of that form, or the folder it lies in.",
            code="data-format",
        )
    split, name = _split_of(path.name), path.name.removesuffix(ending)
    if split is not None:
        return Found(path.resolve().parent.name, {split[0]: READERS[ending]([path])})
    return Found(name, {"train": READERS[ending]([path])})


def _folder(folder: Path, config: str | None) -> Found:
    name = config or folder.resolve().name
    files = [
        path.relative_to(folder).as_posix()
        for pattern in ("*", "*/*", "*/*/*")
        for path in sorted(folder.glob(pattern))
        if _ending(path.name)
        and path.is_file()
        and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    ]
    if files and all(_only_describes(folder / path) for path in files):
        pictures = _image_folders(folder)
        if pictures:
            said = f"left out: {', '.join(files[:6])}{', ...' if len(files) > 6 else ''}; the folders name the classes"
            return Found(name, {split: ImageFolderTable(path) for split, path in pictures.items()}, (said,))
    if files:
        chosen, notes = arrange(files, config, str(folder))
        return Found(
            name, {split: _read([folder / path for path in paths]) for split, paths in chosen.items()}, notes
        )
    pairs = _idx_pairs(folder)
    if pairs:
        return Found(name, {split: read_idx_pair(*pair) for split, pair in pairs.items()})
    folders = _image_folders(folder)
    if folders:
        return Found(name, {split: ImageFolderTable(path) for split, path in folders.items()})
    inside = sorted(path.name for path in folder.iterdir())
    raise InputOutput(
        f"{folder} holds no data that sparsam reads (it holds {', '.join(inside[:8]) or 'nothing'}"
        f"{', ...' if len(inside) > 8 else ''}). Wanted are files like train.parquet ({', '.join(READERS)}), idx files "
        "as in MNIST, or images as split/class/file.png.",
        code="data-missing",
    )


def _only_describes(path: Path) -> bool:
    """Whether a data file is no split's, and holds neither texts nor images: ``metadata.csv`` beside image folders."""
    return _split_of(path.name) is None and not holds_inputs(_read([path]).kinds)


def _hub(repo: str, config: str | None) -> Found:
    name = config or repo.partition("/")[2]
    try:
        with hub.reaching(repo):
            files, revision = hub.list_files(repo), None
            if not any(path.endswith(".parquet") for path in files):
                files, revision = hub.list_files(repo, hub.PARQUET_BRANCH), hub.PARQUET_BRANCH
    except InputOutput as error:
        cached = hub.cached_folder(repo) if error.code == "hub-unreachable" else None
        if cached is None:
            raise
        found = _folder(cached, config)
        return Found(
            name, found.tables, (*found.notes, f"the hub was not reached: the cached copy of {repo} is used")
        )
    chosen, notes = arrange([path for path in files if path.endswith(".parquet")], config, repo)
    with hub.reaching(repo):
        local = {
            split: [hub.fetch_file(repo, path, revision) for path in paths] for split, paths in chosen.items()
        }
    return Found(name, {split: _read(paths) for split, paths in local.items()}, notes)


def arrange(
    paths: Sequence[str], config: str | None, where: str
) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Sort the relative paths of data files into splits; also notes on what was left out.

    Understood are ``train.csv``, ``data/train-00000-of-00002.parquet``, ``CONFIG/train-*.parquet``,
    ``CONFIG/train/0000.parquet``. Raises Usage ``config`` where several configurations are there and none was named,
    ``split-names`` where no file says which split it is.
    """
    by_config: dict[str, dict[tuple[str, str, str], list[str]]] = {}
    unknown: list[str] = []
    for path in sorted(paths):
        parts = PurePosixPath(path).parts
        ending = _ending(parts[-1]) or ""
        folders = [part for part in parts[:-1] if part != "data"]
        split = _split_of(parts[-1])
        if split is None and folders and folders[-1].lower() in SPLIT_NAMES:
            split = (SPLIT_NAMES[folders.pop().lower()], "")
        if split is None:
            unknown.append(path)
            continue
        by_config.setdefault("/".join(folders), {}).setdefault((*split, ending), []).append(path)
    if not by_config:
        if len(unknown) == 1 and config is None:
            return {"train": unknown}, (f"{unknown[0]} is taken as train: its name tells no split",)
        raise Usage(
            f"{where} has data files, but their names tell no split: {', '.join(unknown[:6]) or 'none at all'}. "
            "Call them train, validation and test, or give one of the files.",
            code="split-names",
        )
    groups = by_config[_choose_config(list(by_config), config, where)]
    chosen: dict[str, list[str]] = {}
    left_out = list(unknown) if "" in by_config else []
    order = list(READERS)
    for (name, _, _), files in sorted(groups.items(), key=lambda it: (it[0][1], order.index(it[0][2]))):
        if name in chosen:
            left_out += files
            continue
        _complete(files, where)
        chosen[name] = files
    return chosen, (
        f"left out: {', '.join(left_out[:6])}{', ...' if len(left_out) > 6 else ''}",
    ) if left_out else ()


def _choose_config(configs: list[str], config: str | None, where: str) -> str:
    if config is not None:
        if config in configs:
            return config
        if configs == [""] and config == "default":
            return ""
    elif "" in configs:
        return ""
    elif len(configs) == 1:
        return configs[0]
    wrong = "none was named" if config is None else f"{config!r} is not among them"
    named = ", ".join(name for name in configs if name) or "none (leave it out)"
    raise Usage(
        f"{where} has the configurations {named}; {wrong}. "
        f"Name one after a colon, as in {where}:{configs[-1] or 'default'}.",
        code="config",
    )


def _complete(files: list[str], where: str) -> None:
    """Check that of ``name-00000-of-00003.parquet`` all three are there."""
    shards = [_SHARD.search(PurePosixPath(path).name.removesuffix(_ending(path) or "")) for path in files]
    promised = max((int(shard[1]) for shard in shards if shard and shard[1]), default=len(files))
    if promised > len(files):
        raise InputOutput(
            f"{where}: {files[0]} belongs to {promised} files, {len(files)} are there. Fetch the others.",
            code="data-incomplete",
        )


def _split_of(filename: str) -> tuple[str, str] | None:
    """Split and variant a file's name tells: ``validation_matched-00000-of-00001.parquet`` is a ``_matched`` one."""
    match = _SPLIT.fullmatch(filename.lower().removesuffix(_ending(filename.lower()) or ""))
    return (SPLIT_NAMES[match[1]], _SHARD.sub("", match[2])) if match else None


def _ending(name: str) -> str | None:
    return next((ending for ending in READERS if name.endswith(ending)), None)


def _read(paths: Sequence[Path]) -> Table:
    return READERS[_ending(paths[0].name) or ".parquet"](paths)


def _idx_pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        match = _IDX.fullmatch(path.name)
        if match:
            found.setdefault(SPLIT_NAMES[match[1]], {})[match[2]] = path
    for parts in found.values():
        if len(parts) < 2:
            have = next(iter(parts.values()))
            lacks = "labels" if "images" in parts else "images"
            raise InputOutput(
                f"{have} has no file of {lacks} beside it. Put both into the folder.", code="data-incomplete"
            )
    return {split: (parts["images"], parts["labels"]) for split, parts in found.items()}


def _image_folders(folder: Path) -> dict[str, Path]:
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    splits = {
        SPLIT_NAMES[path.name.lower()]: path
        for path in inside
        if path.name.lower() in SPLIT_NAMES and any(_has_images(group) for group in path.iterdir())
    }
    if splits:
        return splits
    classes = [path for path in inside if _has_images(path)]
    if classes and all(path.name.lower() in SPLIT_NAMES for path in classes):
        raise Usage(
            f"{classes[0]} holds images without classes. Give every class its folder: "
            f"{classes[0].name}/CLASS/file.png.",
            code="image-classes",
        )
    return {"train": folder} if classes else {}


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and any(is_image(path) for path in folder.iterdir())
