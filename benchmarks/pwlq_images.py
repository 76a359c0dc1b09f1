"""PWLQ beside uniform grids on the convolutional networks of resnet9.py: weights of 4 and 3 bits, inputs of 8 bits.

    python benchmarks/resnet9.py --data fashion_mnist && python benchmarks/pwlq_images.py --data fashion_mnist
    python benchmarks/resnet9.py --data cifar10 --epochs 10 && python benchmarks/pwlq_images.py --data cifar10

BatchNorm is folded first; every convolution, the linear layer and the pooling in front of it read rounded inputs, on the range
that the paper takes: 512 training images, medians of the ten least and the ten largest numbers. Everything is simulated,
nothing is trained. Answers are kept in ``runs/pwlq/``; a run that was stopped goes on.
"""

import argparse
import copy
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from resnet9 import RUNS, pixels, read, scores_of, trained
from tables import store

from sparsam.measure import paired_difference
from sparsam.quantization import Form, corrected_bias, fake_quantize, grid_between
from sparsam.quantization.fold import fold_batch_norm
from sparsam.quantization.pwlq import (
    Outermost,
    input_grid,
    quantize_pwlq,
    released,
    released_correction,
    uniform,
)

IMAGES = 512
PLACE = Path("runs/pwlq")
Rounding = Callable[[Tensor], Tensor]


