"""int8 on tiny models of every kind, to the saved folder and back: formats, ranges, training, refusals, budgets."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
import torch
from tiny_checkpoints import Checkpoints

import sparsam
from sparsam.cli import main
from sparsam.compress import calibration, compress, evaluate, finetune, open_model, plan_run, weight_bytes
from sparsam.compress.integer_run import IntegerRun
from sparsam.compress.opening import feed_of, split_of
from sparsam.compress.token_run import lengths_of_use
from sparsam.cost import Budget
from sparsam.errors import BudgetMissed, Refused, SparsamError, Usage
from sparsam.models import plan_of, stack_of
from sparsam.models.integers import integers_of, scales_of
from sparsam.plan import PRODUCTS
from sparsam.quantization import fit, weight_form
from sparsam.quantization.int8 import RANGES, Int8
from sparsam.structure import FTPP
from sparsam.task import Task
from sparsam.tokens import LTP
from sparsam.training.loop import Settings

SETTINGS = Settings(batch_tokens=128, precision="fp32")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return tiny_checkpoints.text_checkpoints(tmp_path_factory.mktemp("texts"), rows=256)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return tiny_checkpoints.image_checkpoints(tmp_path_factory.mktemp("images"), rows=24)


def run_on(made: Checkpoints, method: Int8, seed: int = 0, work: Path | None = None) -> IntegerRun:
    task = Task.load(str(made.task))
    opened, taught = (open_model(str(made.dense), task) for _ in range(2))
    feed = feed_of(opened, split_of(task, "train"), True)
    wanted = lengths_of_use(opened, task, feed, True)
    settings = Settings(batch_tokens=128, precision="fp32", seed=seed)
    return IntegerRun(opened, taught, feed, wanted, method, Budget(), settings, work)


def made_by(run: IntegerRun) -> Any:
    run.apply()
    return plan_of(run.model)


def code_of(call: Any) -> str:
    with pytest.raises(SparsamError) as caught:
        call()
    return caught.value.code


# ---- To the folder and back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta", "distilbert", "electra", "mpnet"])
@pytest.mark.parametrize("inputs", ["token", "tensor"])
def test_every_family_round_trip(name: str, inputs: str, tmp_path: Path) -> None:
    """Smaller on disk, answers near the dense model's, the same bits by the stock route."""
    made = tiny_checkpoints.text_checkpoints(tmp_path, name, rows=64)
    found = compress(
        str(made.dense),
        str(made.task),
        out=tmp_path / "small",
        methods=[Int8(inputs=inputs)],
        settings=SETTINGS,
    )
    layers = found.plan.layers
    assert all(set(left.formats) == set(PRODUCTS) and left.heads is None for left in layers)
    assert all(
        one.input == inputs and one.bits == 8 and one.scale is not None and one.zero is not None
        for left in layers
        for one in left.formats.values()
    )
    assert found.plan.embeddings == 8
    assert found.compressed_bytes < found.dense_bytes / 1.8
    assert found.compressed.macs_ratio == 1.0
    assert found.difference.value >= -10
    assert "12 of 12 products" in found.notes[-1] and "embeddings in 8 bits" in found.notes[-1]
    stock = type(found.model).from_pretrained(tmp_path / "small").eval()
    dense = open_model(str(made.dense)).model.eval()
    batch = found.processor(["1 2 3", "4 5 6 7 8"], padding=True, return_tensors="pt")
    with torch.no_grad():
        given, wanted = stock(**batch).logits, dense(**batch).logits
        assert torch.equal(given, found.model.eval()(**batch).logits)
    assert 0 < (given - wanted).abs().max() < 0.15 * wanted.abs().max()
    assert evaluate(str(tmp_path / "small"), str(made.task)).metric.value == found.compressed.metric.value
    facts = json.loads((tmp_path / "small" / "sparsam.json").read_text())["facts"]
    assert facts["methods"][0]["method"] == "Int8" and facts["methods"][0]["inputs"] == inputs
    assert set(facts["training"]) == {"0-calibration", "0-weights", "0-integers"}


@pytest.mark.parametrize("smooth", [None, 0.5])
def test_images_too(images: Checkpoints, smooth: float | None, tmp_path: Path) -> None:
    """A ViT has no words; its norms can be smoothed into the weights behind them."""
    found = compress(
        str(images.dense),
        str(images.task),
        out=tmp_path / "small",
        methods=[Int8(smooth=smooth)],
        settings=SETTINGS,
    )
    assert found.plan.embeddings is None and "embeddings" not in found.notes[-1]
    assert found.difference.value >= -10
    assert all(set(left.formats) == set(PRODUCTS) for left in found.plan.layers)


