"""Compressed models beside their dense one: what is broken on purpose is named, what is whole is called whole."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import tiny_models
import torch
from tiny_checkpoints import Checkpoints

import sparsam
from sparsam.cli import main
from sparsam.cli.debug import verdict
from sparsam.compress import open_model
from sparsam.compress.debug import Debugged, Error, layer_by_layer
from sparsam.compress.opening import Opened
from sparsam.errors import Refused, SparsamError, Usage
from sparsam.models import lift, plan_of, stack_of
from sparsam.models.apply import cut
from sparsam.models.digest import weights_digest
from sparsam.models.formats import ROLES, words_of
from sparsam.models.integers import integers_of, put, scales_of
from sparsam.plan import PRODUCTS, Format, LayerPlan, TokenPlan
from sparsam.quantization import MinMax, fit, quantize, weight_form
from sparsam.task import Task


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return tiny_checkpoints.text_checkpoints(tmp_path_factory.mktemp("texts"), rows=160)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return tiny_checkpoints.image_checkpoints(tmp_path_factory.mktemp("images"), rows=24)


def opened(made: Checkpoints) -> Opened:
    return open_model(str(made.dense), Task.load(str(made.task)))


def in_integers(model: Any, bits: Callable[[int, str], int | None]) -> None:
    """Weights at the nearest points of grids that end at the largest; ``bits`` by layer and product, None for float."""
    layers = []
    for index, block in enumerate(stack_of(model).blocks):
        formats: dict[Any, Format] = {}
        for product in PRODUCTS:
            wide = bits(index, product)
            if wide is None:
                continue
            formats[product] = Format(wide)
            for role in ROLES[product]:
                weight = block.part(role).weight.detach()
                grid = fit(weight, weight_form(wide), MinMax())
                put(block.part(role), quantize(weight, grid).to(torch.int8), grid.scale)
        layers.append(replace(stack_of(model).left[index], formats=formats))
    lift_with(model, tuple(layers))


def lift_with(model: Any, layers: tuple[LayerPlan, ...]) -> None:
    """The model by a plan with other layers, as a reload would lift it."""
    plan = replace(plan_of(model), layers=layers)
    del model.sparsam_plan
    lift(model, plan)


def compare(made: Checkpoints, ours: Opened, **more: Any) -> Debugged:
    return layer_by_layer(ours, opened(made), Task.load(str(made.task)), **more)


def test_a_dense_model_beside_itself_is_fine(texts: Checkpoints) -> None:
    """Not one number differs, in no stage and no product, and it is said plainly."""
    found = compare(texts, opened(texts))
    assert [stage.name for stage in found.stages] == ["embeddings", "layer 1", "layer 2", "layer 3", "head"]
    assert found.first is None and found.agreement == 1.0 and found.rows == 160
    for stage in found.stages:
        assert stage.own.sqnr is None and stage.piled_up.sqnr is None and stage.worst is None
        assert stage.own.numbers > 0 and stage.kept == 1.0
    assert [len(stage.products) for stage in found.stages] == [0, 4, 4, 4, 0]
    assert verdict(found)[0].startswith(
        "Nothing went wrong: of 160 answers at least 99 % are the dense model's"
    )
    facts = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert facts["fine"] is True and facts["first"] is None and facts["worst"] is None


@pytest.mark.parametrize(
    ("layer", "product"), [(0, "up"), (1, "qkv"), (1, "o"), (1, "down"), (2, "down"), (2, "up")]
)
def test_a_product_of_two_bits_among_eight_is_named(texts: Checkpoints, layer: int, product: str) -> None:
    """Its layer has by far the largest error of its own, the product the least ratio; the others are as good as ever."""
    ours = opened(texts)
    in_integers(ours.model, lambda at, name: 2 if (at, name) == (layer, product) else 8)
    found = compare(texts, ours)
    assert found.loudest.name == f"layer {layer + 1}"
    worst = found.loudest.worst
    assert worst is not None and (worst.product, worst.bits) == (product, 2)
    assert worst.error.sqnr is not None and worst.error.sqnr < 15
    for at, stage in enumerate(found.stages[1:-1]):
        for one in stage.products:
            if (at, one.product) != (layer, product):
                assert one.error.sqnr is not None and one.error.sqnr > 30
    assert all(stage.agreement >= 0.95 for stage in found.stages[: layer + 1])


def test_scales_of_the_wrong_outputs_are_the_first_that_went_wrong(texts: Checkpoints) -> None:
    """The layer is named with its product, in the object and in words; what was whole before it stays so."""
    ours = opened(texts)
    in_integers(ours.model, lambda at, name: 8)
    module = stack_of(ours.model).blocks[1].part("down")
    scales = scales_of(module)
    assert scales is not None
    put(module, integers_of(module), 4 * scales.roll(1))
    found = compare(texts, ours, threshold=0.95)  # a random model's answers are nearly ties
    first = found.first
    assert first is not None and first.name == "layer 2"
    assert first.worst is not None and first.worst.product == "down" and first.worst.bits == 8
    assert found.stages[1].agreement >= 0.95 > first.agreement
    assert found.to_json()["first"] == "layer 2" and found.to_json()["worst"] == "down"
    said = verdict(found)
    assert said[0].startswith("The first that went wrong: layer 2. Behind it ")
    assert said[1].startswith("Its worst product: down (8 bits), SQNR ")


def test_own_error_by_hand(texts: Checkpoints) -> None:
    """A weight moved in one module: the ratio is that of stock layers' outputs, worked out here without the packed encoder."""
    ours, base = opened(texts), opened(texts)
    with torch.no_grad():
        stack_of(ours.model).blocks[1].part("up").weight.mul_(1.01)
    found = compare(texts, ours, rows=8)
    task = Task.load(str(texts.task))
    assert task.train is not None
    drawn = task.train.take(np.sort(np.random.default_rng(0).permutation(160)[:8]))
    assert drawn.texts is not None
    signal = noise = largest = 0.0
    moved = texts.model.bert.encoder.layer[1]
    other = copy.deepcopy(moved)
    with torch.no_grad():
        other.intermediate.dense.weight.mul_(1.01)
        for text in drawn.texts:
            batch = base.processor(text, return_tensors="pt")
            states = texts.model.bert(**batch, output_hidden_states=True).hidden_states
            given = other(states[1])
            given = given[0] if isinstance(given, tuple) else given
            signal += float(states[2].double().square().sum())
            noise += float((given - states[2]).double().square().sum())
            largest = max(largest, float((given - states[2]).abs().max()))
    own = found.stages[2].own
    assert own.sqnr == pytest.approx(10 * torch.log10(torch.tensor(signal / noise)).item(), abs=0.01)
    assert own.largest == pytest.approx(largest, rel=1e-3)
    assert found.stages[2].piled_up == own, "nothing differs before it"
    assert found.stages[1].own.sqnr is None and found.stages[3].own.sqnr is None
    assert found.stages[3].piled_up.sqnr is not None
    up = next(one for one in found.stages[2].products if one.product == "up")
    assert up.bits is None and up.error.sqnr is not None and found.stages[2].worst == up


