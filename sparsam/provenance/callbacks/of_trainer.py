"""For ``transformers.Trainer``."""

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from sparsam.provenance.callbacks.telling import Telling


class ProvenanceCallback(TrainerCallback):
    """Settings of the trainer and the model, what it logs, epochs, and checkpoints with their step.

    Ranks other than the first tell of their epochs alone. Tokens that stand among the settings are left out by the trainer
    itself.
    """

    def __init__(self) -> None:
        self._telling = Telling()
        self._last: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Settings."""
        if state.is_world_process_zero:
            self._telling.settings(args.to_sanitized_dict())
            config: Any = getattr(kwargs.get("model"), "config", None)
            if hasattr(config, "to_diff_dict"):
                self._telling.settings(config.to_diff_dict(), "model.")

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A scope."""
        self._telling.enter(f"epoch {int(state.epoch or 0) + 1}")

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What is evaluated and saved for this epoch comes after this, and is still of it."""

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The last epoch is over."""
        self._telling.leave()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Results: whatever the trainer logs, evaluations included."""
        if state.is_world_process_zero and logs:
            self._last |= self._telling.results(logs)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint was written."""
        if state.is_world_process_zero:
            place = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self._telling.checkpoint(
                [place],
                {"epoch": state.epoch, "global step": state.global_step, "seed": args.seed},
                self._last,
            )