def test_smoothing_changes_no_function_and_evens_the_inputs(images: Checkpoints) -> None:
    """Logits as before, up to rounding; inputs' largest values nearer to each other."""
    run = run_on(images, Int8(smooth=0.5))
    batch = {n: x for n, x in run.feed.collate(run.rows[:8]).items() if n != "labels"}

    def spread() -> float:
        seen = run._watched("look", largest=True)
        worst = [one.largest.largest() for (_, product), one in seen.items() if product in ("qkv", "up")]
        return sum(float(x.max() / x.median()) for x in worst)

    with torch.no_grad():
        wanted, before = run.model(**batch).logits, spread()
        run._smooth(0.9)
        assert torch.allclose(run.model(**batch).logits, wanted, atol=1e-4)
    assert spread() < before


def test_it_goes_on_from_a_plan_with_tokens(texts: Checkpoints, tmp_path: Path) -> None:
    """A model that removes tokens keeps its rule; ranges are those of the tokens that are left."""
    found = compress(
        str(texts.half), str(texts.task), out=tmp_path / "small", teacher=str(texts.dense), methods=[Int8()],
        settings=SETTINGS,
    )  # fmt: skip
    before = open_model(str(texts.half)).model.sparsam_plan
    assert found.plan.tokens == before.tokens and found.plan.in_integers
    assert found.compressed.macs_ratio < 0.95


@pytest.mark.parametrize("first", [[FTPP(multiple=1)], [LTP(soft_epochs=1, hard_epochs=1), FTPP(multiple=1)]])
def test_integers_come_after_what_is_cut(texts: Checkpoints, first: list[Any], tmp_path: Path) -> None:
    """The budget is the first methods' to keep; integers on what they leave."""
    found = compress(
        str(texts.dense), str(texts.task), out=tmp_path / "small", methods=[*first, Int8()], budget="macs=0.6x",
        settings=SETTINGS, strict=False,
    )  # fmt: skip
    assert 0.3 < found.compressed.macs_ratio <= 0.62
    assert found.plan.changes_shapes and found.plan.in_integers
    assert (found.plan.tokens is not None) == (len(first) == 2)
    assert sparsam.load(tmp_path / "small").plan == found.plan


def test_layers_with_nothing_left_have_no_formats(texts: Checkpoints, tmp_path: Path) -> None:
    """Where all heads or filters are gone there is no product to compute in integers."""
    from sparsam.models.apply import cut
    from sparsam.plan import LayerPlan

    run = run_on(texts, Int8())
    cut(run.model, (LayerPlan((), None), LayerPlan(None, ()), LayerPlan((1,), (0, 5))))
    plan = made_by(run)
    assert [set(left.formats) for left in plan.layers] == [{"up", "down"}, {"qkv", "o"}, set(PRODUCTS)]
    sparsam.save(run.model, tmp_path / "x")
    assert sparsam.load(tmp_path / "x").plan == plan


# ---- Calibration -----------------------------------------------------------------------------------------------------


def formats_of(run: IntegerRun) -> list[tuple[float, int]]:
    plan = made_by(run)
    return [(one.scale, one.zero) for left in plan.layers for one in left.formats.values()]


