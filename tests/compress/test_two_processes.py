"""The main road in two gloo processes, as ``accelerate launch`` or ``torchrun`` start them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_checkpoints
import torch

from sparsam import artifact

SCRIPT = """
import sys
from pathlib import Path
import torch
from accelerate import PartialState
from sparsam.compress import compress
from sparsam.compress.remembered import remembered
from sparsam.structure import FTPP
from sparsam.training.loop import Settings

torch.set_num_threads(1)
dense, task, out = sys.argv[1:]
me = PartialState(cpu=True).process_index
found = remembered(Path(out) / "found", "time", {}, lambda: me)
assert found == 0, f"process {me} goes on with {found}"
made = compress(
    dense, task, out=Path(out) / "small", methods=[FTPP(multiple=1, recover_epochs=2, recover_lr=1e-3)], budget="macs=0.5x",
    settings=Settings(batch_tokens=64, precision="fp32"),
)
assert made.met and made.history["0-recover"]["steps"] > 4, made.history
torch.save(made.model.state_dict(), f"{out}/{me}.pt")
"""


@pytest.mark.slow  # starts two processes
def test_recovery_in_two_processes_gives_one_model(tmp_path: Path) -> None:
    """Cut, recovered by distillation and saved once: both reload what stands on the disk; what one's clock found holds."""
    made = tiny_checkpoints.text_checkpoints(tmp_path / "made", rows=64)
    (tmp_path / "run.py").write_text(SCRIPT)
    out = tmp_path / "out"
    out.mkdir()
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        str(tmp_path / "run.py"),
    ]
    done = subprocess.run(
        [*command, str(made.dense), str(made.task), str(out)], capture_output=True, text=True, timeout=280,
        env=os.environ | {"ACCELERATE_USE_CPU": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-20000:]
    own, other = (torch.load(out / f"{at}.pt", weights_only=True) for at in (0, 1))
    assert all(torch.equal(own[name], other[name]) for name in own)
    saved = artifact.load(out / "small")
    assert saved.plan is not None and saved.plan.changes_shapes
    assert all(torch.equal(x, own[name]) for name, x in saved.model.state_dict().items())
    assert not (out / "small.work").exists()
