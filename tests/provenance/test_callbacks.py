"""Training loops of others tell of themselves: Trainer, Accelerate, and Lightning by the names of its hooks."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import sparsam.provenance as provenance
from sparsam.provenance.callbacks import LightningProvenance, ProvenanceCallback, ProvenanceTracker
from sparsam.provenance.graph import History, Program


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of the records."""
    return tmp_path / ".sparsam"


def only_program(folder: Path) -> tuple[History, Program]:
    """The graph, and the one program in it."""
    found = provenance.recorded(folder)
    (program,) = found.programs.values()
    return found, program


class Line(torch.nn.Module):
    """One product, with the loss that a trainer wants."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Linear(2, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss and what it is of."""
        made = self.weight(x).squeeze(-1)
        return {"loss": ((made - labels) ** 2).mean(), "logits": made}


def trained(out: Path, callback: Any) -> None:
    """Two epochs by transformers' Trainer."""
    from transformers import Trainer, TrainingArguments

    data = [{"x": torch.tensor([float(at), 1.0]), "labels": torch.tensor(float(at))} for at in range(8)]
    arguments = TrainingArguments(
        output_dir=str(out), num_train_epochs=2, per_device_train_batch_size=4, save_strategy="epoch", eval_strategy="epoch",
        logging_steps=1, report_to=[], use_cpu=True, seed=7, disable_tqdm=True, learning_rate=0.01,
    )  # fmt: skip
    Trainer(Line(), arguments, train_dataset=data, eval_dataset=data, callbacks=[callback]).train()


def test_trainer_tells_settings_results_epochs_and_checkpoints(tmp_path: Path, folder: Path) -> None:
    """A real Trainer: what it was set to, what it logged and where in its epochs, and of each checkpoint its step."""
    with provenance.run("r", folder=folder):
        trained(tmp_path / "out", ProvenanceCallback())
    found, program = only_program(folder)
    assert program.configuration["learning_rate"] == 0.01 and program.configuration["seed"] == 7
    told = [(name, program.scopes[scope][0] if scope else None) for _, name, _, scope in program.metrics]
    assert {scope for name, scope in told if name == "eval_loss"} == {"epoch 1", "epoch 2"}
    assert len([name for name, _ in told if name == "loss"]) == 4
    accounts = {Path(found.entities[x.entity].names[-1]).parent.name: x for x in found.accounts.values()}
    assert {name: one.configuration["global step"] for name, one in accounts.items()} == {
        "checkpoint-2": 2,
        "checkpoint-4": 4,
    }
    assert (
        accounts["checkpoint-2"].configuration["epoch"] == 1.0
        and "eval_loss" in accounts["checkpoint-4"].metrics
    )


def test_callbacks_are_nothing_where_nobody_tracks(tmp_path: Path) -> None:
    """Training goes on as without them, and leaves no record."""
    trained(tmp_path / "out", ProvenanceCallback())
    assert not (tmp_path / ".sparsam").exists()
    ProvenanceTracker().log({"loss": 1.0}, step=1)


def test_accelerate_tells_its_configuration_and_log(folder: Path) -> None:
    """A real Accelerator, with the tracker beside none else."""
    from accelerate import Accelerator

    with provenance.run("r", folder=folder):
        accelerator = Accelerator(cpu=True, log_with=ProvenanceTracker())
        accelerator.init_trackers("project", config={"rate": 0.1, "layers": [1, 2]})
        for epoch in (1, 2):
            with provenance.stage(f"epoch {epoch}"):
                accelerator.log({"loss": torch.tensor(1.5 / epoch), "text": "no number"}, step=epoch)
        accelerator.end_training()
    _, program = only_program(folder)
    assert program.configuration == {"rate": 0.1, "layers": [1, 2]}
    told = [(name, value, program.scopes[str(scope)][0]) for _, name, value, scope in program.metrics]
    assert told == [
        ("loss", 1.5, "epoch 1"), ("step", 1, "epoch 1"), ("loss", 0.75, "epoch 2"), ("step", 2, "epoch 2"),
    ]  # fmt: skip