def test_embeddings_and_head_have_a_line_of_their_own(texts: Checkpoints) -> None:
    """Words in each other's place show up in front of all layers; another head behind them."""
    ours = opened(texts)
    with torch.no_grad():
        words_of(ours.model).weight.copy_(words_of(ours.model).weight.roll(7, 0))
        ours.model.classifier.weight.neg_()
    found = compare(texts, ours)
    assert found.first is not None and found.first.name == "embeddings" and found.first.worst is None
    assert all(stage.own.sqnr is None for stage in found.stages[1:-1])
    assert found.stages[-1].own.sqnr is not None
    head = opened(texts)
    with torch.no_grad():
        head.model.classifier.weight.neg_()
    found = compare(texts, head)
    assert found.first is not None and found.first.name == "head" and len(verdict(found)) == 2


@pytest.mark.parametrize("bits", [None, 8])
def test_layers_with_other_heads_and_filters(texts: Checkpoints, bits: int | None) -> None:
    """What differs from layer to layer, all of it or none, can be swapped; products are compared on what both have."""
    ours = opened(texts)
    left = [LayerPlan((0, 2), (1, 5, 9)), LayerPlan((), None), LayerPlan(None, ())]
    cut(ours.model, left)
    in_integers(ours.model, lambda at, name: bits)
    found = compare(texts, ours)
    by_name = [{one.product: one for one in stage.products} for stage in found.stages[1:-1]]
    assert [set(one) for one in by_name] == [set(PRODUCTS), {"o", "up", "down"}, {"qkv", "o", "down"}]
    if bits is None:
        for at, product in ((0, "qkv"), (0, "up"), (1, "up"), (1, "down"), (2, "qkv"), (2, "o")):
            sqnr = by_name[at][product].error.sqnr
            assert sqnr is None or sqnr > 120, "the same rows of the same weights"
    assert all(stage.own.sqnr is not None for stage in found.stages[1:-1])
    # A model beside one that it was cut from further.
    half = opened(texts)
    cut(half.model, [LayerPlan((0, 2, 3), (1, 2, 5, 9)), LayerPlan(None, None), LayerPlan(None, (3,))])
    further = copy.deepcopy(half)
    cut(further.model, [LayerPlan((0, 1), (0, 2, 3)), LayerPlan((), None), LayerPlan(None, ())])
    assert [one.heads for one in plan_of(further.model).layers] == [(0, 2), (), None]
    beside = layer_by_layer(further, half, Task.load(str(texts.task)))
    up = {one.product: one for one in beside.stages[1].products}["up"]
    assert up.error.sqnr is None or up.error.sqnr > 120


