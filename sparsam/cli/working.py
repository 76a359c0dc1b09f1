"""A command at work: what it shows beside its answer, quiet libraries, and how an interruption is explained."""

import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsam.cli.show import Progress, new_console, plain

if TYPE_CHECKING:
    from rich.console import Console


@dataclass
class Shown:
    """What a running command shows beside its answer, on standard error."""

    console: "Console"
    progress: Progress
    notes: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """A line on what is going on."""
        self.console.print(plain(text), soft_wrap=True)

    def note(self, text: str | None) -> None:
        """A fact that the user should know; said once, and kept for the JSON answer."""
        if text is not None and text not in self.notes:
            self.notes.append(text)
            self.console.print(f"note: {plain(text)}", soft_wrap=True)

    def note_all(self, texts: Iterable[str | None]) -> None:
        """Several facts, those that are there."""
        for text in texts:
            self.note(text)


class Interrupted(Exception):
    """The user stopped the command; the text says how to go on."""


@contextmanager
def working(as_json: bool, debug: bool, *outs: Path, models: bool = True) -> Iterator[Shown]:
    """Run a command's work: what libraries print goes to standard error, their chatter is off, Ctrl-C is explained.

    Without ``models`` the libraries of models are not in use, and are not imported to be hushed.
    """
    console = new_console(error=True)
    show = Shown(console, Progress(console))
    with ExitStack() as stack:
        stack.callback(show.progress.close)
        if models and not debug:
            stack.enter_context(_hushed())
        if as_json:
            stack.enter_context(redirect_stdout(sys.stderr))
        try:
            yield show
        except KeyboardInterrupt:
            kept = [
                work
                for out in outs
                if (work := Path(f"{out}.work")).is_dir() and any(work.rglob("*.safetensors"))
            ]
            if kept:
                how = (
                    f"Run the same command again to go on from the checkpoint in {', '.join(map(str, kept))}."
                )
            else:
                how = "No checkpoint was written yet; the same command starts anew." if outs else ""
            raise Interrupted(f"interrupted. {how}".strip()) from None


@contextmanager
def _hushed() -> Iterator[None]:
    """No warnings and no progress bars of the libraries below."""
    from huggingface_hub import logging as of_hub
    from transformers.utils import logging as of_transformers

    logging: Any = of_transformers
    hub_logging: Any = of_hub
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_level = hub_logging.get_verbosity()
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()  # it tells of every retry
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        hub_logging.set_verbosity(hub_level)
        if bars:
            logging.enable_progress_bar()
