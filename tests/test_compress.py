"""The main road from end to end on a tiny model and a tiny task: what is saved, reloaded, evaluated, refused."""

import csv
import json
import resource
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)

import sparsam
from sparsam.compress import compress, evaluate, finetune, open_model, plan_finetuning, plan_run
from sparsam.errors import BudgetMissed, Refused, SparsamError, Usage
from sparsam.models import is_lifted, plan_of
from sparsam.models.digest import weights_digest
from sparsam.task import Task
from sparsam.tokens import LTP
from sparsam.tokens.control import Control
from sparsam.training.loop import Settings

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", *(f"w{i}" for i in range(40))]
QUICK = LTP(soft_epochs=1, hard_epochs=1, lr=5e-4, hard_lr=5e-4, threshold_lr=5e-2, steer_every=5)
SETTINGS = Settings(batch_tokens=256, precision="fp32")


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """Texts whose label says whether "good" or "bad" stands in them."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        words = [f"w{i}" for i in generator.integers(0, 40, generator.integers(4, 16))]
        label = int(generator.integers(0, 2))
        words[int(generator.integers(0, len(words)))] = ("bad", "good")[label]
        rows.append((" ".join(words), ("negative", "positive")[label]))
    return rows


def write_task(folder: Path, train: int = 300, validation: int = 80) -> Path:
    """A folder with train.csv and validation.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train", train, 0), ("validation", validation, 1)):
        with open(folder / f"{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *sentences(count, seed)])
    return folder


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, [CLS] and [SEP] around."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=32,
    )