@pytest.mark.parametrize(
    ("name", "samples"),
    [(name, count) for name in sorted(RANGES) for count in (16, 256) if (name, count) != ("ema", 256)],
)  # an average over samples runs them one by one
def test_ranges_do_not_depend_on_batches(
    name: str, samples: int, texts: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of 50 and of 2,048 tokens: the same formats and biases, up to how sums of floats go."""
    found, biases = [], []
    for tokens in (50, 2048):
        monkeypatch.setattr(calibration, "TOKENS", tokens)
        run = run_on(texts, Int8(range=name, samples=samples))
        found.append(formats_of(run))
        biases.append(stack_of(run.model).blocks[1].part("down").bias.detach())
    for (scale, zero), (other, its_zero) in zip(*found, strict=True):
        assert scale == pytest.approx(other, rel=1e-3) and abs(zero - its_zero) <= 1
    assert torch.allclose(*biases, atol=1e-5)


def test_more_samples_see_more(texts: Checkpoints) -> None:
    """Ranges by extremes only grow with the samples of one draw's lengths; labels are not looked at."""
    few, many = (formats_of(run_on(texts, Int8(range="minmax", samples=n))) for n in (16, 256))
    assert few != many
    assert sum(s for s, _ in many) > sum(s for s, _ in few)


def test_memory_does_not_grow_with_samples(texts: Checkpoints) -> None:
    """What is remembered of 16 rows takes as much as of 256."""

    def remembered(samples: int) -> int:
        seen = run_on(texts, Int8(samples=samples))._watched("look")
        return sum(
            one.range.counts.numel() + one.means["up"].sums.numel()
            for (_, p), one in seen.items()
            if p == "up"
        )

    assert remembered(16) == remembered(256)


def test_ranges_are_those_of_what_products_read(texts: Checkpoints) -> None:
    """The extremes by hooks on the user's own modules, with the head asking for the class token alone."""
    from sparsam.models import head_alone

    run = run_on(texts, Int8(range="minmax", samples=64))
    low: dict[int, float] = {}
    high: dict[int, float] = {}

    def look(module: Any, given: Any) -> None:
        low[id(module)] = min(low.get(id(module), 0.0), float(given[0].min()))
        high[id(module)] = max(high.get(id(module), 0.0), float(given[0].max()))

    blocks = stack_of(run.model).blocks
    handles = [
        block.part(r).register_forward_pre_hook(look) for block in blocks for r in ("k", "o", "up", "down")
    ]
    with torch.no_grad(), head_alone(run.model):
        for row in run.rows:
            run.model(
                **{n: x for n, x in run.feed.collate(run.rows[run.rows == row]).items() if n != "labels"}
            )
    for handle in handles:
        handle.remove()
    plan = made_by(run)
    for left, block in zip(plan.layers, blocks, strict=True):
        for product, role in (("qkv", "k"), ("o", "o"), ("up", "up"), ("down", "down")):
            key = id(block.part(role))
            assert left.formats[product].scale == pytest.approx((high[key] - low[key]) / 255, rel=1e-4)


def test_biases_make_up_for_the_mean(texts: Checkpoints) -> None:
    """With inputs as they come, the corrected product gives the dense product's mean output."""
    for correct in (True, False):
        run, dense = (run_on(texts, Int8(correct=correct)) for _ in range(2))
        mean = dense._watched("look")[1, "up"].means["up"].mean()
        run.apply()
        own, its = (stack_of(one.model).blocks[1].part("up") for one in (run, dense))
        distance = float((own(mean) - its(mean)).detach().abs().max())
        assert (distance < 1e-4) == correct


@pytest.mark.parametrize("clip", ["mse", "minmax"])
def test_weights_are_the_nearest_integers_of_the_chosen_grid(texts: Checkpoints, clip: str) -> None:
    """By output; the words' embeddings too."""
    run, dense = (run_on(texts, Int8(clip=clip)) for _ in range(2))
    run.apply()
    from sparsam.quantization.int8 import CLIPS

    for role in ("q", "o", "up", "down"):
        own, its = (stack_of(one.model).blocks[0].part(role) for one in (run, dense))
        grid = fit(its.weight, weight_form(8), CLIPS[clip])
        assert torch.equal(scales_of(own), grid.scale)
        assert (own.weight - its.weight).abs().max() < 2 * grid.scale.max() or clip == "mse"
        assert int(integers_of(own).abs().max()) == 127
    words, dense_words = (one.model.get_input_embeddings() for one in (run, dense))
    assert ((words.weight - dense_words.weight).abs() <= 0.5001 * scales_of(words)[:, None]).all()


def test_two_runs_are_bit_equal(texts: Checkpoints) -> None:
    """Same seed, same bits; another seed calibrates on other rows."""
    first, second, other = (run_on(texts, Int8(samples=32), seed) for seed in (0, 0, 1))
    plans = [made_by(run) for run in (first, second, other)]
    assert plans[0] == plans[1] != plans[2]
    for name, x in first.model.state_dict().items():
        assert torch.equal(x, second.model.state_dict()[name]), name


# ---- Training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", ["token", "tensor"])
def test_training_ends_with_the_integers_it_trained(inputs: str, texts: Checkpoints) -> None:
    """Weights move, the grids of weights stand still, and the model after it is the one that was trained."""
    method = Int8(inputs=inputs, qat_epochs=2, qat_lr=1e-3)
    run, plain = run_on(texts, method), run_on(texts, replace(method, qat_epochs=0.0))
    plan, other = made_by(run), made_by(plain)
    own, its = (stack_of(one.model).blocks[0].part("up") for one in (run, plain))
    assert torch.equal(scales_of(own), scales_of(its))
    assert not torch.equal(integers_of(own), integers_of(its))
    assert "qat" in run.history and run.history["qat"]["epochs"] == 2
    assert ("calibration-again" in run.history) == (inputs == "token")
    assert (plan.layers == other.layers) == (inputs == "tensor")
    assert stack_of(run.model).linear is stack_of(plain.model).linear


def test_training_brings_it_nearer_to_the_dense_model(texts: Checkpoints) -> None:
    """The loss it is trained by falls."""
    run = run_on(texts, Int8(inputs="tensor", qat_epochs=6, qat_lr=3e-4, distill=1.0))
    losses: list[float] = []
    run.progress = lambda stage, step, total, logs: losses.append(logs["loss"]) if stage == "qat" else None
    run.apply()
    third = len(losses) // 3
    assert sum(losses[-third:]) < sum(losses[:third])


def test_training_goes_on_where_it_stopped(texts: Checkpoints, tmp_path: Path) -> None:
    """Interrupted and started again: the same bits as in one go, and another method's checkpoint is refused."""
    method = Int8(qat_epochs=2, qat_lr=1e-3)
    whole = run_on(texts, method)
    whole.apply()

    class Stop(Exception):
        pass

    def stop(stage: str, step: int, total: int, logs: Any) -> None:
        if stage == "qat" and step == total - 1:
            raise Stop

    first = run_on(texts, method, work=tmp_path)
    first.settings = replace(first.settings, checkpoint_minutes=1e-9)
    first.progress = stop
    with pytest.raises(Stop):
        first.apply()
    assert (tmp_path / "qat" / "checkpoint-0.safetensors").exists()
    second = run_on(texts, method, work=tmp_path)
    second.settings = first.settings
    second.apply()
    for name, x in whole.model.state_dict().items():
        assert torch.equal(x, second.model.state_dict()[name]), name
    other = run_on(texts, replace(method, clip="mse" if method.clip == "minmax" else "minmax"), work=tmp_path)
    other.settings = first.settings
    assert code_of(other.apply) == "checkpoint-settings"


# ---- Budgets, refusals, the command ----------------------------------------------------------------------------------


def test_budgets_of_bytes_and_accuracy(texts: Checkpoints, tmp_path: Path) -> None:
    """Bytes count integers as they lie in files; what is missed is said, and kept."""
    given = {"methods": [Int8()], "settings": SETTINGS}
    found = compress(
        str(texts.dense), str(texts.task), out=tmp_path / "a", budget="bytes=0.6x,accuracy=-10", **given
    )
    assert found.met and found.compressed_bytes == weight_bytes(found.model)
    with pytest.raises(BudgetMissed, match="bytes; 0.2x was asked for") as caught:
        compress(str(texts.dense), str(texts.task), out=tmp_path / "b", budget="bytes=0.2x", **given)
    assert caught.value.exit_code == 4
    assert sparsam.load(tmp_path / "b").plan.in_integers


def test_the_command(texts: Checkpoints, tmp_path: Path, capsys: Any) -> None:
    """Options reach the method, inspect says what is in integers, and an accuracy that is lost is exit code 4."""
    call = [
        "compress",
        str(texts.dense),
        "--task",
        str(texts.task),
        "--method",
        "int8",
        "--precision",
        "fp32",
    ]
    options = [
        "--inputs",
        "tensor",
        "--range",
        "percentile",
        "--clip",
        "mse",
        "--correct",
        "--samples",
        "32",
    ]
    more = ["--embeddings", "none", "--qat", "1", "--qat-lr", "1e-4", "--json"]
    assert main([*call, "--out", str(tmp_path / "a"), *options, *more]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (
        said["plan"]["layers"][0]["formats"]["qkv"]["input"] == "tensor" and "embeddings" not in said["plan"]
    )
    facts = json.loads((tmp_path / "a" / "sparsam.json").read_text())["facts"]["methods"][0]
    given = {"range": "percentile", "clip": "mse", "correct": True, "samples": 32, "embeddings": "none"}
    assert given.items() <= facts.items() and facts["qat_epochs"] == 1
    assert main(["inspect", str(tmp_path / "a")]) == 0
    shown = capsys.readouterr().out
    assert "12 of 12 products in 8 bits" in shown and "qkv, o, up, down: 8 bits, inputs on one grid" in shown
    lost = [*call, "--out", str(tmp_path / "b"), "--qat", "3", "--qat-lr", "1", "--budget", "accuracy=-1"]
    assert main(lost) == 4
    assert main([*call, "--out", str(tmp_path / "c"), "--dry-run", "--qat", "1"]) == 0
    assert "qat" in capsys.readouterr().out
    assert main([*call, "--out", str(tmp_path / "c"), "--epochs", "1"]) == 2
    assert "--qat" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ltp+int8", "ftpp+int8", "ltp+ftpp+int8"])
def test_names_with_a_plus(name: str) -> None:
    """int8 stands last, and shared options reach every method that knows them."""
    from sparsam.cli.methods import METHODS

    built = METHODS[name](samples=64, inputs="tensor") if "ftpp" in name else METHODS[name](inputs="tensor")
    assert [type(one) for one in built][-1] is Int8 and built[-1].inputs == "tensor"
    assert [type(one).__name__ for one in built[:-1]] == (
        ["LTP", "FTPP", "LTP"] if name.startswith("ltp+ftpp") else [name.split("+")[0].upper()]
    )


def test_what_a_dry_run_says(texts: Checkpoints) -> None:
    """Each stage with its share of rows, and no change of the model."""
    planned = plan_run(str(texts.dense), str(texts.task), methods=[Int8(qat_epochs=2)], settings=SETTINGS)
    assert {stage["stage"] for stage in planned.stages} == {"qat", "calibration", "weights", "integers"}


@pytest.mark.parametrize(
    ("methods", "budget", "code"),
    [
        ([Int8(), FTPP()], "macs=0.5x", "method-order"),
        ([Int8(), Int8()], None, "method-order"),
        ([LTP(), Int8()], "bytes=0.3x", "search-methods"),
        ([Int8()], "throughput=2x", "search-methods"),
        ([Int8(samples=257)], None, "too-few-rows"),
        ([Int8(smooth=0.5)], None, "smooth-norm"),
    ],
)
def test_what_cannot_be_done_is_refused_first(
    methods: list[Any], budget: str | None, code: str, texts: Checkpoints, tmp_path: Path
) -> None:
    """Orders, budgets and settings that do not go together."""
    given = {"methods": methods, "budget": budget, "settings": SETTINGS}
    assert code_of(lambda: compress(str(texts.dense), str(texts.task), out=tmp_path / "x", **given)) == code
    assert not (tmp_path / "x").exists()


def test_pictures_have_no_words(images: Checkpoints, tmp_path: Path) -> None:
    """Eight bits for embeddings that are asked for by name, where there are none."""
    given = {"methods": [Int8(embeddings="8")], "settings": SETTINGS}
    call = lambda: compress(str(images.dense), str(images.task), out=tmp_path / "x", **given)  # noqa: E731
    assert code_of(call) == "embeddings-missing"


def test_integers_are_neither_compressed_nor_tuned_nor_taught_by(texts: Checkpoints, tmp_path: Path) -> None:
    """A model with integers is an end, not a start."""
    small = str(tmp_path / "small")
    compress(str(texts.dense), str(texts.task), out=small, methods=[Int8()], settings=SETTINGS)
    task, dense = str(texts.task), str(texts.dense)
    for methods in ([Int8()], [FTPP()], [LTP()]):
        call = lambda m=methods: compress(  # noqa: E731
            small, task, out=tmp_path / "x", methods=m, budget="macs=0.5x", teacher=dense, settings=SETTINGS
        )
        with pytest.raises(Refused, match="integers come last") as caught:
            call()
        assert caught.value.code == "quantized"
    with pytest.raises(Refused) as caught:
        finetune(small, task, tmp_path / "x")
    assert caught.value.code == "quantized"
    with pytest.raises(Usage) as told:
        compress(dense, task, out=tmp_path / "x", methods=[Int8()], teacher=small, settings=SETTINGS)
    assert told.value.code == "teacher-compressed"


@pytest.mark.parametrize(
    "given",
    [
        {"inputs": "row"}, {"clip": "kl"}, {"range": "max"}, {"samples": 0}, {"smooth": 1.5}, {"distill": -0.1},
        {"embeddings": "4"}, {"qat_epochs": -1.0}, {"qat_lr": 0.0}, {"qat_epochs": float("nan")},
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(given: dict[str, Any]) -> None:
    """By name, before any model is opened."""
    with pytest.raises(Usage) as caught:
        Int8(**given)
    assert caught.value.code == "method-settings"