def test_removed_tokens_are_compared_while_alive_in_both(texts: Checkpoints) -> None:
    """A layer that removes tokens makes no error of its own on those that stay; the next, which misses them, does."""
    ours = opened(texts)
    plan = replace(plan_of(ours.model), tokens=TokenPlan("top-k", (None, 0.5, None)))
    lift(ours.model, plan)
    found = compare(texts, ours)
    kept = [stage.kept for stage in found.stages]
    assert kept[:2] == [1.0, 1.0] and 0.4 < kept[2] < 0.7 and kept[2:] == [kept[2]] * 3
    first, second, third = found.stages[1:4]
    assert first.own.sqnr is None and (second.own.sqnr is None or second.own.sqnr > 120)
    assert third.own.sqnr is not None and third.own.sqnr < 60
    assert third.own.numbers == second.own.numbers < first.own.numbers
    assert found.stages[1].agreement == 1.0
    assert found.agreement == found.stages[3].agreement, "the head is the same"


def test_agreement_counts_answers_of_swapped_layers(texts: Checkpoints) -> None:
    """With everything swapped it is what both models answer, each by its own forward pass."""
    ours, base = opened(texts), opened(texts)
    in_integers(ours.model, lambda at, name: 2)
    lift(ours.model, replace(plan_of(ours.model), tokens=TokenPlan("ltp", (0.6, 0.9, None))))
    found = layer_by_layer(ours, base, Task.load(str(texts.task)))
    task = Task.load(str(texts.task))
    assert task.train is not None
    same = 0
    with torch.no_grad():
        for text in next(task.train.batches(160)).texts:  # type: ignore[union-attr]
            batch = base.processor(text, return_tensors="pt")
            same += int(ours.model(**batch).logits.argmax() == base.model(**batch).logits.argmax())
    assert found.agreement == same / 160 < 1
    assert found.first is not None


def test_a_family_with_positions_in_pairs(tmp_path: Path) -> None:
    """MPNet's bias is by head: a cut layer has its own heads' beside a dense one's all."""
    made = tiny_checkpoints.text_checkpoints(tmp_path, "mpnet", rows=40)
    ours = opened(made)
    cut(ours.model, [LayerPlan((1, 3), None), LayerPlan(None, None), LayerPlan((0,), (2, 4))])
    found = compare(made, ours)
    assert found.stages[1].own.sqnr is not None and found.stages[2].own.sqnr is None
    same = compare(made, opened(made))
    assert same.first is None and all(stage.own.sqnr is None for stage in same.stages)


def test_pictures(images: Checkpoints) -> None:
    """A ViT, whose norms stand in front of each half, with two bits in one product."""
    ours = opened(images)
    in_integers(ours.model, lambda at, name: 2 if (at, name) == (1, "up") else 8)
    found = compare(images, ours, rows=12)
    assert found.rows == 12 and found.loudest.name == "layer 2"
    assert found.loudest.worst is not None and found.loudest.worst.product == "up"


# ---- Refusals --------------------------------------------------------------------------------------------------------


def refused(call: Callable[[], Any], kind: type[SparsamError]) -> tuple[str, str]:
    with pytest.raises(kind) as caught:
        call()
    return caught.value.code, str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("electra", {}, "has family bert; other has electra"),
        ("bert", {"num_hidden_layers": 2}, "has number of layers: 3; other has 2"),
        ("bert", {"hidden_size": 16}, "has width 32; other has 16"),
        ("bert", {"num_labels": 2}, "has classes one, two, three; other has LABEL_0, LABEL_1"),
        (
            "bert",
            {"vocab_size": 70, "id2label": dict(enumerate(tiny_checkpoints.NAMES))},
            "number of words: 60",
        ),
    ],
)
def test_a_model_that_it_cannot_come_from(
    texts: Checkpoints, name: str, changes: dict[str, Any], said: str
) -> None:
    """Another family, depth, width, other classes or words: said by name, with both values."""
    other = Opened(lift(tiny_models.build(name, **changes)), opened(texts).processor, "other")
    code, text = refused(lambda: layer_by_layer(opened(texts), other, Task.load(str(texts.task))), Refused)
    assert code == "other-model" and said in text and "--against DIR" in text