def config(**changes: Any) -> BertConfig:
    sizes = {"vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    return BertConfig(**sizes | {"intermediate_size": 64, "max_position_embeddings": 32} | changes)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task, a pretrained-like encoder without a head, and a model fine-tuned on the task."""
    root = tmp_path_factory.mktemp("road")
    write_task(root / "task")
    torch.manual_seed(0)
    base = BertModel(config())
    base.save_pretrained(root / "encoder")
    tokenizer().save_pretrained(root / "encoder")
    finetune(str(root / "encoder"), str(root / "task"), root / "dense",
             settings=Settings(epochs=12, lr=2e-3, batch_tokens=256, precision="fp32"))  # fmt: skip
    return root


@pytest.fixture(scope="module")
def small(place: Path) -> Any:
    """The compressed model."""
    return compress(
        str(place / "dense"), str(place / "task"), out=place / "small", methods=[QUICK], budget="macs=0.6x",
        settings=SETTINGS, strict=False,
    )  # fmt: skip


class Stop(Exception):
    """A run is interrupted."""


def stop(stage: str, step: int, total: int, logs: dict[str, float]) -> None:
    """Progress that interrupts a run at its fourth step."""
    if step == 4:
        raise Stop


def test_finetuning_learns_the_task_and_saves_an_ordinary_folder(place: Path) -> None:
    """Accuracy far above chance after reload, class names kept, no plan in the config."""
    assert evaluate(str(place / "dense"), str(place / "task")).metric.value > 0.9
    saved = json.loads((place / "dense" / "config.json").read_text())
    assert "quantization_config" not in saved
    assert saved["id2label"] == {"0": "negative", "1": "positive"}


def test_compressing_keeps_the_budget_after_reload(place: Path, small: Any) -> None:
    """MACs at most the budget on validation, really fewer tokens, accuracy close, checkpoints cleaned up."""
    assert small.compressed.macs_ratio <= 0.6 * 1.02
    assert small.compressed.macs_ratio > 0.45
    assert small.compressed.metric.value > 0.85
    assert small.dense.macs_ratio == 1.0
    assert [layer["ffn"] for layer in small.compressed.kept] == sorted(
        (layer["ffn"] for layer in small.compressed.kept), reverse=True
    )
    assert not (place / "small.work").exists()
    assert small.met


def test_a_fresh_load_gives_the_same_evaluation(place: Path, small: Any) -> None:
    """What compress reported is what the folder gives to anybody."""
    again = evaluate(str(place / "small"), str(place / "task"))
    assert np.array_equal(again.predictions, small.compressed.predictions)
    assert again.macs_ratio == small.compressed.macs_ratio


def test_a_stock_pipeline_gives_the_labels_of_evaluate(place: Path, small: Any) -> None:
    """pipeline("text-classification", DIR) after ``import sparsam`` agrees on every row."""
    task = Task.load(str(place / "task"))
    assert task.validation is not None
    texts = task.validation.take(np.arange(len(task.validation))).texts
    classify = pipeline("text-classification", str(place / "small"))
    said = [row["label"] for row in classify(list(texts), batch_size=8)]
    assert said == [task.labels[i] for i in small.compressed.predictions]


def test_facts_name_source_data_and_seed(place: Path, small: Any) -> None:
    """The artefact says where it came from: source folder, hashes of the data files, seed, stages."""
    facts = sparsam.load(place / "small").facts
    assert facts["source"] == str(place / "dense")
    assert {Path(item["file"]).name for item in facts["data"]} >= {"train.csv", "validation.csv"}
    assert all(len(item["sha256"]) == 64 for item in facts["data"])
    assert facts["seed"] == 0
    assert set(facts["training"]) == {"0-teacher", "0-soft", "0-hard"}
    assert facts["training"]["0-teacher"]["samples"] > 16
    assert facts["methods"] == [{"method": "LTP", **asdict(QUICK)}]
    assert facts["source_sha256"] == weights_digest(open_model(str(place / "dense")).model)


def test_the_same_seed_gives_the_same_model(place: Path, small: Any, tmp_path: Path) -> None:
    """Run again, everything is equal to the last bit."""
    again = compress(
        str(place / "dense"), str(place / "task"), out=tmp_path / "again", methods=[QUICK], budget="macs=0.6x",
        settings=SETTINGS, strict=False,
    )  # fmt: skip
    assert again.plan == small.plan
    a, b = again.model.state_dict(), small.model.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_an_interrupted_run_goes_on_to_the_same_end(place: Path, small: Any, tmp_path: Path) -> None:
    """Stopped in the hard stage and started again with the same command: the same plan, nothing half-written."""

    def stop(stage: str, step: int, total: int, logs: dict[str, float]) -> None:
        if stage == "hard" and step == 4:
            raise Stop

    arguments: dict[str, Any] = {
        "out": tmp_path / "out", "methods": [QUICK], "budget": "macs=0.6x", "settings": SETTINGS, "strict": False,
    }  # fmt: skip
    with pytest.raises(Stop):
        compress(str(place / "dense"), str(place / "task"), progress=stop, **arguments)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.work").exists()
    end = compress(str(place / "dense"), str(place / "task"), **arguments)
    assert end.plan == small.plan
    assert not (tmp_path / "out.work").exists()


def test_a_loaded_model_is_copied_not_changed(place: Path, tmp_path: Path) -> None:
    """Neither its weights nor its structure: compress and finetune work on copies."""
    model = AutoModelForSequenceClassification.from_pretrained(place / "dense")
    processor = open_model(str(place / "dense")).processor
    before = {name: x.clone() for name, x in model.state_dict().items()}
    layers = type(model.bert.encoder)
    quick = replace(QUICK, soft_epochs=0.2, hard_epochs=0.2)
    compress(model, str(place / "task"), out=tmp_path / "a", methods=[quick], budget="macs=0.6x", settings=SETTINGS,
             processor=processor, strict=False)  # fmt: skip
    finetune(
        model,
        str(place / "task"),
        tmp_path / "b",
        settings=replace(SETTINGS, epochs=0.2),
        processor=processor,
    )
    assert type(model.bert.encoder) is layers
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())


def test_one_token_method_at_a_time(place: Path, tmp_path: Path) -> None:
    """A model has one token rule; two methods are refused before anything is trained."""
    with pytest.raises(Usage, match="2 of the methods given remove tokens"):
        compress(
            str(place / "dense"),
            str(place / "task"),
            out=tmp_path / "a",
            methods=[QUICK, QUICK],
            budget="macs=0.6x",
        )


