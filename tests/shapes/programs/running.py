"""Runs a program of this folder with plain torch on given sizes, in this process, and says where it failed."""

import contextlib
import dataclasses
import io
import random
import runpy
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

STAND_IN = Path(__file__).parent.parent / "eager_torchvision"
LENGTHS = ("train", "test")  # sizes that are lengths of torchvision's data sets, not options
MODES = "modes"  # Pillow modes of the images in the folder "images", "RGB,L,RGB"

Size = int | str | bool
Sizes = Mapping[str, Size]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended: `error` is None at the end of the program, else the exception at `line` of the program."""

    error: BaseException | None
    line: int = 0
    text: str = ""


def command_line(sizes: Sizes) -> list[str]:
    """Options of the program: `batch_size=4` as `--batch-size 4`, True as a bare flag, False as nothing."""
    words = []
    for name, value in sizes.items():
        if name in (*LENGTHS, MODES) or value is False:
            continue
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words.append(str(value))
    return words


def draw_images(folder: Path, modes: str, size: tuple[int, int] = (24, 20)) -> Path:
    """Random images, one of each mode in a list such as "RGB,L"; returns the folder."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for number, mode in enumerate(modes.split(",")):
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{number}.png")
    return folder


@contextlib.contextmanager
def torchvision_of(sizes: Sizes) -> Iterator[None]:
    """The small torchvision of these tests can be imported, with data sets of these lengths; afterwards it cannot."""
    before = {name for name in sys.modules if name.partition(".")[0] == "torchvision"}
    if before:
        raise RuntimeError("torchvision is imported already; these tests bring their own")
    sys.path.insert(0, str(STAND_IN))
    try:
        from torchvision import datasets

        datasets.LENGTHS.update({name: sizes[name] for name in LENGTHS if name in sizes})
        yield
    finally:
        sys.path.remove(str(STAND_IN))
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]


def run(source: str, name: str, sizes: Sizes, folder: Path) -> Outcome:
    """Run `source` as the script `folder/name.py` with `folder` as working directory.

    The line of an error is that of the innermost frame in the program, whatever it called there.
    """
    script = folder / f"{name}.py"
    script.write_text(source, encoding="utf-8")
    if MODES in sizes:
        draw_images(folder / "images", str(sizes[MODES]))
    torch.manual_seed(0)
    random.seed(0)
    argv = sys.argv
    sys.argv = [str(script), *command_line(sizes)]
    try:
        with contextlib.chdir(folder), torchvision_of(sizes), contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(str(script), run_name="__main__")
    except (Exception, SystemExit) as error:
        inside = [
            frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(script)
        ]
        if not inside:
            raise
        return Outcome(error, inside[-1].lineno or 0, inside[-1].line or "")
    finally:
        sys.argv = argv
    return Outcome(None)
