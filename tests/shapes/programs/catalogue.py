"""The correct programs with the sizes they take, and what a planted fault is."""

import dataclasses
from pathlib import Path

from programs.running import Sizes

FOLDER = Path(__file__).parent
PAPER = ("network", "last batch", "image channels")  # the classes of faults that PyTea's authors name
KINDS = (*PAPER, "arguments", "hidden state", "squeeze", "rank", "dtype", "empty")


@dataclasses.dataclass(frozen=True)
class Program:
    """A correct program.

    Args:
        name: Its file in this folder, without ".py".
        arguments: The sizes for which it is right, as `--arg` of `sparsam check` takes them.
        tiny: Sizes for a run of some milliseconds; faults change some of them.
        more: Further changes of these sizes for which it is right as well: edges and odd last batches.
    """

    name: str
    arguments: tuple[str, ...]
    tiny: Sizes
    more: tuple[Sizes, ...] = ()

    @property
    def source(self) -> str:
        """Its text."""
        return (FOLDER / f"{self.name}.py").read_text(encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Fault:
    """A change of a correct program that makes it fail, for all sizes or for some.

    Args:
        name: Begins with the program's.
        program: The correct one.
        edits: Old text, which occurs once, and new text.
        at: Pieces of the lines that may fail, in the changed text.
        codes: Diagnostics of the operation that fails; any of them.
        kind: One of `KINDS`.
        fails: Changes of the program's tiny sizes for which it raises.
        fine: Changes for which it still runs to the end, which no check should miss: none if it always fails.
        arguments: Options for the check that replace the program's or come on top.
    """

    name: str
    program: str
    edits: tuple[tuple[str, str], ...]
    at: tuple[str, ...]
    codes: tuple[str, ...]
    kind: str = "network"
    fails: tuple[Sizes, ...] = ({},)
    fine: tuple[Sizes, ...] = ()
    arguments: tuple[str, ...] = ()

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"{self.name}: kind {self.kind!r}; expected one of {', '.join(KINDS)}")

    @property
    def source(self) -> str:
        """The program's text with the fault in it."""
        text = PROGRAMS[self.program].source
        for old, new in self.edits:
            if text.count(old) != 1:
                raise ValueError(f"{self.name}: {old!r} occurs {text.count(old)} times in {self.program}.py")
            text = text.replace(old, new)
        return text

    @property
    def lines(self) -> frozenset[int]:
        """Numbers of the lines that may fail."""
        lines = self.source.splitlines()
        found = {piece: [n for n, line in enumerate(lines, 1) if piece in line] for piece in self.at}
        missing = [piece for piece, numbers in found.items() if not numbers]
        if missing:
            raise ValueError(f"{self.name}: no line has {missing[0]!r}")
        return frozenset(n for numbers in found.values() for n in numbers)

    def sizes(self, changed: Sizes) -> Sizes:
        """The program's tiny sizes with some of them changed."""
        return {**PROGRAMS[self.program].tiny, **changed}

    @property
    def accepted(self) -> frozenset[str]:
        """Codes that say what is wrong: the fault's, and for a smaller last batch the one that says just that."""
        return frozenset((*self.codes, "last-batch") if self.kind == "last batch" else self.codes)

    @property
    def checked_with(self) -> tuple[str, ...]:
        """All options for the check: the program's, unless replaced, and the fault's own."""
        replaced = {argument.partition("=")[0] for argument in self.arguments}
        kept = [a for a in PROGRAMS[self.program].arguments if a.partition("=")[0] not in replaced]
        return (*kept, *self.arguments)


PROGRAMS = {
    program.name: program
    for program in (
        Program(
            "mnist",
            ("batch_size=1..512", "test_batch_size=1..1000"),
            {"batch_size": 4, "test_batch_size": 3, "train": 10, "test": 7, "save_model": True},
            ({"batch_size": 1, "train": 2}, {"batch_size": 20, "test_batch_size": 1}, {"dry_run": True}),
        ),
        Program(
            "vae",
            ("batch_size=1..512", "latent=1..64"),
            {"batch_size": 4, "latent": 5, "train": 10, "test": 7},
            ({"latent": 1, "batch_size": 1, "train": 2, "test": 1}, {"test": 3}),
        ),
        Program(
            "dcgan",
            ("batch_size=1..256", "nz=1..128"),
            {"batch_size": 4, "nz": 5, "train": 6},
            ({"train": 5}, {"batch_size": 1, "train": 1, "nz": 1}, {"dataset": "mnist"}),
        ),
        Program(
            "super_resolution",
            ("batch_size=1..8", "test_batch_size=1..8", "upscale_factor=1..4", "crop_size=16"),
            {"batch_size": 2, "test_batch_size": 2, "crop_size": 16, "modes": "RGB,RGB,L"},
            ({"upscale_factor": 3}, {"upscale_factor": 1, "modes": "L"}, {"modes": "RGB,P,RGBA,1"}),
        ),
        Program(
            "word_language_model",
            ("tokens=64..1000", "batch_size=1..64", "eval_batch_size=1..32", "bptt=1..70"),
            {"tokens": 101, "batch_size": 4, "eval_batch_size": 3, "bptt": 7},
            ({"tied": True}, {"tied": True, "nhid": 5, "emsize": 6}, {"model": "GRU"}, {"tokens": 4}),
        ),
        Program(
            "time_series",
            ("sequences=5..9", "held_back=1..4", "length=2..12", "future=0..100"),
            {"sequences": 6, "held_back": 2, "length": 8, "future": 3, "steps": 1},
            ({"future": 0}, {"length": 2}, {"held_back": 1}, {"held_back": 5}),
        ),
        Program(
            "snli",
            ("batch_size=1..256", "examples=1..1000", "dev_examples=1..500", "premise_length=1..60"),
            {"batch_size": 4, "examples": 10, "dev_examples": 6},
            (
                {"n_layers": 2},
                {"no_bidirectional": True},
                {"no_projection": True},
                {"batch_size": 1, "examples": 2},
            ),
        ),
        Program(
            "vit",
            ("batch_size=1..256", "heads=1..8"),
            {"batch_size": 4, "train": 6, "test": 5},
            (
                {"heads": 5},
                {"dataset": "mnist"},
                {"image_size": 32},
                {"patch_size": 16, "batch_size": 1, "train": 2},
            ),
        ),
        Program(
            "bert",
            ("batch_size=1..128", "seq_length=1..64", "examples=1..300"),
            {"batch_size": 4, "seq_length": 9, "examples": 6},
            ({"seq_length": 1}, {"seq_length": 64, "examples": 1}, {"batch_size": 1, "examples": 2}),
        ),
        Program(
            "simclr",
            ("batch_size=1..256",),
            {"batch_size": 4, "train": 10},
            ({"batch_size": 1, "train": 2}, {"train": 3}, {"out_dim": 3}),
        ),
    )
}