def test_going_on_in_other_units_is_refused(place: Path, small: Any, tmp_path: Path) -> None:
    """Thresholds of a plan are in its own units; a method with others says how to go on."""
    other = replace(QUICK, relative_to="all")
    with pytest.raises(Usage, match=r"LTP\(relative_to='others'\)"):
        compress(str(place / "small"), str(place / "task"), out=tmp_path / "a", methods=[other], budget="macs=0.5x",
                 teacher=str(place / "dense"), settings=SETTINGS)  # fmt: skip


@pytest.mark.parametrize("rule", ["top-k", "linear-threshold", "random"])
def test_controls_go_the_same_road(place: Path, tmp_path: Path, rule: str) -> None:
    """A control meets the same budget through the same executor."""
    made = compress(
        str(place / "dense"), str(place / "task"), out=tmp_path / rule, methods=[Control(rule, hard_epochs=0.5)],
        budget="macs=0.6x", settings=SETTINGS, strict=False,
    )  # fmt: skip
    assert made.plan.tokens is not None
    assert made.plan.tokens.rule == rule
    assert 0.45 < made.compressed.macs_ratio <= 0.6 * 1.02


def test_a_compressed_model_goes_on_to_a_smaller_budget(place: Path, small: Any, tmp_path: Path) -> None:
    """Warm start along a curve: no soft stage, thresholds of before, the dense model as teacher."""
    method = LTP(soft_epochs=0, hard_epochs=0.5, hard_lr=5e-4, steer_every=5)
    further = compress(
        str(place / "small"), str(place / "task"), out=tmp_path / "further", methods=[method], budget="macs=0.45x",
        teacher=str(place / "dense"), settings=SETTINGS, strict=False,
    )  # fmt: skip
    assert further.compressed.macs_ratio <= 0.45 * 1.02
    assert further.dense.macs_ratio == 1.0
    with pytest.raises(Usage, match="compressed already; give the dense model"):
        compress(
            str(place / "small"),
            str(place / "task"),
            out=tmp_path / "no",
            methods=[method],
            budget="macs=0.4x",
        )


def test_a_missed_budget_is_an_error_that_keeps_the_folder(place: Path, tmp_path: Path) -> None:
    """Exit code 4, what was reached is said, and the best that was found stands in the folder."""
    method = LTP(soft_epochs=0, hard_epochs=0.1, last_layer="learned", steer_every=5)
    with pytest.raises(BudgetMissed, match=r"0\.05x was asked for.*kept in") as caught:
        compress(str(place / "dense"), str(place / "task"), out=tmp_path / "out", methods=[method],
                 budget="macs=0.05x", settings=SETTINGS)  # fmt: skip
    assert caught.value.exit_code == 4
    assert plan_of(sparsam.load(tmp_path / "out").model) is not None


def test_a_dry_run_says_what_it_would_take_and_changes_nothing(place: Path) -> None:
    """Stages with steps and seconds, memory, parameters; the model is left alone and nothing is written."""
    opened = open_model(str(place / "dense"))
    before = {name: x.clone() for name, x in opened.model.state_dict().items()}
    said = plan_run(opened.model, str(place / "task"), methods=[QUICK], budget="macs=0.6x", settings=SETTINGS,
                    processor=opened.processor)  # fmt: skip
    assert [stage["stage"] for stage in said.stages] == ["teacher", "soft", "hard", "steering"]
    assert said.seconds == pytest.approx(sum(float(stage["seconds"]) for stage in said.stages))
    assert all(float(stage["seconds"]) > 0 for stage in said.stages)
    assert said.peak_memory_bytes > 10**7
    assert all(torch.equal(before[name], x) for name, x in opened.model.state_dict().items())


def test_a_dry_run_refuses_what_the_run_refuses(place: Path, small: Any, tmp_path: Path) -> None:
    """Compressed models, teachers that are compressed, gone or of other classes, two methods: the same error as the run's."""
    turned = renamed(place / "dense", tmp_path / "turned", ("positive", "negative"), (1, 0))
    dense, task = str(place / "dense"), str(place / "task")
    for model, given, code in (
        (str(place / "small"), {}, "teacher-missing"),
        (dense, {"teacher": str(place / "small")}, "teacher-compressed"),
        (dense, {"teacher": str(tmp_path / "absent")}, "model-missing"),
        (dense, {"teacher": str(turned)}, "teacher-classes"),
        (dense, {"methods": [QUICK, QUICK]}, "method-count"),
    ):
        found = []
        for run in (plan_run, lambda *use, **more: compress(*use, out=tmp_path / "out", **more)):
            with pytest.raises(SparsamError) as caught:
                run(
                    model, task, **({"methods": [QUICK], "budget": "macs=0.5x", "settings": SETTINGS} | given)
                )
            assert caught.value.code == code
            found.append(str(caught.value))
        assert found[0] == found[1]
    with pytest.raises(Usage, match="is compressed; fine-tuning would keep its plan"):
        plan_finetuning(small.model, task, processor=small.processor)