class FakeTrainer(SimpleNamespace):
    """Calls the hooks of a callback in the order that Lightning's documentation gives."""

    def fit(self, module: Any, callback: Any) -> None:
        """Two epochs with validation, and a checkpoint after each."""
        callback.on_fit_start(self, module)
        self.sanity_checking = True
        self.callback_metrics = {"val_loss": torch.tensor(9.0)}
        callback.on_validation_epoch_end(self, module)
        self.sanity_checking = False
        (checkpoints,) = self.checkpoint_callbacks
        for self.current_epoch in range(2):
            callback.on_train_epoch_start(self, module)
            self.callback_metrics = {"val_loss": torch.tensor(0.5 - 0.1 * self.current_epoch)}
            callback.on_validation_epoch_end(self, module)
            self.callback_metrics["train_loss"] = torch.tensor(1.0 - 0.1 * self.current_epoch)
            callback.on_train_epoch_end(self, module)
            path = self.root / f"epoch={self.current_epoch}.ckpt"
            path.write_text(f"weights {self.current_epoch}")
            checkpoints.best_k_models[str(path)] = self.callback_metrics["val_loss"]
            checkpoints.best_model_path = checkpoints.last_model_path = str(path)
        callback.on_fit_end(self, module)


def test_lightning_s_hooks_tell_the_same(tmp_path: Path, folder: Path) -> None:
    """Hyperparameters, results by epoch without the check before, checkpoints with what they were chosen by."""
    checkpoints = SimpleNamespace(
        best_k_models={}, best_model_path="", last_model_path="", monitor="val_loss"
    )
    trainer = FakeTrainer(
        root=tmp_path, checkpoint_callbacks=[checkpoints], max_epochs=2, is_global_zero=True
    )
    with provenance.run("r", folder=folder):
        trainer.fit(SimpleNamespace(hparams={"width": 4, "name": "x"}), LightningProvenance())
    found, program = only_program(folder)
    assert program.configuration == {"width": 4, "name": "x", "trainer.max_epochs": 2}
    told = [
        (name, round(value, 3), program.scopes[str(scope)][0]) for _, name, value, scope in program.metrics
    ]
    assert told == [
        ("val_loss", 0.5, "epoch 1"), ("train_loss", 1.0, "epoch 1"),
        ("val_loss", 0.4, "epoch 2"), ("train_loss", 0.9, "epoch 2"),
    ]  # fmt: skip
    accounts = {Path(found.entities[x.entity].names[-1]).name: x for x in found.accounts.values()}
    assert accounts["epoch=1.ckpt"].configuration == {"monitor": "val_loss", "best": True}
    assert round(accounts["epoch=0.ckpt"].metrics["val_loss"], 3) == 0.5


def test_lightning_itself_calls_them(tmp_path: Path, folder: Path) -> None:
    """A real Trainer of lightning, where it is installed."""
    lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed here")

    class Module(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self, width: int = 2) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.line = Line()

        def training_step(self, batch: Any, number: int) -> Any:
            loss = self.line(*batch)["loss"]
            self.log("train_loss", loss, on_epoch=True)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.ones(4, 2), torch.ones(4)), batch_size=2
    )
    with provenance.run("r", folder=folder):
        lightning.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=tmp_path, callbacks=[LightningProvenance()],
        ).fit(Module(), loader)  # fmt: skip
    found, program = only_program(folder)
    assert program.configuration["width"] == 2 and program.configuration["trainer.max_epochs"] == 2
    scopes = {program.scopes[str(x)][0] for _, name, _, x in program.metrics if name.startswith("train_loss")}
    assert scopes == {"epoch 1", "epoch 2"} and len(found.accounts) == 1


def test_what_is_written_in_an_epoch_derives_from_all_that_was_read(tmp_path: Path, folder: Path) -> None:
    """An epoch tells calls and results apart and narrows nothing: data read before it is in its checkpoint."""
    (tmp_path / "data").write_text("x")
    with provenance.run("r", folder=folder):
        (tmp_path / "data").read_text()
        with provenance.stage("epoch 1"):
            (tmp_path / "first").write_text("1")
        with provenance.scope("apart"), provenance.stage("inner"):
            (tmp_path / "second").write_text("2")
    found, program = only_program(folder)

    def sources(name: str) -> list[str]:
        one = found.at(str(tmp_path / name))
        assert one is not None
        return [Path(found.entities[x].path).name for x in found.lineage(one.id)]

    assert sources("first") == ["data"] and sources("second") == []
    assert {program.scopes[str(x.scope)][0] for x in found.calls.values() if x.kind == "write"} == {
        "epoch 1",
        "inner",
    }


def test_no_framework_is_imported_unasked() -> None:
    """Asking for one class brings in its framework alone."""
    import subprocess

    code = (
        "import sys, sparsam.provenance.callbacks as c\n"
        "heavy = ('torch', 'transformers', 'accelerate', 'lightning')\n"
        "assert not any(x in sys.modules for x in heavy)\n"
        "c.LightningProvenance\n"
        "assert 'transformers' not in sys.modules and 'accelerate' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
