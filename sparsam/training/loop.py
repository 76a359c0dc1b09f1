"""One plain training loop, on one process or many (``accelerate launch``).

It knows no method. What is trained is a :class:`Trainee`: a module whose forward pass gives the loss, with hooks for its own
schedules. Checkpoints are one safetensors file each, written whole or not at all: weights, optimizer, generators, step and
the trainee's own memory. Training that stops at any step and goes on from its checkpoint ends with the same bits.
"""

import json
import math
import os
import shutil
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sparsam.errors import InputOutput, Refused, Usage
from sparsam.models import head_alone
from sparsam.training.embeddings import touched_rows

Batches = Callable[[int], Sequence[NDArray[np.int64]]]
Collate = Callable[[NDArray[np.int64]], dict[str, Tensor]]


@dataclass(frozen=True)
class Settings:
    """How to train.

    Args:
        epochs: passes over the data; may be a fraction.
        lr: peak learning rate of the weights.
        batch_tokens: real tokens a batch (text) or tokens of its images.
        warmup: share of the steps over which the rate rises; it falls linearly to 0 afterwards.
        weight_decay: on matrices only, not on norms, biases or thresholds.
        clip: largest norm of the gradient.
        seed: of everything random.
        precision: ``bf16`` where the machine computes in it natively, else ``fp32``; or one of the two by name.
        checkpoint_minutes: a checkpoint at least this often, if a folder for them is given.
    """

    epochs: float = 1.0
    lr: float = 2e-5
    batch_tokens: int = 1024
    warmup: float = 0.06
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    precision: str = "auto"
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        for name in ("epochs", "lr", "batch_tokens", "clip"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise Usage(f"{name} must be above 0; got {value!r}.", code="training-settings")
        if not 0 <= self.warmup < 1:
            raise Usage(
                f"warmup is a share of the steps in [0, 1); got {self.warmup!r}.", code="training-settings"
            )
        if self.seed < 0:
            raise Usage(f"seed must not be negative; got {self.seed!r}.", code="training-settings")
        if self.precision not in ("auto", "bf16", "fp32"):
            raise Usage(f"precision is auto, bf16 or fp32; got {self.precision!r}.", code="training-settings")


class Progress(Protocol):
    """Called after each step."""

    def __call__(self, step: int, total: int, logs: dict[str, float]) -> None: ...


class Trainee(nn.Module):
    """What is trained. Subclasses give the loss; the rest has defaults."""

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and figures to show."""
        raise NotImplementedError

    def forward(self, **batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """So that a data-parallel wrapper sees one forward pass a step."""
        return self.loss(batch)

    def groups(self, settings: Settings) -> list[dict[str, Any]]:
        """Parameter groups: matrices decay, the rest does not."""
        matrices = [p for p in self.parameters() if p.requires_grad and p.dim() > 1]
        others = [p for p in self.parameters() if p.requires_grad and p.dim() <= 1]
        groups = [
            {"params": matrices, "weight_decay": settings.weight_decay, "lr": settings.lr},
            {"params": others, "weight_decay": 0.0, "lr": settings.lr},
        ]
        return [group for group in groups if group["params"]]

    def after_step(self, step: int, total: int) -> dict[str, float]:
        """Schedules and steering, after step ``step`` of ``total``; figures to show."""
        return {}

    def memory(self) -> dict[str, Any]:
        """What a checkpoint must hold beyond parameters and buffers: a JSON object."""
        return {}

    def remember(self, memory: dict[str, Any]) -> None:
        """The inverse of :meth:`memory`."""


class Supervised(Trainee):
    """A model and its own loss on labels."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        with head_alone(self.model):
            return self.model(**batch).loss, {}


@dataclass
class History:
    """What happened: steps, seconds, tokens (of texts) and samples in all, and the logged figures of this process by step."""

    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    samples: int = 0
    logs: list[dict[str, float]] = field(default_factory=list)

    def record(self, epochs: float, lr: float) -> dict[str, float]:
        """What is kept of a stage beside the model."""
        return {
            "steps": self.steps, "seconds": round(self.seconds, 1), "samples": self.samples, "tokens": self.tokens,
            "epochs": epochs, "lr": lr,
        }  # fmt: skip


def on_main_process(write: Callable[[], object]) -> None:
    """Do something once, whatever the number of processes, and let all of them go on after it."""
    state = PartialState()
    if state.is_main_process:
        write()
    state.wait_for_everyone()


def compute_device() -> torch.device:
    """Where this process trains and evaluates: its accelerator where there is one, else the CPU."""
    device: torch.device = PartialState().device
    return device


def over_processes(value: float) -> list[float]:
    """A number of each process, in order of their ranks; the number alone where there is one process."""
    state = PartialState()
    if state.num_processes == 1:
        return [value]
    own = torch.tensor([value], dtype=torch.float64, device=state.device)
    found = [torch.zeros_like(own) for _ in range(state.num_processes)]
    torch.distributed.all_gather(found, own)
    return [float(x) for x in found]


def native_bf16(device: torch.device) -> bool:
    """Whether products in bf16 are faster than in fp32 here, rather than emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
        return bool(supported and supported()) and torch.backends.cpu.get_cpu_capability() not in (
            "AVX2",
            "DEFAULT",
        )
    return False


def precision_here(settings: Settings, device: torch.device) -> str:
    """``bf16`` or ``fp32``."""
    if settings.precision != "auto":
        return settings.precision
    return "bf16" if native_bf16(device) else "fp32"


def rate(step: int, total: int, warmup: float) -> float:
    """The share of the peak learning rate at a step: linear up, linear down to 0."""
    rising = max(1, round(warmup * total))
    if step < rising:
        return (step + 1) / rising
    return max(0.0, (total - step) / max(1, total - rising))


def train(
    trainee: Trainee,
    batches: Batches,
    collate: Collate,
    settings: Settings,
    *,
    checkpoints: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    stop_after: int | None = None,
    cpu: bool = False,
) -> History:
    """Train in place.

    Args:
        trainee: what gives the loss.
        batches: the batches of an epoch, as arrays of example indices; the same for the same epoch.
        collate: a batch's tensors from its indices.
        settings: how.
        checkpoints: folder of this run's checkpoint; found there, training goes on from it.
        identity: what else the run depends on (method, budget, source): a checkpoint of another one is refused.
        progress: called after each step.
        stop_after: stop after so many steps in all, as if interrupted (with a checkpoint).
        cpu: stay on the CPU even where there is a GPU.

    Raises:
        Refused: ``non-finite`` when the loss stops being a number; the last checkpoint stays.
    """
    # A head or an embedding a task does not use has no gradient; data-parallel training must not wait for it.
    parallel = DistributedDataParallelKwargs(find_unused_parameters=True)
    facts = {**asdict(settings), **json.loads(json.dumps(dict(identity or {})))}
    accelerator = Accelerator(cpu=cpu, kwargs_handlers=[parallel])
    device = accelerator.device
    precision = precision_here(settings, device)
    torch.manual_seed(settings.seed + 7919 * accelerator.process_index)
    trainee.to(device).train()
    groups = trainee.groups(settings)
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, fused=device.type in ("cpu", "cuda"))
    peaks = [group["lr"] for group in optimizer.param_groups]
    wrapped: Any = accelerator.prepare_model(trainee) if accelerator.num_processes > 1 else trainee
    plan = _Schedule(batches, settings.epochs, accelerator.num_processes)
    history = History()
    path = (
        None
        if checkpoints is None
        else Path(checkpoints) / f"checkpoint-{accelerator.process_index}.safetensors"
    )
    if path is not None and path.exists():
        history = _load(path, trainee, optimizer, facts)
    reached = over_processes(history.steps)
    if len(set(reached)) > 1:
        raise InputOutput(
            f"the processes' checkpoints in {checkpoints} are of different steps ({', '.join(f'{x:.0f}' for x in reached)}). "
            "Delete the folder to start again.",
            code="checkpoint-read",
        )
    started = saved = time.monotonic()
    before = history.seconds  # of the runs that were interrupted
    step = history.steps
    by_row = device.type == "cpu" and accelerator.num_processes == 1
    with touched_rows(trainee, enabled=by_row) as clean:
        while step < plan.total:
            share = rate(step, plan.total, settings.warmup)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * share
            indices = plan.batch(step, accelerator.process_index)
            batch = {name: x.to(device) for name, x in collate(indices).items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss, logs = wrapped(**batch)
            due = time.monotonic() - saved > 60 * settings.checkpoint_minutes
            finite = bool(torch.isfinite(loss))
            if accelerator.num_processes > 1:  # all stop, and all save, at the same step
                due, finite = (any(over_processes(due)), all(over_processes(finite)))
            if not finite:
                raise Refused(
                    f"the loss is {float(loss.detach())} at step {step + 1} of {plan.total} (examples "
                    f"{indices[:4].tolist()}…). Lower the learning rate (--lr), or look at these examples; the last "
                    "checkpoint is kept.",
                    code="non-finite",
                )
            accelerator.backward(loss)
            torch.nn.utils.clip_grad_norm_(trainee.parameters(), settings.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            clean()
            step += 1
            history.steps = step
            history.samples += len(indices)
            history.tokens += int(batch["attention_mask"].sum()) if "attention_mask" in batch else 0
            shown = {"loss": float(loss.detach()), **{k: float(v.detach()) for k, v in logs.items()}}
            shown |= trainee.after_step(step, plan.total)
            history.logs.append({"step": float(step), **shown})
            if progress is not None and accelerator.is_main_process:
                progress(step, plan.total, shown)
            stopping = stop_after is not None and step >= stop_after
            if path is not None and (due or stopping or step == plan.total):
                history.seconds = before + time.monotonic() - started
                _save(path, trainee, optimizer, facts, history)
                saved = time.monotonic()
            if stopping:
                break
    history.seconds = before + time.monotonic() - started
    trainee.eval()
    return history


def rows_seen(batches: Batches, epochs: float) -> NDArray[np.int64]:
    """The examples that training for so many epochs looks at, each once, in order."""
    seen = [batch for epoch in _Schedule(batches, epochs, 1).epochs for batch in epoch]
    return np.unique(np.concatenate(seen)) if seen else np.empty(0, np.int64)


class _Schedule:
    """Which batch each process sees at each step, the same on every machine."""

    def __init__(self, batches: Batches, epochs: float, processes: int) -> None:
        self.batches, self.processes = batches, processes
        self.epochs: list[Sequence[NDArray[np.int64]]] = []
        whole, part = int(epochs), epochs - int(epochs)
        self.starts = [0]
        for epoch in range(whole + (part > 1e-9)):
            found = batches(epoch)
            count = len(found) if epoch < whole else max(1, round(part * len(found)))
            self.epochs.append(list(found)[:count])
            self.starts.append(self.starts[-1] + math.ceil(count / processes))
        self.total = self.starts[-1]

    def batch(self, step: int, process: int) -> NDArray[np.int64]:
        epoch = int(np.searchsorted(self.starts, step, side="right")) - 1
        found = self.epochs[epoch]
        return found[((step - self.starts[epoch]) * self.processes + process) % len(found)]


def _save(
    path: Path, trainee: Trainee, optimizer: torch.optim.Optimizer, run: Mapping[str, Any], history: History
) -> None:
    tensors = {f"model.{name}": x for name, x in trainee.state_dict().items()}
    scalars: dict[str, float] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                scalars[f"{index}.{key}"] = value
    tensors["generator"] = torch.get_rng_state()
    device = next(trainee.parameters()).device
    if device.type == "cuda":
        tensors["generator.cuda"] = torch.cuda.get_rng_state(device)
    seen: set[int] = set()
    for name, x in list(tensors.items()):  # tied weights are stored once, under each of their names
        tensors[name] = x.clone() if x.data_ptr() in seen else x.contiguous()
        seen.add(x.data_ptr())
    done = {name: getattr(history, name) for name in ("steps", "seconds", "tokens", "samples")}
    facts = json.loads(
        json.dumps(
            {"history": done, "settings": dict(run), "memory": trainee.memory(), "scalars": scalars},
            allow_nan=False,
        )
    )
    facts["sum"] = _sum(tensors, facts)
    staging = path.with_name(f".{path.stem}.tmp-{os.getpid()}")  # a folder: safetensors stages inside, too
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _collect(path)
        staging.mkdir(exist_ok=True)
        save_file(tensors, staging / "new", metadata={"sparsam": json.dumps(facts)})
        with open(staging / "new", "rb") as written:
            os.fsync(written.fileno())
        os.replace(staging / "new", path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputOutput(
            f"the checkpoint {path} could not be written: {reason}. Free some space or "
            "choose another --out; the last checkpoint is kept.",
            code="checkpoint-write",
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _sum(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> int:
    """CRC-32 of all that a checkpoint holds."""
    found = zlib.crc32(json.dumps(facts, sort_keys=True).encode())
    for name, x in sorted(tensors.items()):
        found = zlib.crc32(f"{name} {x.dtype} {tuple(x.shape)}".encode(), found)
        found = zlib.crc32(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data, found)
    return found


def _collect(path: Path) -> None:
    """Remove what killed processes were writing in place of a checkpoint."""
    for left in path.parent.glob(f".{path.stem}.tmp-*"):
        number = left.name.rpartition("-")[2]
        try:
            os.kill(int(number), 0)
        except (ProcessLookupError, OverflowError):
            shutil.rmtree(left, ignore_errors=True)
        except (ValueError, PermissionError):
            continue  # not ours, or alive


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts of a checkpoint; read again where another process replaced it meanwhile."""
    while True:
        before = _stands(path)
        try:
            with safe_open(path, framework="pt") as opened:  # opens the file twice, by its name
                facts = json.loads((opened.metadata() or {})["sparsam"])
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            said = facts.pop("sum", None)
            known = {"history", "settings", "memory", "scalars"}
            if set(facts) != known or said != _sum(tensors, facts):
                raise ValueError("its checksum differs")
            return tensors, facts
        except Exception as error:
            if _stands(path) == before:
                raise _unreadable(path, error) from error


def _stands(path: Path) -> tuple[int, int]:
    """What tells a file from one that takes its place."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def _load(path: Path, trainee: Trainee, optimizer: torch.optim.Optimizer, run: Mapping[str, Any]) -> History:
    tensors, facts = _read(path)
    try:
        settings, history = dict(facts["settings"]), History(**facts["history"])
    except (TypeError, ValueError) as error:
        raise _unreadable(path, error) from error
    if settings != run:
        changed = [k for k in {**settings, **run} if settings.get(k) != run.get(k)]
        raise Usage(
            f"the checkpoint {path} was made with other settings ({', '.join(changed)}). Use the same ones to go "
            "on, or delete it to start again.",
            code="checkpoint-settings",
        )
    try:
        _put_back(trainee, optimizer, tensors, facts)
    except Exception as error:  # what stands in a damaged file can make torch fail in any way
        raise _unreadable(path, error) from error
    return history


def _unreadable(path: Path, error: Exception) -> InputOutput:
    said = str(error).splitlines()[0] if str(error) else ""
    return InputOutput(
        f"the checkpoint {path} cannot be read: {type(error).__name__}: {said[:300]}. Delete it to start again.",
        code="checkpoint-read",
    )


def _put_back(
    trainee: Trainee,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> None:
    """Weights, optimizer, generators and memory as a checkpoint holds them."""
    trainee.load_state_dict(
        {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    )
    state: dict[int, dict[str, Any]] = {}
    for name, x in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = x
    for name, value in facts["scalars"].items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["generator"])
    device = next(trainee.parameters()).device
    if device.type == "cuda" and "generator.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["generator.cuda"], device)
    trainee.remember(facts["memory"])