def test_a_dry_run_has_the_teacher_beside_it(place: Path, small: Any) -> None:
    """Going on from a compressed model: timed with its dense teacher, which is left as it is."""
    teacher = AutoModelForSequenceClassification.from_pretrained(place / "dense")
    method = LTP(soft_epochs=0, hard_epochs=0.5, distill_states=0.5)
    said = plan_run(str(place / "small"), str(place / "task"), methods=[method], budget="macs=0.5x", teacher=teacher,
                    settings=SETTINGS)  # fmt: skip
    assert [stage["stage"] for stage in said.stages] == ["hard", "steering"]
    assert all(p.requires_grad for p in teacher.parameters())
    assert plan_of(teacher) is None


def test_a_model_without_a_head_is_sent_to_finetuning(place: Path, tmp_path: Path) -> None:
    """The error is the command to run first."""
    with pytest.raises(Refused, match=r"no classification head.*sparsam finetune"):
        compress(str(place / "encoder"), str(place / "task"), out=tmp_path / "out", budget="macs=0.5x")


def test_classes_must_fit_the_task(place: Path, tmp_path: Path) -> None:
    """A head of three classes on a task of two is refused before any compute."""
    model = BertForSequenceClassification(config(num_labels=3))
    with pytest.raises(Refused, match=r"has 3 classes, the task .* has 2"):
        compress(model, str(place / "task"), out=tmp_path / "out", processor=tokenizer(), budget="macs=0.5x")


def test_a_model_without_its_tokenizer_is_refused(place: Path, tmp_path: Path) -> None:
    """A folder without tokenizer or image processor is refused on opening: what was looked for, and how to get it there."""
    AutoModelForSequenceClassification.from_pretrained(place / "dense").save_pretrained(tmp_path / "bare")
    for use in (evaluate, lambda *given: finetune(*given, tmp_path / "out")):
        with pytest.raises(
            Refused, match=r"bare has no tokenizer: no tokenizer\.json.*AutoTokenizer"
        ) as caught:
            use(str(tmp_path / "bare"), str(place / "task"))
        assert caught.value.code == "processor-missing"
    images = tmp_path / "vit"
    ViTForImageClassification(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8,
                                        patch_size=4, num_labels=10)).save_pretrained(images)  # fmt: skip
    with pytest.raises(Refused, match=r"vit has no image processor: no preprocessor_config\.json"):
        evaluate(str(images), "digits")
    tokenizer().save_pretrained(images)
    with pytest.raises(Refused, match=r"vit has no image processor"):
        evaluate(str(images), "digits")


def test_a_tokenizer_beyond_the_embeddings_is_refused(place: Path, tmp_path: Path) -> None:
    """A tokenizer of another model would read past the table: refused on opening, with both numbers."""
    BertForSequenceClassification(config(vocab_size=20)).save_pretrained(tmp_path / "few")
    tokenizer().save_pretrained(tmp_path / "few")
    with pytest.raises(
        Refused, match=r"few: its tokenizer gives ids up to 45 \('w39'\), .* for 0 to 19"
    ) as caught:
        evaluate(str(tmp_path / "few"), str(place / "task"))
    assert caught.value.code == "vocabulary"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("TokenClassification", "it gives a class for every token, .*Fine-tune it first, which gives it another head"),
        ("MultipleChoice", "it chooses between several texts"),
        ("QuestionAnswering", "it gives the place of an answer"),
    ],
)  # fmt: skip
def test_a_head_of_another_kind_is_refused(place: Path, tmp_path: Path, kind: str, text: str) -> None:
    """Heads that are no classifiers of whole texts are refused by name, before any compute; a fresh head mends it."""
    getattr(transformers, f"BertFor{kind}")(config()).save_pretrained(tmp_path / "other")
    tokenizer().save_pretrained(tmp_path / "other")
    for use in (evaluate, lambda *given: compress(*given, out=tmp_path / "out", budget="macs=0.5x")):
        with pytest.raises(Refused, match=f"BertFor{kind} is refused: {text}") as caught:
            use(str(tmp_path / "other"), str(place / "task"))
        assert caught.value.code == "head-kind"
    opened = open_model(str(tmp_path / "other"), Task.load(str(place / "task")), fresh_head=True)
    assert type(opened.model) is BertForSequenceClassification


