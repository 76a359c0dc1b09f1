"""For ``lightning``. Its hooks are called by name, so that it is needed neither to import this nor to test it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsam.provenance.callbacks.telling import Telling

if TYPE_CHECKING:
    Callback = object
else:
    try:
        from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback
        except ImportError:
            Callback = object


class LightningProvenance(Callback):
    """Hyperparameters of the module, settings of the trainer, logged metrics, epochs, and checkpoints with their score."""

    def __init__(self) -> None:
        self._telling = Telling()
        self._last: dict[str, float] = {}

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Settings."""
        if not getattr(trainer, "is_global_zero", True):
            return
        self._telling.settings(dict(getattr(pl_module, "hparams", None) or {}))
        names = (
            "max_epochs",
            "max_steps",
            "accumulate_grad_batches",
            "gradient_clip_val",
            "precision",
            "num_devices",
        )
        self._telling.settings({name: getattr(trainer, name, None) for name in names}, "trainer.")

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """A scope."""
        self._telling.enter(f"epoch {trainer.current_epoch + 1}")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Results of the epoch; checkpoints are written after this, and are still of it."""
        self._tell(trainer)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Results, unless it is the check before training."""
        if not getattr(trainer, "sanity_checking", False):
            self._tell(trainer)

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Results."""
        self._tell(trainer)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """The last epoch is over, and its checkpoints are written."""
        self._telling.leave()
        if not getattr(trainer, "is_global_zero", True):
            return
        for one in getattr(trainer, "checkpoint_callbacks", ()):
            scores = dict(getattr(one, "best_k_models", None) or {})
            for path in (getattr(one, "best_model_path", ""), getattr(one, "last_model_path", "")):
                if path:
                    scores.setdefault(path, None)
            for path, score in scores.items():
                settings = {
                    "monitor": getattr(one, "monitor", None),
                    "best": path == getattr(one, "best_model_path", ""),
                }
                results = {} if score is None else {str(getattr(one, "monitor", None) or "score"): score}
                self._telling.checkpoint([Path(path)], settings, results)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The epoch ended early."""
        self._telling.leave()

    def _tell(self, trainer: Any) -> None:
        """Metrics that are new, or have another value than when they were last told."""
        if getattr(trainer, "is_global_zero", True):
            told = dict(trainer.callback_metrics)
            new = {name: value for name, value in told.items() if self._last.get(name) != float(value)}
            self._last |= self._telling.results(new)