class Calibrated:
    """The folded network, what its products read of the calibration images, and ways to answer with everything rounded."""

    def __init__(self, model: nn.Module, images: NDArray[np.uint8]) -> None:
        self.exact, names = fold_batch_norm(model)
        assert len(names) == 8
        x = pixels(images[np.random.default_rng(0).permutation(len(images))[:IMAGES]])
        with torch.no_grad():
            assert (self.exact(x) - model(x)).abs().max() < 1e-4
        self.products = {n: m for n, m in self.exact.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        self.readers = [*self.products, "pool"]
        seen = {name: Outermost() for name in self.readers}
        self.samples: dict[str, Tensor] = {}
        self.means: dict[str, Tensor] = {}

        def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                seen[name].add(inputs[0])
                self.samples[name] = inputs[0][:32].flatten()
                self.means[name] = inputs[0].mean(0, keepdim=True)

            return hook

        handles = [self.exact.get_submodule(n).register_forward_pre_hook(watch(n)) for n in self.readers]
        with torch.no_grad():
            self.exact(x)
        for handle in handles:
            handle.remove()
        self.bounds = {name: one.bounds() for name, one in seen.items()}

    def inputs(self, kind: str) -> dict[str, Rounding]:
        """How each reader's inputs are rounded: ``8`` and ``4`` bits uniform, ``pwlq4`` in pieces."""
        found: dict[str, Rounding] = {}
        for name, (low, high) in self.bounds.items():
            bits = int(kind[-1]) if name != "features.0.0" else 8  # of four bits the picture itself has eight
            if kind.startswith("pwlq") and bits == 4:
                grid = input_grid(self.samples[name], 4, float(torch.maximum(-low, high)))
                found[name] = grid.fake_quantize
                continue
            positive = float(low) >= 0
            form = Form(bits, symmetric=not positive, signed=not positive)
            flat = grid_between(low, high, form)
            found[name] = lambda x, flat=flat: fake_quantize(x, flat)
        return found

    def mean_patch(self, name: str) -> Tensor:
        """E[x] of what each weight of an output reads, padding included."""
        module = self.products[name]
        if isinstance(module, nn.Linear):
            return self.means[name][0]
        assert isinstance(module, nn.Conv2d) and module.groups == 1
        patches = F.unfold(
            self.means[name], module.kernel_size, module.dilation, module.padding, module.stride
        )
        return patches[0].mean(1)

    @torch.no_grad()
    def rounded(self, weights: Rounding | None, correction: str, inputs: str) -> nn.Module:
        """A copy with everything rounded; ``correction`` is ``none``, ``bias`` or ``released``."""
        own = copy.deepcopy(self.exact)
        for name in self.products if weights is not None else ():
            module: Any = own.get_submodule(name)
            assert weights is not None
            back = weights(module.weight)
            if correction == "bias":
                mean = self.mean_patch(name)
                module.bias.copy_(
                    corrected_bias(module.weight.flatten(1), back.flatten(1), module.bias, mean)
                )
            elif correction == "released":
                back = released_correction(module.weight, back)
            module.weight.copy_(back)
        for name, rounding in self.inputs(inputs).items():
            own.get_submodule(name).register_forward_pre_hook(
                lambda _, given, rounding=rounding: (rounding(given[0]),)
            )
        return own


def variants(bits: int) -> dict[str, Rounding]:
    """How weights are rounded, by name."""
    found: dict[str, Rounding] = {
        f"uniform {bits}, full range": lambda w: uniform(w, bits, clip=False),
        f"uniform {bits}, clipped": lambda w: uniform(w, bits),
        f"uniform {bits + 1}, full range": lambda w: uniform(w, bits + 1, clip=False),
        f"uniform {bits + 1}, clipped": lambda w: uniform(w, bits + 1),
        f"PWLQ {bits}, released code (Gauss)": lambda w: released(w, bits),
    }
    for how in ("gaussian", "laplace", "grid", "search"):
        found[f"PWLQ {bits}, {how}"] = lambda w, how=how: quantize_pwlq(w, bits, breakpoint=how).dequantized()
    found[f"PWLQ {bits}, int8 form"] = lambda w: quantize_pwlq(w, bits, form="int8").dequantized()
    found[f"PWLQ {bits}, int8 form, full range"] = lambda w: quantize_pwlq(
        w, bits, form="int8", breakpoint="grid"
    ).dequantized()
    return found


def main() -> None:
    """Answer with every variant that has not answered yet, then store the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=("fashion_mnist", "cifar10"), default="fashion_mnist")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so many")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    until = time.monotonic() + args.seconds
    images, labels = read(args.data, "test")
    network = Calibrated(trained(args.data, RUNS / f"{args.data}.safetensors"), read(args.data, "train")[0])
    jobs: list[tuple[str, Rounding | None, str, str]] = [("float32 weights", None, "none", "8")]
    jobs.append(("uniform 8, full range", lambda w: uniform(w, 8, clip=False), "none", "8"))
    for bits in (4, 3):
        for name, how in variants(bits).items():
            corrections = ("none", "bias", "released") if "released" in name else ("none", "bias")
            jobs += [(name, how, correction, "8") for correction in corrections]
    jobs = list({(name, one): (name, how, one, inputs) for name, how, one, inputs in jobs}.values())
    four = variants(4)
    jobs.append(("uniform 4, full range", four["uniform 4, full range"], "bias", "4"))
    jobs.append(("PWLQ 4, search", four["PWLQ 4, search"], "bias", "pwlq4"))
    PLACE.mkdir(parents=True, exist_ok=True)
    place = PLACE / f"{args.data}.safetensors"
    kept = load_file(place) if place.exists() else {}
    if "exact" not in kept:
        kept["exact"] = scores_of(trained(args.data, RUNS / f"{args.data}.safetensors"), images)
    for name, how, correction, inputs in jobs:
        key = f"{name}; {correction}; {inputs}"
        if key not in kept and time.monotonic() < until:
            kept[key] = scores_of(network.rounded(how, correction, inputs), images).contiguous()
            print(key, int((kept[key].argmax(1) == labels).sum()), flush=True)
            save_file(kept, place)
    if any(f"{name}; {correction}; {inputs}" not in kept for name, _, correction, inputs in jobs):
        return
    exact = kept["exact"]
    truth, before = labels.numpy(), exact.argmax(1).numpy()
    rows: list[dict[str, Any]] = [
        {"weights": "float32", "stored bits": 32, "inputs": "float32", "accuracy": _share(before, truth)}
    ]
    for name, how, correction, inputs in jobs:
        scores = kept[f"{name}; {correction}; {inputs}"]
        after = scores.argmax(1).numpy()
        found = paired_difference("accuracy", before, after, truth)
        bits = 32 if how is None else int(name.split()[1].strip(",")) + name.startswith("PWLQ")
        rows.append(
            {
                "weights": name, "stored bits": bits, "inputs": inputs, "correction": correction,
                "accuracy": _share(after, truth),
                "points": f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]",
                "lost/won": f"{found.extra['lost']}/{found.extra['won']}",
                "answers changed": int((before != after).sum()),
                "moved": f"{float((scores - exact).abs().mean()):.3f}",
            }
        )  # fmt: skip
    title = {"fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10 (re-encoded)"}[args.data]
    store(
        f"pwlq-{args.data.replace('_', '-')}",
        f"PWLQ and uniform grids: a ResNet-9 of width 16 on {title}, 10,000 test images",
        f"python benchmarks/pwlq_images.py --data {args.data}",
        rows,
        notes=[
            "BatchNorm folded; weights by output channel; all layers rounded, first and last, too; simulated, nothing trained.",
            "points: accuracy less that of float32, paired, with its 95 % interval; moved: mean distance of a score.",
            "correction: none, through biases (E[x] of 512 training images), or the released code's rescaling.",
        ],
    )


def _share(found: Any, truth: Any) -> str:
    return f"{100 * (found == truth).mean():.2f}"


if __name__ == "__main__":
    main()