def test_two_heads_without_a_loss_are_refused(tmp_path: Path) -> None:
    """DeiT with its teacher's head cannot be trained in transformers: refused by name, in fine-tuning too."""
    small = DeiTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4, num_labels=10
    )
    DeiTForImageClassificationWithTeacher(small).save_pretrained(tmp_path / "deit")
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "deit")
    for use in (evaluate, lambda *given: finetune(*given, tmp_path / "out")):
        with pytest.raises(
            Refused, match=r"no loss to be trained with\. Load it as DeiTForImageClassification,"
        ) as caught:
            use(str(tmp_path / "deit"), "digits")
        assert caught.value.code == "head-kind"


def renamed(folder: Path, out: Path, names: tuple[str, ...], order: tuple[int, ...]) -> Path:
    """A model's folder with its classes under these names; ``order[i]`` is the old output that becomes output ``i``."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    old = model.classifier
    model.classifier = torch.nn.Linear(old.in_features, len(order))
    with torch.no_grad():
        model.classifier.weight.copy_(old.weight[list(order)])
        model.classifier.bias.copy_(old.bias[list(order)])
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    model.save_pretrained(out)
    open_model(str(folder)).processor.save_pretrained(out)
    return out


def test_classes_in_another_order_are_matched_by_name(place: Path, tmp_path: Path) -> None:
    """A model that counts its classes the other way round is as good as ever: evaluated, trained, distilled, in pipelines."""
    turned = renamed(place / "dense", tmp_path / "turned", ("POSITIVE", "NEGATIVE"), (1, 0))
    task = Task.load(str(place / "task"), metric="f1")
    before, after = (evaluate(str(folder), task) for folder in (place / "dense", turned))
    assert np.array_equal(before.predictions, after.predictions)
    assert before.metric == after.metric
    made = compress(str(turned), task, out=tmp_path / "small", methods=[QUICK], budget="macs=0.6x", settings=SETTINGS,
                    strict=False)  # fmt: skip
    assert made.compressed.metric.value > 0.85
    assert made.model.config.id2label == {0: "POSITIVE", 1: "NEGATIVE"}
    texts = task.validation.take(np.arange(len(task.validation))).texts
    classify = pipeline("text-classification", str(tmp_path / "small"))
    said = [row["label"].lower() for row in classify(list(texts), batch_size=8)]
    assert said == [task.labels[i] for i in made.compressed.predictions]


def test_a_model_of_more_classes_is_measured_on_those_of_the_task(place: Path, tmp_path: Path) -> None:
    """A third class, first in the model's order, does no harm; that it is there is said, also by compress."""
    three = renamed(place / "dense", tmp_path / "three", ("neutral", "positive", "negative"), (0, 1, 0))
    with torch.no_grad():
        model = AutoModelForSequenceClassification.from_pretrained(three)
        model.classifier.bias[0] = -100
        model.save_pretrained(three)
    task = Task.load(str(place / "task"))
    assert open_model(str(three), task).notes == (
        f"the task task holds 2 of the 3 classes of {three}; any other answer counts as wrong",
    )
    found = evaluate(str(three), task)
    assert np.array_equal(found.predictions, evaluate(str(place / "dense"), task).predictions)
    made = compress(str(three), task, out=tmp_path / "small", methods=[Control("top-k", hard_epochs=0.1)],
                    budget="macs=0.7x", settings=SETTINGS, strict=False)  # fmt: skip
    assert "holds 2 of the 3 classes" in made.notes[-1]
    assert made.compressed.metric.value > 0.7


