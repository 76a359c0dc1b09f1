"""A small convolutional network with BatchNorm, in the shape of ResNet-9, trained here on Fashion-MNIST or CIFAR-10.

    python benchmarks/resnet9.py [--data cifar10] [--epochs 8] [--stop-after 2]

Training stops after any epoch and goes on from its checkpoint in ``runs/resnet9/`` when it is called again.
"""

import argparse
import io
import os
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sparsam.task.images import read_idx

SHARED = Path(os.environ.get("SPARSAM_SHARED", "../shared"))
RUNS = Path("runs/resnet9")
BATCH = 128
PEAK = 0.2
"""Of the learning rate: it rises over a fifth of the steps and falls to 0, SGD with Nesterov momentum. Chosen by us."""


def read(data: str, split: str) -> tuple[NDArray[np.uint8], Tensor]:
    """Images (n, h, w, c) and labels (n,) of ``train`` or ``test``."""
    folder = SHARED / "data" / data
    if data == "cifar10":
        table = pq.read_table(folder / f"{split}.parquet")
        images = np.stack([np.asarray(Image.open(io.BytesIO(one.as_py()))) for one in table["image"]])
        return images, torch.from_numpy(table["label"].to_numpy().copy())
    stem = "train" if split == "train" else "t10k"
    images = read_idx(folder / f"{stem}-images-idx3-ubyte.gz")[..., None]
    labels = read_idx(folder / f"{stem}-labels-idx1-ubyte.gz")
    return images, torch.from_numpy(labels.astype(np.int64))


def pixels(images: NDArray[np.uint8]) -> Tensor:
    """Images as the network reads them: (n, c, h, w) in [-1, 1]."""
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


def unit(inputs: int, outputs: int, pool: bool = False) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU, and a pooling that halves the picture if asked for."""
    parts = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*parts, *([nn.MaxPool2d(2)] if pool else []))


class Residual(nn.Module):
    """Two units beside which their input goes on."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(unit(width, width), unit(width, width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.inner(x)
        return out


class ResNet9(nn.Module):
    """Eight convolutions and a linear layer, ``width`` to eight times as many channels."""

    def __init__(self, channels: int, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        w = width
        self.features = nn.Sequential(
            unit(channels, w), unit(w, 2 * w, True), Residual(2 * w),
            unit(2 * w, 4 * w, True), unit(4 * w, 8 * w, True), Residual(8 * w),
        )  # fmt: skip
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8 * w, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.pool(self.features(x)).flatten(1))
        return out


def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture flipped or not, and moved by up to two pixels."""
    n, _, h, w = x.shape
    flip = torch.rand(n, generator=generator) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(3), x)
    wide = F.pad(x, (2, 2, 2, 2), value=-1.0)
    dy, dx = torch.randint(0, 5, (2, n), generator=generator)
    rows, columns = dy[:, None] + torch.arange(h), dx[:, None] + torch.arange(w)
    return wide[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def train(
    model: nn.Module, images: NDArray[np.uint8], labels: Tensor, epochs: int, place: Path | None = None,
    stop_after: int | None = None, seed: int = 0,
) -> bool:  # fmt: skip
    """Train in place; whether it is at its end. ``place`` holds the state after each epoch and is gone on from."""
    weights = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": weights, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=PEAK, momentum=0.9, nesterov=True)
    per_epoch, done = len(images) // BATCH, 0
    momenta = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        optimizer.state[p]["momentum_buffer"] = momenta[name]
    if place is not None and place.exists():
        state = load_file(place)
        done = int(state.pop("epochs"))
        for name in momenta:
            momenta[name].copy_(state.pop(f"momentum.{name}"))
        model.load_state_dict(state)
    model.train().to(memory_format=torch.channels_last)
    for epoch in range(done, min(epochs, done + (stop_after or epochs))):
        generator, started = torch.Generator().manual_seed(seed * 1000 + epoch), time.monotonic()
        order, summed = torch.randperm(len(images), generator=generator), 0.0
        for step in range(per_epoch):
            at = (epoch * per_epoch + step + 1) / (epochs * per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = PEAK * min(at / 0.2, (1 - at) / 0.8)
            rows = order[step * BATCH : (step + 1) * BATCH]
            x = shifted(pixels(images[rows.numpy()]), generator).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                scores = model(x)
            loss = F.cross_entropy(scores.float(), labels[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            summed += float(loss.detach())
        seconds = time.monotonic() - started
        print(f"epoch {epoch + 1} of {epochs}: loss {summed / per_epoch:.4f}, {seconds:.0f} s", flush=True)
        done = epoch + 1
        if place is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            state = {name: x.contiguous() for name, x in model.state_dict().items()}
            state |= {f"momentum.{name}": x.contiguous() for name, x in momenta.items()}
            save_file(state | {"epochs": torch.tensor(done)}, place.with_suffix(".part"))
            place.with_suffix(".part").rename(place)
    model.eval().to(memory_format=torch.contiguous_format)
    return done >= epochs


@torch.no_grad()
def scores_of(model: nn.Module, images: NDArray[np.uint8], batch: int = 500) -> Tensor:
    """The network's answers (n, classes)."""
    parts = [model(pixels(images[start : start + batch])) for start in range(0, len(images), batch)]
    return torch.cat(parts)


def trained(data: str, place: Path) -> ResNet9:
    """The network from its checkpoint, in evaluation mode."""
    state = load_file(place)
    kept = {name: x for name, x in state.items() if name != "epochs" and not name.startswith("momentum.")}
    first = kept["features.0.0.weight"]
    model = ResNet9(int(first.shape[1]), int(first.shape[0]))
    model.load_state_dict(kept)
    return model.eval()


def main() -> None:
    """Train, or go on training, and evaluate at the end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=("fashion_mnist", "cifar10"), default="fashion_mnist")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--stop-after", type=int)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)
    images, labels = read(args.data, "train")
    model = ResNet9(images.shape[3], args.width)
    place = RUNS / f"{args.data}.safetensors"
    if train(model, images, labels, args.epochs, place, args.stop_after):
        images, labels = read(args.data, "test")
        right = int((scores_of(trained(args.data, place), images).argmax(1) == labels).sum())
        print(f"{args.data}: {right} of {len(labels)} right")


if __name__ == "__main__":
    main()
