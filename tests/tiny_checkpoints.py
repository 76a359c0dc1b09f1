"""Tiny checkpoints on disk, dense and with a plan, and a task for them: labels are the dense model's own answers."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, ViTImageProcessor

import sparsam
from sparsam.baselines.feed import Feed
from sparsam.baselines.laps import load
from sparsam.baselines.rows import Stored, write_rows
from sparsam.models.digest import weights_digest
from sparsam.models.positions import longest_text
from sparsam.plan import LayerPlan, Plan, TokenPlan
from sparsam.task import Task, encode

NAMES = ("one", "two", "three")


def words(*more: str) -> PreTrainedTokenizerFast:
    """One token a word, [CLS] and [SEP] around; ids as the tiny models have them. ``more`` are further outputs."""
    table = {word: at for at, word in enumerate(["[UNK]", "[PAD]", "[CLS]", "[SEP]", *map(str, range(40))])}
    made = Tokenizer(models.WordLevel(table, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=32, model_input_names=["input_ids", "attention_mask", *more],
    )  # fmt: skip


def texts(n: int, seed: int = 0, longest: int = 14) -> list[str]:
    """Made-up texts of 1 to ``longest`` words."""
    draw = np.random.default_rng(seed)
    return [" ".join(map(str, draw.integers(0, 40, draw.integers(1, longest + 1)))) for _ in range(n)]


@dataclass(frozen=True)
class Checkpoints:
    """A dense model, the same with a plan that drops tokens, and the folder of a task."""

    model: Any
    dense: Path
    half: Path
    task: Path


def save(model: Any, processor: Any, dense: Path, half: Path) -> None:
    """Both folders, the second one naming the first."""
    facts = {"source": str(dense), "source_sha256": weights_digest(model)}
    sparsam.save(model, dense, processor=processor)
    family = model.config.model_type
    token_plan = TokenPlan("ltp", (0.9, 1.0, 1.0))
    lifted = sparsam.lift(type(model).from_pretrained(dense), Plan(family, (LayerPlan(),) * 3, token_plan))
    sparsam.save(lifted, half, processor=processor, facts=facts)


def text_checkpoints(folder: Path, name: str = "bert", rows: int = 24) -> Checkpoints:
    """A text model of a family, and texts in train and validation."""
    model = tiny_models.build(name, id2label=dict(enumerate(NAMES)), max_position_embeddings=34)
    tokenizer = words(*(["token_type_ids"] if name in ("bert", "electra") else []))
    save(model, tokenizer, folder / "dense", folder / "half")
    (folder / "task").mkdir()
    for split, seed in (("train", 1), ("validation", 2)):
        given = texts(rows, seed)
        with torch.no_grad():
            found = [model(**tokenizer(text, return_tensors="pt")).logits.argmax().item() for text in given]
        if len(set(found)) == 1:  # no task is made of one label
            found[0] = (found[0] + 1) % len(NAMES)
        _write(
            folder / "task" / f"{split}.csv",
            [["text", "label"], *zip(given, (NAMES[at] for at in found), strict=True)],
        )
    return Checkpoints(model, folder / "dense", folder / "half", folder / "task")


def _write(file: Path, rows: list[Any]) -> None:
    with open(file, "w", newline="") as stream:
        csv.writer(stream).writerows(rows)


def image_checkpoints(folder: Path, rows: int = 12) -> Checkpoints:
    """A ViT, and pictures of 8 x 8 in folders named after the model's answers."""
    model = tiny_models.build("vit", id2label=dict(enumerate(NAMES)))
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    save(model, processor, folder / "dense", folder / "half")
    draw = np.random.default_rng(0)
    for split in ("train", "validation"):
        for at, name in enumerate(NAMES):
            place = folder / "task" / split / name
            place.mkdir(parents=True)
            for number in range(rows // 3):
                pixels = draw.integers(0, 256, (8, 8, 3), np.uint8) // (at + 1)
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.png")
    return Checkpoints(model, folder / "dense", folder / "half", folder / "task")


def feed_for(made: Checkpoints, folder: Path) -> Feed:
    """The validation rows of a task, for its dense checkpoint."""
    folder.mkdir()
    loaded, task = load(made.dense), Task.load(str(made.task))
    config = loaded.model.config
    longest = longest_text(config, loaded.processor) if task.kind == "text" else None
    parts: list[Any] = []
    for split in (task.validation, task.train):
        assert split is not None
        rows = split.take(np.arange(len(split)))
        parts.append((rows, encode(loaded.processor, rows, max_length=longest)))
    write_rows(folder, *parts[0], parts[1][1])
    return Feed(Stored(folder), loaded)