def test_classes_of_other_names_are_refused(place: Path, tmp_path: Path) -> None:
    """As many classes as the task's, but of something else: named on both sides."""
    other = renamed(place / "dense", tmp_path / "other", ("cat", "dog"), (0, 1))
    with pytest.raises(
        Refused, match="'cat', 'dog'; the task task has the labels 'negative', 'positive'"
    ) as caught:
        evaluate(str(other), str(place / "task"))
    assert caught.value.code == "head-labels"


def test_texts_beyond_the_position_table_are_cut_and_counted(place: Path, tmp_path: Path) -> None:
    """Counted where it happens; an error where the user asks for one."""
    folder = write_task(tmp_path / "long")
    with open(folder / "validation.csv", "a", newline="") as file:
        csv.writer(file).writerow((" ".join(["good"] * 50), "positive"))
    assert evaluate(str(place / "dense"), str(folder)).truncated == 1
    with pytest.raises(Refused, match=r"52 tokens, the model's limit is 32.*--no-truncate"):
        evaluate(str(place / "dense"), str(folder), truncate=False)


def test_a_split_that_is_not_there_is_named(place: Path) -> None:
    """No test split in this task."""
    with pytest.raises(Usage, match="has no split 'test'"):
        evaluate(str(place / "dense"), str(place / "task"), split="test")


@pytest.mark.slow
def test_peak_memory_of_evaluate_does_not_grow_with_the_data(place: Path, tmp_path: Path) -> None:
    """Sixteen times the rows, read from parquet: at most 5 % more memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    peaks = []
    for count in (4_096, 65_536):
        folder = tmp_path / str(count)
        folder.mkdir()
        texts, labels = zip(*sentences(2_048, 0), strict=True)
        table = pa.table({"text": list(texts) * (count // 2_048), "label": list(labels) * (count // 2_048)})
        pq.write_table(table, folder / "validation.parquet", row_group_size=1_024)
        pq.write_table(table.slice(0, 64), folder / "train.parquet")
        script = (
            "import resource, sys\nfrom sparsam.compress import evaluate\n"
            f"evaluate({str(place / 'dense')!r}, {str(folder)!r})\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] < 1.05 * peaks[0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0


def test_a_checkpoint_of_another_run_is_refused(place: Path, tmp_path: Path) -> None:
    """Interrupted at one budget and started again at another: not continued in silence."""

    def stop(stage: str, step: int, total: int, logs: dict[str, float]) -> None:
        if stage == "hard" and step == 4:
            raise Stop

    arguments: dict[str, Any] = {
        "out": tmp_path / "out",
        "methods": [QUICK],
        "settings": SETTINGS,
        "strict": False,
    }
    with pytest.raises(Stop):
        compress(str(place / "dense"), str(place / "task"), budget="macs=0.8x", progress=stop, **arguments)
    with pytest.raises(Usage, match=r"other settings \(target\)"):
        compress(str(place / "dense"), str(place / "task"), budget="macs=0.6x", **arguments)


def test_a_run_does_not_go_on_with_other_rows_held_out(place: Path, tmp_path: Path) -> None:
    """Stopped with one split seed and started again with another: its checkpoint has seen rows that are held out now."""
    data = str(place / "task" / "train.csv")
    settings = replace(SETTINGS, checkpoint_minutes=0)
    with pytest.raises(Stop):
        finetune(str(place / "encoder"), data, tmp_path / "out", settings=settings, progress=stop)
    with pytest.raises(Usage, match=r"other settings \(.*split_seed"):
        finetune(str(place / "encoder"), Task.load(data, split_seed=1), tmp_path / "out", settings=settings)


def test_a_run_does_not_go_on_with_other_data(place: Path, tmp_path: Path) -> None:
    """Stopped, the labels in the file turned round, and started again: named, not continued in silence."""
    shutil.copytree(place / "task", tmp_path / "task")
    settings = replace(SETTINGS, checkpoint_minutes=0)
    with pytest.raises(Stop):
        finetune(
            str(place / "encoder"), str(tmp_path / "task"), tmp_path / "out", settings=settings, progress=stop
        )
    file = tmp_path / "task" / "train.csv"
    head, *lines = csv.reader(file.open(newline=""))
    first, second = sorted({label for _, label in lines})
    with open(file, "w", newline="") as out:
        turned = [(text, second if label == first else first) for text, label in lines]
        csv.writer(out).writerows([head, *turned])
    with pytest.raises(Usage, match=r"other settings \(data, labels\)"):
        finetune(str(place / "encoder"), str(tmp_path / "task"), tmp_path / "out", settings=settings)


def test_evaluating_gives_a_loaded_model_back_as_it_came(place: Path) -> None:
    """In training mode and on its stock forward pass before, so also after."""
    model = AutoModelForSequenceClassification.from_pretrained(place / "dense").train()
    model.bert.embeddings.eval()
    kind = type(model.bert.encoder)
    processor = open_model(str(place / "dense")).processor
    found = evaluate(model, str(place / "task"), processor=processor)
    assert type(model.bert.encoder) is kind and not is_lifted(model)
    assert model.training and model.bert.encoder.training and not model.bert.embeddings.training
    assert found.metric.value == evaluate(str(place / "dense"), str(place / "task")).metric.value


def test_a_loaded_teacher_is_not_changed(place: Path, tmp_path: Path) -> None:
    """It keeps its gradients, its mode and its forward pass."""
    teacher = AutoModelForSequenceClassification.from_pretrained(place / "dense").train()
    quick = replace(QUICK, soft_epochs=0, hard_epochs=0.1)
    compress(
        str(place / "dense"), str(place / "task"), out=tmp_path / "a", methods=[quick], budget="macs=0.6x",
        teacher=teacher, settings=SETTINGS, strict=False,
    )  # fmt: skip
    assert teacher.training and not is_lifted(teacher)
    assert all(parameter.requires_grad for parameter in teacher.parameters())


def test_a_folder_is_named_after_model_and_method_if_nobody_says(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ``out`` the model is written to NAME-METHOD in the working directory, and the result says where."""
    monkeypatch.chdir(tmp_path)
    quick = replace(QUICK, soft_epochs=0, hard_epochs=0.1)
    found = compress(
        str(place / "dense"), str(place / "task"), methods=[quick], budget="macs=0.6x", settings=SETTINGS,
        strict=False,
    )  # fmt: skip
    assert found.folder == Path("dense-ltp")
    assert (tmp_path / "dense-ltp" / "MANIFEST.json").is_file()


