"""For which sizes exactly a fault shows, worked out by hand: the truth for a checker's conditions and witnesses."""

from collections.abc import Callable, Mapping
from typing import Any

Given = Mapping[str, Any]

# Small sizes to draw from: a range with both ends, or a tuple of choices. What is not named keeps its tiny value.
DRAWN: dict[str, dict[str, tuple]] = {
    "mnist": {"batch_size": (1, 5), "test_batch_size": (1, 4), "train": (1, 11), "test": (1, 9)},
    "vae": {"batch_size": (1, 5), "latent": (1, 4), "train": (1, 11), "test": (1, 9)},
    "dcgan": {"batch_size": (1, 4), "nz": (1, 4), "train": (1, 8), "dataset": ("cifar10", "mnist")},
    "super_resolution": {
        "batch_size": (1, 4),
        "upscale_factor": (1, 5),
        "crop_size": (8, 20),
        "modes": ("L", "L,L", "L,RGB", "RGB,RGB,RGB", "L,L,L,RGBA"),
    },
    "word_language_model": {
        "tokens": (12, 60),
        "batch_size": (1, 6),
        "eval_batch_size": (1, 6),
        "bptt": (1, 8),
        "emsize": (3, 4),
        "nhid": (3, 4, 33),
        "tied": (False, True),
        "model": ("LSTM", "GRU", "RNN_TANH"),
    },
    "time_series": {"sequences": (5, 9), "held_back": (1, 4), "length": (2, 6), "future": (0, 3)},
    "snli": {
        "batch_size": (1, 5),
        "examples": (1, 9),
        "dev_examples": (1, 6),
        "premise_length": (1, 3),
        "hypothesis_length": (1, 3),
        "d_embed": (3, 4),
        "d_proj": (3, 4),
        "n_layers": (1, 2),
        "no_bidirectional": (False, True),
        "no_projection": (False, True),
    },
    "vit": {
        "batch_size": (1, 4),
        "heads": (1, 8),
        "image_size": (8, 16, 24),
        "dataset": ("cifar10", "mnist"),
        "train": (1, 6),
        "test": (1, 4),
    },
    "bert": {"batch_size": (1, 5), "seq_length": (1, 2, 3, 5, 6, 16, 17, 48), "examples": (1, 11)},
    "simclr": {"batch_size": (1, 4), "train": (1, 9), "out_dim": (2, 4, 6, 8)},
}

DEFAULTS: dict[str, dict[str, Any]] = {  # of the programs' options that are drawn but have no tiny value
    "dcgan": {"dataset": "cifar10"},
    "super_resolution": {"upscale_factor": 2},
    "word_language_model": {"emsize": 16, "nhid": 16, "tied": False, "model": "LSTM"},
    "snli": {
        "premise_length": 14,
        "hypothesis_length": 8,
        "d_embed": 12,
        "d_proj": 8,
        "n_layers": 1,
        "no_bidirectional": False,
        "no_projection": False,
    },
    "vit": {"heads": 3, "image_size": 16, "patch_size": 8, "dataset": "cifar10"},
    "simclr": {"out_dim": 8},
}


def batches(length: int, size: int) -> set[int]:
    """Sizes of the batches of a data set of this length when the last one is kept."""
    full = {size} if length >= size else set()
    return full | ({length % size} if length % size else set())


def _both(s: Given) -> set[int]:
    return batches(s["train"], s["batch_size"]) | batches(s["test"], s["batch_size"])


def _snli(s: Given) -> set[int]:
    return batches(s["examples"], s["batch_size"]) | batches(s["dev_examples"], s["batch_size"])


