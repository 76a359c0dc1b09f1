"""What the sweeps damage: tiny models, their artefacts, and how two of them are told apart."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification

from sparsam import artifact
from sparsam.models import lift
from sparsam.plan import LayerPlan, Plan, TokenPlan


def model(seed: int, labels: tuple[str, str] | None = None) -> Any:
    """A tiny compressed BERT; the seed decides weights, labels and plan."""
    torch.manual_seed(seed)
    names = dict(enumerate(labels or (f"no{seed}", f"yes{seed}")))
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=20,
        max_position_embeddings=32,
        id2label=names,
        label2id={v: k for k, v in names.items()},
    )
    plan = Plan("bert", (LayerPlan(),) * 2, TokenPlan("ltp", (0.5 + seed, 1.0 + seed)))
    return lift(BertForSequenceClassification(config).eval(), plan)


def smallest(seed: int = 0) -> Any:
    """One layer of width 2: an artefact of few bytes, most of them structure."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=3,
        hidden_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=2,
        max_position_embeddings=2,
        id2label={0: "no", 1: "yes"},
        label2id={"no": 0, "yes": 1},
    )
    plan = Plan("bert", (LayerPlan(filters=(0,)),), TokenPlan("ltp", (0.5,)))
    made = BertForSequenceClassification(config).eval()
    from sparsam.models import resize

    resize(made, plan)
    return lift(made, plan)


WORDS = ["good", "great", "bad", "poor", "film", "plot", "actor", "the", "a", "was", "very"]


def classifier(folder: Path, labels: tuple[str, str] = ("down", "up")) -> Path:
    """An ordinary checkpoint of a tiny dense BERT with its tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    torch.manual_seed(0)
    vocabulary = {word: at for at, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=20,
        max_position_embeddings=16,
        id2label=dict(enumerate(labels)),
        label2id={v: k for k, v in enumerate(labels)},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16, **marks).save_pretrained(folder)
    return folder


def reviews(file: Path, labels: tuple[str, str] = ("down", "up"), rows: int = 40) -> Path:
    """A task of short made-up texts."""
    import csv

    with open(file, "w", newline="", encoding="utf-8", errors="surrogatepass") as stream:
        lines = csv.writer(stream)
        lines.writerow(["text", "label"])
        for row in range(rows):
            lines.writerow([f"the film was {WORDS[row % 4]} {WORDS[4 + row % 7]}", labels[row % 4 < 2]])
    return file


class Processor:
    """Saved with a model; the smallest thing that writes a file."""

    def __init__(self, text: str) -> None:
        self.text = text

    def save_pretrained(self, folder: Path) -> None:
        with open(Path(folder) / "notes.txt", "w") as stream:
            stream.write(self.text)


def save(seed: int, folder: Path, made: Any = None) -> Path:
    """Save the model of a seed."""
    return artifact.save(
        made or model(seed), folder, processor=Processor(f"seed {seed}"), facts={"seed": seed}
    )


def put(file: Path, data: bytes) -> None:
    """Write a file anew: file systems flush one that is emptied and written again, which takes milliseconds."""
    file.unlink(missing_ok=True)
    file.write_bytes(data)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def names_in(folder: Path) -> list[str]:
    """What stands in a folder."""
    return sorted(path.name for path in folder.iterdir())


def same_weights(one: Any, other: Any) -> bool:
    """Whether two models hold the same values."""
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Edit a JSON file."""
    whole = json.loads(file.read_text())
    change(whole)
    file.write_text(json.dumps(whole))