def test_only_our_checkpoints_are_cleaned_up(place: Path, tmp_path: Path) -> None:
    """A file of the user's in the working folder stays."""
    (tmp_path / "out.work").mkdir()
    (tmp_path / "out.work" / "thesis.txt").write_text("years")
    compress(str(place / "dense"), str(place / "task"), out=tmp_path / "out", budget="macs=0.7x",
             methods=[Control("top-k", hard_epochs=0.1)], settings=SETTINGS, strict=False)  # fmt: skip
    assert (tmp_path / "out.work" / "thesis.txt").read_text() == "years"
    assert [p.name for p in (tmp_path / "out.work").rglob("*")] == ["thesis.txt"]


def test_a_compressed_model_is_neither_teacher_nor_finetuned(place: Path, small: Any, tmp_path: Path) -> None:
    """Both would pass for dense; both are refused with what to give instead."""
    with pytest.raises(Usage, match="the teacher .* is compressed itself"):
        compress(str(place / "small"), str(place / "task"), out=tmp_path / "a", methods=[QUICK], budget="macs=0.5x",
                 teacher=str(place / "small"), settings=SETTINGS)  # fmt: skip
    with pytest.raises(Usage, match="is compressed; fine-tuning would keep its plan"):
        finetune(str(place / "small"), str(place / "task"), tmp_path / "b")


def test_out_is_looked_at_before_training(place: Path, tmp_path: Path) -> None:
    """A folder that holds somebody's files is refused before any compute."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(Refused, match="was not written by sparsam"):
        compress(str(place / "dense"), str(place / "task"), out=tmp_path / "mine", budget="macs=0.5x",
                 progress=lambda *a: pytest.fail("trained"))  # fmt: skip