def _columns(s: Given) -> list[tuple[int, int]]:
    """Columns and rows of the two halves of the language model's text."""
    return [(size, s["tokens"] // size) for size in (s["batch_size"], s["eval_batch_size"])]


def _a_batch(s: Given) -> bool:
    return s["train"] >= s["batch_size"]  # incomplete ones are dropped


FAILS_IF: dict[str, Callable[[Given], bool]] = {
    "mnist-one-hot-buffer": lambda s: bool(batches(s["train"], s["batch_size"]) - {1, s["batch_size"]}),
    "mnist-stacked-predictions": lambda s: len(batches(s["test"], s["test_batch_size"])) > 1,
    "mnist-no-channel": lambda s: True,
    "vae-first-test-batch": lambda s: s["test"] < s["batch_size"],
    "vae-code-width": lambda s: True,
    "vae-noise-buffer": lambda s: bool(_both(s) - {s["batch_size"]}),
    "vae-norm-of-one": lambda s: 1 in batches(s["train"], s["batch_size"]),
    "dcgan-label-batch": lambda s: s["train"] % s["batch_size"] != 0,
    "dcgan-grey-as-colour": lambda s: s["dataset"] == "mnist",
    "dcgan-not-resized": lambda s: s["dataset"] == "mnist",
    "dcgan-squeeze": lambda s: 1 in batches(s["train"], s["batch_size"]),
    "super_resolution-crop": lambda s: s["crop_size"] % s["upscale_factor"] != 0,
    "super_resolution-not-converted": lambda s: set(s["modes"].split(",")) != {"L"},
    "super_resolution-split": lambda s: set(s["modes"].split(",")) != {"RGB"},
    "super_resolution-shuffle": lambda s: s["upscale_factor"] > 2,
    "super_resolution-not-reduced": lambda s: s["upscale_factor"] > 1,
    "word_language_model-eval-state": lambda s: s["batch_size"] != s["eval_batch_size"],
    "word_language_model-tied": lambda s: s["tied"] and s["emsize"] != s["nhid"],
    "word_language_model-rest-kept": lambda s: any(s["tokens"] % size for size, _ in _columns(s)),
    "word_language_model-targets-in-columns": lambda s: True,
    "word_language_model-last-chunk": lambda s: any((rows - 1) % s["bptt"] for _, rows in _columns(s)),
    "word_language_model-rows-for-columns": lambda s: any(n > 1 and n != rows for n, rows in _columns(s)),
    "word_language_model-decoded-view": lambda s: s["nhid"] != 33,
    "time_series-state-of-four": lambda s: (s["sequences"] - s["held_back"], s["held_back"]) != (4, 4),
    "time_series-squeeze": lambda s: 1 in (s["held_back"], s["length"] - 1 + s["future"]),
    "time_series-target-not-shifted": lambda s: s["length"] > 2,
    "time_series-future-compared": lambda s: s["length"] > 2 and s["future"] > 0,
    "time_series-split": lambda s: s["length"] > 2,
    "snli-all-layers": lambda s: s["n_layers"] > 1 and not s["no_bidirectional"],
    "snli-one-direction": lambda s: not s["no_bidirectional"],
    "snli-cells": lambda s: not s["no_bidirectional"],
    "snli-state-batch": lambda s: bool(_snli(s) - {s["batch_size"]}),
    "snli-projected-width": lambda s: not s["no_projection"] and s["d_embed"] != s["d_proj"],
    "snli-cat-dim": lambda s: True,
    "snli-bottle": lambda s: not s["no_projection"] and max(_snli(s)) > 1,
    "snli-both-at-once": lambda s: s["premise_length"] != s["hypothesis_length"],
    "vit-no-place-for-the-class": lambda s: s["image_size"] > s.get("patch_size", 8),
    "vit-heads-do-not-divide": lambda s: 24 % s["heads"] != 0,
    "vit-grey": lambda s: s["dataset"] == "mnist",
    "vit-four-places": lambda s: s["image_size"] > 16,
    "simclr-last-batch-kept": lambda s: s["train"] % s["batch_size"] != 0,
    "simclr-empty-bank": lambda s: not _a_batch(s),
    "simclr-shortcut": _a_batch,
    "simclr-mask": lambda s: _a_batch(s) and s["batch_size"] > 1,
    "simclr-labels": _a_batch,
    "simclr-not-transposed": lambda s: _a_batch(s) and 2 * s["batch_size"] != s["out_dim"],
    "bert-not-contiguous": lambda s: s["seq_length"] > 1,
    "bert-short-table": lambda s: s["seq_length"] > 16,
    "bert-mask": lambda s: bool(batches(s["examples"], s["batch_size"]) - {1, 4}),
    "bert-first-sentence": lambda s: bool(batches(s["examples"], s["batch_size"]) - {s["seq_length"]}),
    "bert-key-not-transposed": lambda s: s["seq_length"] != 6,
    "bert-mask-of-48": lambda s: s["seq_length"] != 48,
    "bert-not-padded": lambda s: min(s["batch_size"], s["examples"], s["seq_length"]) > 1,
    "bert-stacked-answers": lambda s: len(batches(s["examples"], s["batch_size"])) > 1,
}