def test_what_else_is_refused(texts: Checkpoints) -> None:
    """A compressed model in the dense one's place, heads that the other lacks, shares and rows that are none, no numbers."""
    task = Task.load(str(texts.task))
    half = open_model(str(texts.half), task)
    code, text = refused(lambda: layer_by_layer(opened(texts), half, task), Usage)
    assert code == "against-compressed" and "is compressed itself" in text
    small = opened(texts)
    cut(small.model, [LayerPlan((0, 1)), LayerPlan(), LayerPlan()])
    code, text = refused(lambda: layer_by_layer(opened(texts), small, task), Refused)
    assert code == "other-model" and "layer 1 of the compressed model has heads that" in text
    assert refused(lambda: compare(texts, opened(texts), rows=0), Usage)[0] == "rows"
    assert refused(lambda: compare(texts, opened(texts), threshold=1.5), Usage)[0] == "agreement"
    assert refused(lambda: compare(texts, opened(texts), split="test"), Usage)[0] == "split-missing"
    wild = opened(texts)
    with torch.no_grad():
        stack_of(wild.model).blocks[2].part("down").weight.fill_(3e38)
    code, text = refused(lambda: compare(texts, wild), Refused)
    assert code == "non-finite" and text.startswith("what layer 3")
    numbers = replace(task, problem="regression")
    code, text = refused(lambda: layer_by_layer(opened(texts), opened(texts), numbers), Refused)
    assert code == "no-answers" and "is a regression" in text


def test_ratio_of_nothing() -> None:
    """An error beside a dense model that gives zeros is finite: it can be written as JSON."""
    from sparsam.compress.debug import _Sums, loudness

    sums = _Sums()
    sums.add(torch.zeros(1, 2), torch.ones(1, 2), "it")
    assert sums.error().sqnr is not None and -4000 < sums.error().sqnr < -3000  # type: ignore[operator]
    assert loudness(Error(None, 0.0, 3)) > loudness(Error(500.0, 0.0, 3))


# ---- The command -----------------------------------------------------------------------------------------------------


def test_the_command_finds_the_dense_model_and_names_the_layer(
    texts: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the saved folder alone; the exit code is 0: an answer is an answer, and the verdict stands in it."""
    ours = opened(texts)
    in_integers(ours.model, lambda at, name: 8)
    module = stack_of(ours.model).blocks[1].part("down")
    put(module, integers_of(module), 4 * scales_of(module).roll(1))  # type: ignore[union-attr]
    facts = {"source": str(texts.dense), "source_sha256": weights_digest(opened(texts).model)}
    sparsam.save(ours.model, tmp_path / "broken", processor=ours.processor, facts=facts)
    call = ["debug", str(tmp_path / "broken"), "--task", str(texts.task)]
    limit = ["--agreement", "0.95"]
    assert main([*call, *limit, "--rows", "100", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["fine"], said["first"], said["worst"], said["rows"]) == (False, "layer 2", "down", 100)
    assert said["dense"] == str(texts.dense.resolve()) and len(said["stages"]) == 5
    assert main([*call, *limit, "--against", str(texts.dense)]) == 0
    told = capsys.readouterr()
    assert (
        "The first that went wrong: layer 2." in told.out and "Its worst product: down (8 bits)" in told.out
    )
    assert "note: train has 160 rows; 256 were asked for" in told.err
    assert main([*call, "--agreement", "0"]) == 0
    assert "Nothing went wrong" in capsys.readouterr().out


def test_the_command_refuses(texts: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dense model without another one to compare with; a compressed one whose source is gone; a share that is none."""
    assert main(["debug", str(texts.dense), "--task", str(texts.task)]) == 2
    assert "error [against-missing]" in capsys.readouterr().err
    half = open_model(str(texts.half), Task.load(str(texts.task)))
    sparsam.save(half.model, tmp_path / "lost", processor=half.processor, facts={"source": "gone"})
    assert main(["debug", str(tmp_path / "lost"), "--task", str(texts.task)]) == 2
    assert "Name the dense checkpoint: --against DIR." in capsys.readouterr().err
    assert main(["debug", str(texts.half), "--task", str(texts.task), "--agreement", "99"]) == 2
    assert "is a share from 0 to 1; got 99" in capsys.readouterr().err
