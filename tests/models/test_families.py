"""Every family on the packed encoder gives what the stock model gives, or refuses by name."""

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from sparsam.errors import Refused, Usage
from sparsam.models import (
    FAMILIES,
    REFUSED,
    dense_plan,
    head_alone,
    inspect_model,
    is_lifted,
    lift,
    plan_of,
    reads_class_token,
    resize,
    stack_of,
    unlift,
)
from sparsam.models.encoder import key_mask
from sparsam.models.lift import family_of, layers_of
from sparsam.plan import LayerPlan, Plan, TokenPlan
from sparsam.tokens import Threshold

pytestmark = [
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors"),
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing_.*able. is deprecated"),
]
TEXT = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "mpnet")
ALL = (*TEXT, "vit", "deit")
CHECKPOINTED = tuple(name for name in ALL if name != "mpnet")


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Equal to 1e-5, or to 1e-5 of the largest value."""
    torch.testing.assert_close(found, wanted, atol=tolerance * max(1.0, float(wanted.abs().max())), rtol=0)


@torch.no_grad()
def same(stock: Any, lifted: Any, batch: dict[str, torch.Tensor], living: torch.Tensor) -> None:
    """All outputs agree: whole where they are per sequence, at living positions where they are per token."""
    wanted = stock(**batch, output_hidden_states=True)
    found = lifted(**batch, output_hidden_states=True)
    plain = lifted(**batch)
    assert set(plain.keys()) == set(found.keys()) - {"hidden_states"}
    assert set(wanted.keys()) == set(found.keys())
    for key in wanted:
        a, b = found[key], wanted[key]
        if key == "hidden_states":
            assert len(a) == len(b) == len(layers_list(lifted)) + 1
            for x, y in zip(a, b, strict=True):
                assert x.shape == y.shape
                close(x[living], y[living])
        elif a.dim() >= 3 or (a.dim() == 2 and a.shape == living.shape):
            assert a.shape == b.shape
            close(a[living], b[living])
            close(plain[key][living], b[living])
        else:
            close(a, b)
            close(plain[key], b)


def layers_list(model: Any) -> list[nn.Module]:
    """The layers as modules, lifted or not."""
    return list(layers_of(model).children())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("lengths", [(12, 7, 1, 5), (1,), (2, 1), (9, 9, 9)], ids=str)
def test_dense_equals_stock(tiny: Any, name: str, lengths: tuple[int, ...]) -> None:
    """Logits and hidden states of the classifier equal the stock model's to 1e-5, padding on the right."""
    model = tiny.build(name)
    batch = tiny.inputs(name, lengths)
    same(model, lift(copy.deepcopy(model)), batch, tiny.alive(name, batch))


@pytest.mark.parametrize("name", ALL)
def test_base_model_equals_stock(tiny: Any, name: str) -> None:
    """The bare model, its pooler included."""
    model = tiny.build(name, "Model")
    batch = tiny.inputs(name)
    same(model, lift(copy.deepcopy(model)), batch, tiny.alive(name, batch))


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("head", ["ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering"])
def test_heads_that_read_every_token(tiny: Any, name: str, head: str) -> None:
    """Outputs of each token equal the stock model's at living positions, padding on either side."""
    model = tiny.build(name, head, num_labels=2)
    lifted = lift(copy.deepcopy(model))
    for side in ("right", "left", "holes"):
        batch = tiny.text((12, 7, 2, 5), side)
        same(model, lifted, batch, batch["attention_mask"].bool())


@pytest.mark.parametrize("name", TEXT)
def test_padding_with_holes(tiny: Any, name: str) -> None:
    """A mask with holes is packed by mask, not by length."""
    model = tiny.build(name)
    batch = tiny.text((12, 7, 2, 5), "holes")
    same(model, lift(copy.deepcopy(model)), batch, batch["attention_mask"].bool())


@pytest.mark.parametrize("name", TEXT)
def test_without_a_mask(tiny: Any, name: str) -> None:
    """No mask means that all tokens live."""
    model = tiny.build(name)
    batch = {"input_ids": tiny.text((7, 7))["input_ids"]}
    same(model, lift(copy.deepcopy(model)), batch, torch.ones(2, 7, dtype=torch.bool))


@pytest.mark.parametrize("name", TEXT)
def test_lengths_at_the_ends(tiny: Any, name: str) -> None:
    """Sequences of 1, 2, 511 and 512 tokens in one batch."""
    model = tiny.build(name)
    batch = tiny.text((512, 1, 511, 2))
    same(model, lift(copy.deepcopy(model)), batch, batch["attention_mask"].bool())


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "form", ["none", "2-D long", "2-D bool", "2-D float", "4-D bool", "4-D float", "4-D one row"]
)
def test_every_form_of_mask(tiny: Any, name: str, attention: str, form: str) -> None:
    """None, (b, n), and masks already expanded to four dimensions, under eager and sdpa."""
    if name == "mpnet" and attention == "sdpa":
        pytest.skip("transformers has no sdpa for MPNet")
    model = tiny.build(name, attention=attention)
    batch = tiny.text((9, 4, 1, 6))
    living = batch["attention_mask"].bool()
    square = living[:, None, None, :].expand(-1, 1, living.shape[1], -1)
    additive = torch.zeros(square.shape).masked_fill(~square, torch.finfo(torch.float32).min)
    if form == "none":
        batch, living = {"input_ids": batch["input_ids"]}, torch.ones_like(living)
    else:
        batch["attention_mask"] = {
            "2-D long": batch["attention_mask"],
            "2-D bool": living,
            "2-D float": living.float(),
            "4-D bool": square,
            "4-D float": additive,
            "4-D one row": additive[:, :, :1],
        }[form]
    lifted = lift(copy.deepcopy(model))
    if form == "4-D bool" and (
        attention == "eager" or name == "mpnet"
    ):  # stock adds it to the logits: not a mask
        with torch.no_grad():
            wanted = model(input_ids=batch["input_ids"], attention_mask=living.long())
            close(lifted(**batch).logits, wanted.logits)
        return
    same(model, lifted, batch, living)


@pytest.mark.parametrize("name", ["vit", "deit"])
def test_images_with_a_mask(tiny: Any, name: str) -> None:
    """A mask over the tokens of a picture, position 0 alive."""
    model = tiny.build(name)
    batch = tiny.images(3)
    living = torch.rand(3, 17 if name == "vit" else 18, generator=torch.Generator().manual_seed(0)) < 0.6
    living[:, :2] = True
    same(model, lift(copy.deepcopy(model)), batch | {"attention_mask": living.long()}, living)


@pytest.mark.parametrize("act", ["gelu_new", "gelu_pytorch_tanh", "relu", "quick_gelu", "silu"])
def test_activations(tiny: Any, act: str) -> None:
    """The layer's own activation is called, whichever it is."""
    model = tiny.build("bert", hidden_act=act)
    batch = tiny.inputs("bert")
    same(model, lift(copy.deepcopy(model)), batch, tiny.alive("bert", batch))


def test_vit_without_bias_in_qkv(tiny: Any) -> None:
    """Linears without bias are fine."""
    model = tiny.build("vit", qkv_bias=False)
    batch = tiny.images(2)
    same(model, lift(copy.deepcopy(model)), batch, tiny.alive("vit", batch))


@pytest.mark.parametrize("head", ["ForImageClassificationWithTeacher", "ForMaskedImageModeling"])
def test_other_deit_heads(tiny: Any, head: str) -> None:
    """The distilled classifier reads two tokens; both survive. Masked-image modelling reads all."""
    model = tiny.build("deit", head, encoder_stride=2)
    batch = tiny.images(2)
    lifted = lift(copy.deepcopy(model))
    with torch.no_grad():
        more = {"bool_masked_pos": torch.zeros(2, 16, dtype=torch.bool)} if "Modeling" in head else {}
        wanted, found = model(**batch, **more), lifted(**batch, **more)
        for key in wanted:
            close(found[key], wanted[key])
        if "Teacher" in head:
            stack_of(lifted).rule = Threshold((1e6,) * 3)
            assert bool(lifted(**batch).logits.isfinite().all())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("return_dict", [True, False])
def test_tuples_as_stock(tiny: Any, name: str, return_dict: bool) -> None:
    """``return_dict=False`` gives the stock model's tuple, hidden states included."""
    model = tiny.build(name)
    lifted = lift(copy.deepcopy(model))
    batch = tiny.inputs(name)
    with torch.no_grad():
        for record in (False, True):
            wanted = model(**batch, output_hidden_states=record, return_dict=return_dict)
            found = lifted(**batch, output_hidden_states=record, return_dict=return_dict)
            assert len(found) == len(wanted)
            close(found[0], wanted[0])


@pytest.mark.parametrize("name", ALL)
def test_hidden_states_by_configuration(tiny: Any, name: str) -> None:
    """``config.output_hidden_states`` works like the argument."""
    model = tiny.build(name)
    lifted = lift(copy.deepcopy(model))
    model.config.output_hidden_states = lifted.config.output_hidden_states = True
    batch = tiny.inputs(name)
    living = tiny.alive(name, batch)
    with torch.no_grad():
        for x, y in zip(lifted(**batch).hidden_states, model(**batch).hidden_states, strict=True):
            close(x[living], y[living])


@pytest.mark.parametrize("name", ALL)
def test_forward_hooks_on_layers_still_run(tiny: Any, name: str) -> None:
    """A hook on a layer, with or without keywords, sees the layer's states; each once."""
    model = lift(tiny.build(name))
    batch = tiny.inputs(name)
    living = tiny.alive(name, batch)
    seen: list[tuple[str, torch.Tensor]] = []
    layer = layers_list(model)[1]
    handles = [
        layer.register_forward_hook(lambda module, args, output: seen.append(("plain", output))),
        layer.register_forward_hook(
            lambda module, args, kwargs, output: seen.append(("keywords", output)), with_kwargs=True
        ),
    ]
    with torch.no_grad():
        states = model(**batch, output_hidden_states=True).hidden_states
    assert [kind for kind, _ in seen] == ["plain", "keywords"]
    for _, output in seen:
        close(output[living], states[2][living])
    for handle in handles:
        handle.remove()


# ---- refused


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("how", ["argument", "configuration"])
def test_attentions_are_refused(tiny: Any, name: str, how: str) -> None:
    """Asking for attentions is refused by name, never answered with nothing; the next call works again."""
    model = lift(tiny.build(name, attention="eager"))
    batch = tiny.inputs(name)
    with torch.no_grad():
        before = model(**batch).logits
        if how == "configuration":
            model.config.output_attentions = True
        with pytest.raises(
            Refused, match=r"output_attentions is not supported by the packed encoder.*unlift"
        ) as caught:
            model(**batch, **({"output_attentions": True} if how == "argument" else {}))
        assert caught.value.code == "encoder-argument"
        model.config.output_attentions = False
        assert torch.equal(model(**batch).logits, before)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "argument", ["head_mask", "past_key_values", "encoder_hidden_states", "encoder_attention_mask"]
)
@pytest.mark.parametrize("base", [False, True])
def test_arguments_without_effect_are_refused(tiny: Any, name: str, argument: str, base: bool) -> None:
    """What the packed encoder would ignore is refused by name, through the head and on the bare model."""
    model = lift(tiny.build(name, "Model" if base else ""))
    batch = tiny.inputs(name, (5, 5))
    value: Any = torch.ones(3, 4) if argument == "head_mask" else torch.zeros(2, 5, 32)
    if argument == "past_key_values":
        value = transformers.DynamicCache()
    if argument == "encoder_attention_mask":
        value = torch.tensor([[1, 1, 1, 1, 0]] * 2)
    with pytest.raises(Refused, match=argument) as caught:
        model(**batch, **{argument: value})
    assert caught.value.code == "encoder-argument"
    with torch.no_grad():
        model(**batch, **{argument: None})


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("side", ["left", "dead row"])
def test_dead_class_token_is_refused(tiny: Any, name: str, side: str) -> None:
    """A head that reads position 0 refuses a batch where it is masked, and names the sequence."""
    batch = tiny.text((5, 5, 3), "left")
    if side == "dead row":
        batch["attention_mask"] = torch.tensor([[1] * 5, [1] * 5, [0] * 5])
    model = lift(tiny.build(name))
    with pytest.raises(
        Refused, match=r"position 0 of sequence 2 is masked.*padding_side = 'right'"
    ) as caught:
        model(**batch)
    assert caught.value.code == "class-token-masked"


def test_left_padding_with_a_pooler_is_refused_and_without_is_fine(tiny: Any) -> None:
    """The bare model's pooler reads position 0; without a pooler left padding gives the stock states."""
    batch = tiny.text((6, 3), "left")
    with pytest.raises(Refused, match="without a pooler"):
        lift(tiny.build("bert", "Model"))(**batch)
    model = tiny.build("bert", "Model", add_pooling_layer=False)
    same(model, lift(copy.deepcopy(model)), batch, batch["attention_mask"].bool())


def test_masks_that_are_no_masks_are_refused() -> None:
    """Flex block masks, causal masks, biases, integers in four dimensions, wrong sizes: each with its reason."""

    class BlockMask:
        """Like flex attention's."""

    causal = torch.ones(2, 1, 5, 5, dtype=torch.bool).tril()
    soft = torch.zeros(2, 1, 5, 5)
    soft[..., 3] = -1.5
    cases: list[tuple[Any, str]] = [
        (BlockMask(), "is a BlockMask; the packed encoder reads tensors.*sdpa"),
        (causal, r"differs from query to query \(causal or custom\)"),
        (torch.zeros(2, 1, 5, 5).masked_fill(~causal, -torch.inf), "differs from query to query"),
        (torch.ones(2, 1, 5, 5, dtype=torch.long), "int64"),
        (soft, "neither 0 nor"),
        (torch.zeros(2, 5) - 1e9, "negative"),
        (torch.ones(2, 4), r"shape \(2, 4\); expected \(2, 5\)"),
        (torch.ones(3, 5), r"shape \(3, 5\)"),
        (torch.ones(2, 4, 5, 5, dtype=torch.bool), r"shape \(2, 4, 5, 5\)"),
        (torch.ones(5), r"shape \(5,\)"),
    ]
    for mask, says in cases:
        with pytest.raises(Refused, match=says) as caught:
            key_mask(mask, 2, 5)
        assert caught.value.code == "attention-mask"


@pytest.mark.parametrize("low", [-torch.inf, -10_000.0, torch.finfo(torch.float32).min, -1e9])
def test_additive_masks_of_all_habits(low: float) -> None:
    """-inf, the smallest float, and the older -10000 all mean dead; NaN-free and for one shared row, too."""
    living = torch.tensor([[1, 1, 0], [1, 0, 0]], dtype=torch.bool)
    mask = torch.zeros(2, 1, 1, 3).masked_fill(~living[:, None, None], low)
    found = key_mask(mask, 2, 3)
    assert found is not None and torch.equal(found, living)
    shared = key_mask(mask[:1].expand(1, 1, 3, 3), 4, 3)
    assert shared is not None and torch.equal(shared, living[:1].expand(4, 3))


def test_causal_mask_is_refused_through_a_model(tiny: Any) -> None:
    """A causal mask handed to the model reaches the encoder and is refused there."""
    model = lift(tiny.build("bert"))
    with pytest.raises(Refused, match="causal"):
        model(
            input_ids=tiny.text((5, 5))["input_ids"],
            attention_mask=torch.ones(2, 1, 5, 5, dtype=torch.bool).tril(),
        )


@pytest.mark.parametrize(
    "name", ["modernbert", "deberta", "deberta-v2", "albert", "longformer", "big_bird", "swin"]
)
def test_families_refused_with_a_reason(name: str) -> None:
    """Known and unsupported families are refused by name with the reason and the supported list."""
    with pytest.raises(Refused, match=f"models of type '{name}' are refused: .*Supported: bert") as caught:
        family_of(name)
    assert caught.value.code == "family-refused" and REFUSED[name] in str(caught.value)


def test_unsupported_models_are_refused_whole() -> None:
    """ModernBERT and DeBERTa models, not only their names."""
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 30,
        "pad_token_id": 0,
    }
    for model in (
        transformers.ModernBertModel(transformers.ModernBertConfig(**small)),
        transformers.DebertaV2Model(transformers.DebertaV2Config(**small)),
    ):
        with pytest.raises(Refused, match="are refused"):
            lift(model)


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_decoders_are_refused_as_such(name: str) -> None:
    """A model that generates is refused as a decoder, not as a typing mistake."""
    with pytest.raises(Refused, match=f"'{name}'.*decoder") as caught:
        family_of(name)
    assert caught.value.code == "family-refused"


def test_bert_as_a_decoder_is_refused(tiny: Any) -> None:
    """The same family set up as a decoder is refused."""
    model = tiny.build("bert", "Model", is_decoder=True)
    with pytest.raises(Refused, match="this 'bert' model is a decoder") as caught:
        lift(model)
    assert caught.value.code == "family-refused"


def test_unknown_family_names_the_known() -> None:
    """An unknown type is named, and what is supported is listed."""
    with pytest.raises(Refused, match="'resnet' are not known; supported are bert, roberta") as caught:
        family_of("resnet")
    assert caught.value.code == "family-unknown"


def test_a_plain_module_is_refused() -> None:
    """Something that is no transformers model says so."""
    with pytest.raises(Usage, match="expected a transformers model; got Linear") as caught:
        lift(nn.Linear(2, 2))
    assert caught.value.code == "model-type"
    with pytest.raises(Usage, match=r"call sparsam.lift\(model\) first"):
        stack_of(nn.Linear(2, 2))


@pytest.mark.parametrize("plan", [Plan.dense("roberta", 3), Plan.dense("bert", 2)])
def test_foreign_plans_are_refused(tiny: Any, plan: Plan) -> None:
    """A plan of another family or depth does not fit, and the model stays as it was."""
    model = tiny.build("bert")
    with pytest.raises(Refused, match="the model is bert with 3") as caught:
        lift(model, plan)
    assert caught.value.code == "plan-mismatch" and not is_lifted(model)


@pytest.mark.parametrize("name", ["vit", "deit"])
def test_mean_of_survivors_is_refused_before_a_final_norm(tiny: Any, name: str) -> None:
    """ViT norms every state after the encoder, so the mean over tokens would not be the survivors' mean."""
    tokens = TokenPlan("ltp", (1.0,) * 3, output="survivors")
    with pytest.raises(Refused, match="survivors") as caught:
        lift(tiny.build(name), Plan(name, (LayerPlan(),) * 3, tokens))
    assert caught.value.code == "plan-mismatch"


def test_plan_that_the_weights_do_not_match_is_refused(tiny: Any) -> None:
    """A plan with fewer heads or filters than the weights have would be counted and not run: refused at the call."""
    for left, says in ((LayerPlan(heads=(0, 1)), "heads"), (LayerPlan(filters=(0,)), "filters")):
        model = lift(tiny.build("bert"), Plan("bert", (LayerPlan(), left, LayerPlan())))
        with pytest.raises(
            Refused, match=f"the plan keeps .* {says} in this BertLayer; its weights have"
        ) as caught:
            model(**tiny.inputs("bert"))
        assert caught.value.code == "plan-mismatch"


# ---- names, life cycle


@pytest.mark.parametrize("name", ALL)
def test_names_on_disk_do_not_change(tiny: Any, name: str) -> None:
    """State-dict names, their order, and the tensors themselves are the user's own before and after."""
    model = tiny.build(name)
    before = dict(model.state_dict())
    lift(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(after[key].data_ptr() == before[key].data_ptr() for key in before)
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in unlift(model).named_parameters()]
    assert list(model.state_dict()) == list(before)


@pytest.mark.parametrize("name", ALL)
def test_lift_and_unlift_round_trip(tiny: Any, name: str) -> None:
    """Unlifted, the model gives its stock answers bit for bit, attentions included; lifted again, ours."""
    model = tiny.build(name, attention="eager")
    batch = tiny.inputs(name)
    with torch.no_grad():
        stock = model(**batch, output_attentions=True)
        assert not is_lifted(model) and plan_of(model) is None
        assert lift(model) is model and is_lifted(model) and plan_of(model) == dense_plan(model)
        ours = model(**batch).logits
        assert unlift(model) is model and not is_lifted(model) and plan_of(model) is None
        back = model(**batch, output_attentions=True)
        assert torch.equal(back.logits, stock.logits)
        assert all(torch.equal(a, b) for a, b in zip(back.attentions, stock.attentions, strict=True))
        assert torch.equal(lift(model)(**batch).logits, ours)
        unlift(unlift(model))
        assert torch.equal(model(**batch).logits, stock.logits)
        model(**batch, head_mask=None)


@pytest.mark.parametrize("name", ALL)
def test_lifting_twice_takes_the_new_plan(tiny: Any, name: str) -> None:
    """A lifted model gets the new plan in place; without one it keeps the plan it has."""
    model = lift(tiny.build(name))
    stack = stack_of(model)
    plan = Plan(name, (LayerPlan(),) * 3, TokenPlan("top-k", (None, 0.5, None)))
    lift(model, plan)
    assert stack_of(model) is stack and plan_of(model) == plan and stack.rule is not None
    lift(model)
    assert plan_of(model) == plan and stack.rule is not None
    lift(model, Plan.dense(name, 3))
    assert stack.rule is None


@pytest.mark.parametrize("name", ALL)
def test_deepcopy_is_independent(tiny: Any, name: str) -> None:
    """A copy of a lifted model runs on its own weights and its own plan."""
    model = lift(tiny.build(name))
    batch = tiny.inputs(name)
    with torch.no_grad():
        before = model(**batch).logits
        twin = copy.deepcopy(model)
        assert torch.equal(twin(**batch).logits, before)
        for parameter in twin.parameters():
            parameter.zero_()
        stack_of(twin).rule = Threshold((1e6,) * 3)
        twin(**batch)
        assert torch.equal(model(**batch).logits, before)
        for parameter in model.parameters():
            parameter.mul_(1.5)
        assert not torch.equal(model(**batch).logits, before)
        assert not bool(twin(**batch).logits.any())


@pytest.mark.parametrize("name", ALL)
def test_model_prints(tiny: Any, name: str) -> None:
    """A lifted model can be printed, its layers shown as before."""
    model = tiny.build(name)
    kind = type(layers_list(model)[0]).__name__
    assert kind in repr(lift(model))


@pytest.mark.parametrize("name", ALL)
def test_replaced_leaf_takes_effect(tiny: Any, name: str) -> None:
    """A linear swapped for a wrapper after lifting, as adapters do, is the one that runs."""

    class Adapter(nn.Module):
        """A linear and a small change to it."""

        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base, self.change = base, nn.Linear(base.in_features, base.out_features)

        @property
        def weight(self) -> torch.Tensor:
            return self.base.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.base(x) + self.change(x)

    model = tiny.build(name)
    lifted = lift(copy.deepcopy(model))
    batch = tiny.inputs(name)
    family = FAMILIES[name]
    for role in ("q", "v", "o", "up", "down"):
        torch.manual_seed(0)
        path = getattr(family, role)
        change = Adapter(layers_list(model)[1].get_submodule(path))
        for each in (model, lifted):
            twin = copy.deepcopy(change)
            parent, _, leaf = path.rpartition(".")
            setattr(layers_list(each)[1].get_submodule(parent), leaf, twin)
        same(model, lifted, batch, tiny.alive(name, batch))


def test_replaced_relative_bias_takes_effect(tiny: Any) -> None:
    """MPNet's table of relative positions is looked up when it is used, like every other part."""
    model = tiny.build("mpnet")
    lifted = lift(copy.deepcopy(model))
    torch.manual_seed(1)
    table = nn.Embedding(32, 4)
    model.mpnet.encoder.relative_attention_bias = lifted.mpnet.encoder.relative_attention_bias = table
    batch = tiny.inputs("mpnet")
    same(model, lifted, batch, tiny.alive("mpnet", batch))


# ---- training


def gradients(model: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradient of a loss on the labels, by parameter name."""
    model.zero_grad()
    labels = torch.arange(len(next(iter(batch.values())))) % 3
    model(**batch, labels=labels).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ALL)
def test_gradients_equal_stock(tiny: Any, name: str) -> None:
    """In training mode without dropout every parameter has the stock model's gradient."""
    model = tiny.build(name).train()
    lifted = lift(copy.deepcopy(model))
    assert lifted.training and all(layer.training for layer in layers_list(lifted))
    batch = tiny.inputs(name)
    wanted, found = gradients(model, batch), gradients(lifted, batch)
    assert set(found) == set(wanted)
    for key in wanted:
        close(found[key], wanted[key], 2e-5)


@pytest.mark.parametrize("name", ALL)
def test_the_head_alone_needs_less_for_the_same(tiny: Any, name: str) -> None:
    """Where the head reads the class token, the last layer works for it alone: same logits, same gradients, fewer rows."""
    model = lift(tiny.build(name)).train()
    batch = tiny.inputs(name)
    rows: list[int] = []
    layers_list(model)[-1].get_submodule(FAMILIES[name].up).register_forward_hook(
        lambda module, given, out: rows.append(len(given[0]))
    )
    wanted, logits = gradients(model, batch), model(**batch).logits.detach()
    with head_alone(model):
        found, alone = gradients(model, batch), model(**batch).logits.detach()
        states = model(**batch, output_hidden_states=True).hidden_states
    sequences = len(logits)
    protected = FAMILIES[name].protected
    assert rows[0] > 2 * sequences and rows[2] == rows[3] == sequences * protected
    assert rows[4] == rows[0]  # somebody looks at the states: all of them are worked out
    close(alone, logits)
    wanted_states = model(**batch, output_hidden_states=True).hidden_states
    close(states[-1].detach(), wanted_states[-1].detach())
    assert set(found) == set(wanted)
    for key in wanted:
        close(found[key], wanted[key], 2e-5)


def test_the_head_alone_is_not_enough_for_other_heads(tiny: Any) -> None:
    """A model whose output holds every token's state is run in full."""
    model = lift(tiny.build("bert", "ForTokenClassification"))
    batch = tiny.inputs("bert")
    with torch.no_grad(), head_alone(model):
        alone = model(**batch).logits
        close(alone, model(**batch).logits)
        assert not stack_of(model).head_alone


@pytest.mark.parametrize("name", CHECKPOINTED)
@pytest.mark.parametrize("pruned", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(tiny: Any, name: str, pruned: bool) -> None:
    """With checkpointing the layers run twice and every gradient is the same, dropout and pruning included."""
    model = lift(tiny.build(name, dropout=0.1)).train()
    if pruned:
        stack_of(model).rule = Threshold((0.5, 0.9, 0.9))
    batch = tiny.inputs(name)
    runs = [0]
    up = layers_list(model)[0].get_submodule(FAMILIES[name].up)
    up.register_forward_hook(lambda *_: runs.__setitem__(0, runs[0] + 1))
    torch.manual_seed(3)
    wanted = gradients(model, batch)
    assert runs[0] == 1
    model.gradient_checkpointing_enable()
    torch.manual_seed(3)
    found = gradients(model, batch)
    assert runs[0] == 3
    for key in wanted:
        close(found[key], wanted[key])
    model.gradient_checkpointing_disable()
    gradients(model, batch)
    assert runs[0] == 4


def test_checkpointing_of_mpnet_is_refused_upstream(tiny: Any) -> None:
    """transformers has none for MPNet, and lifting does not pretend otherwise."""
    with pytest.raises(ValueError, match="checkpointing"):
        lift(tiny.build("mpnet")).gradient_checkpointing_enable()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("place", ["probability", "attention", "ffn"])
def test_dropout_acts_in_training_only(tiny: Any, name: str, place: str) -> None:
    """Each place of dropout that the family has changes the output in training, and none in evaluation."""
    path = getattr(FAMILIES[name], f"{place}_dropout")
    if path is None:
        pytest.skip("no such dropout in this family")
    model = lift(tiny.build(name))
    batch = tiny.inputs(name)
    with torch.no_grad():
        plain = model(**batch).logits
        for layer in layers_list(model):
            owner, _, leaf = path.rpartition(".")
            parent = layer.get_submodule(owner)
            found = getattr(parent, leaf)
            if isinstance(found, nn.Module):
                found.p = 0.5
            else:
                setattr(parent, leaf, 0.5)
        assert torch.equal(model(**batch).logits, plain)
        model.train()
        torch.manual_seed(0)
        dropped = model(**batch).logits
        assert not torch.allclose(dropped, plain, atol=1e-3)
        torch.manual_seed(0)
        assert torch.equal(model(**batch).logits, dropped)


# ---- fewer heads and filters


@pytest.mark.parametrize("name", ALL)
def test_layers_with_fewer_heads_and_filters(tiny: Any, name: str) -> None:
    """Layers that keep different heads and filters, none at all included, equal the dense model masked alike."""
    model = tiny.build(name)
    plan = Plan(name, (LayerPlan((0, 2, 3), (0, 5, 7, 43)), LayerPlan((), ()), LayerPlan((1,), None)))
    small, zeroed = tiny.sever(model, name, plan)
    lift(small, plan)
    batch = tiny.inputs(name)
    same(zeroed, small, batch, tiny.alive(name, batch))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    small.train()
    assert all(bool(g.isfinite().all()) for g in gradients(small, batch).values())


@pytest.mark.parametrize("name", ALL)
def test_no_heads_and_filters_anywhere(tiny: Any, name: str) -> None:
    """A model without any head or filter still runs: each layer adds its biases."""
    model = tiny.build(name)
    plan = Plan(name, (LayerPlan((), ()),) * 3)
    small, zeroed = tiny.sever(model, name, plan)
    batch = tiny.inputs(name)
    same(zeroed, lift(small, plan), batch, tiny.alive(name, batch))


def test_resize_on_meta_makes_shapes_only(tiny: Any) -> None:
    """For loading: linears of the planned size on the meta device, dtype kept."""
    with torch.device("meta"):
        model = transformers.BertModel(tiny.config("bert")).to(torch.bfloat16)
    resize(model, Plan("bert", (LayerPlan((1,), (0, 1)), LayerPlan(), LayerPlan((), ()))))
    first, second, third = layers_list(model)
    assert first.attention.self.query.weight.shape == (8, 32) and first.output.dense.weight.shape == (32, 2)
    assert second.intermediate.dense.weight.shape == (44, 32)
    assert third.attention.output.dense.weight.shape == (32, 0)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


# ---- precision, odd batches


@pytest.mark.parametrize("name", ALL)
def test_half_precision_and_autocast(tiny: Any, name: str) -> None:
    """bf16 weights and bf16 autocast run, pruned or not, near the stock answers."""
    model = tiny.build(name)
    batch = tiny.inputs(name)
    half = {key: x.bfloat16() if x.is_floating_point() else x for key, x in batch.items()}
    lifted = lift(copy.deepcopy(model))
    with torch.no_grad():
        wanted = model(**batch).logits
        scale = float(wanted.abs().max())
        for rule in (None, Threshold((0.6, 0.8, 1e6))):
            stack_of(lifted).rule = rule
            with torch.autocast("cpu", dtype=torch.bfloat16):
                cast = lifted(**batch, output_hidden_states=True).logits
            low = copy.deepcopy(lifted).bfloat16()(**half, output_hidden_states=True).logits
            assert low.dtype == torch.bfloat16 and bool(low.isfinite().all() and cast.isfinite().all())
            if rule is None:
                torch.testing.assert_close(cast.float(), wanted, atol=0.15 * scale, rtol=0)
                torch.testing.assert_close(low.float(), wanted, atol=0.15 * scale, rtol=0)


def test_empty_batch(tiny: Any) -> None:
    """A batch without sequences gives outputs without rows."""
    model = lift(tiny.build("bert"), Plan("bert", (LayerPlan(),) * 3, TokenPlan("ltp", (0.5, 0.5, 0.5))))
    with torch.no_grad():
        assert model(input_ids=torch.zeros(0, 4, dtype=torch.long)).logits.shape == (0, 3)


# ---- what is read


@pytest.mark.parametrize("name", ALL)
def test_reads_class_token(tiny: Any, name: str) -> None:
    """Classifiers read the class token alone; the bare model gives out every state."""
    assert reads_class_token(tiny.build(name))
    assert not reads_class_token(tiny.build(name, "Model"))


@pytest.mark.parametrize("name", ALL)
def test_inspection_agrees_with_the_model(tiny: Any, name: str) -> None:
    """What inspect says of the layers is what the model has, and lifting a supported one works."""
    model = tiny.build(name)
    seen = inspect_model(model)
    assert seen.supported and seen.model_type == name and len(seen.layers) == 3
    size = {"heads": 4, "head_width": 8, "filters": 44}
    assert seen.layers[0] == {"layer": 0, **size, "supported": True, "reason": ""}
    assert any(f.part == "attentions" and not f.supported for f in seen.findings)


def test_inspection_of_a_refused_model_tells_why() -> None:
    """Inspect never raises: the reason is a finding."""
    seen = inspect_model(transformers.ModernBertConfig())
    assert not seen.supported and "rotary" in seen.findings[0].reason
    assert not inspect_model(object()).supported


@pytest.mark.parametrize("name", ["bert", "roberta", "electra"])
def test_positions_that_transformers_no_longer_computes_are_refused(tiny: Any, name: str) -> None:
    """Relative positions would silently be left out of the stock model itself: no lift, and inspect says the same."""
    model = tiny.build(name)
    model.config.position_embedding_type = "relative_key"
    with pytest.raises(
        Refused, match="position_embedding_type 'relative_key'; transformers computes absolute"
    ) as caught:
        lift(model)
    seen = inspect_model(model)
    assert not seen.supported and seen.problems == (str(caught.value),)


@pytest.mark.parametrize(
    ("kind", "supported", "reason"),
    [
        ("ForSequenceClassification", True, "one answer for a whole text"),
        ("Model", True, "no classification head; sparsam finetune gives it one"),
        ("ForMaskedLM", True, "no classification head; sparsam finetune gives it one"),
        (
            "ForTokenClassification",
            False,
            "ForTokenClassification is refused: it gives a class for every token",
        ),
        ("ForMultipleChoice", False, "ForMultipleChoice is refused"),
        ("ForQuestionAnswering", False, "ForQuestionAnswering is refused"),
    ],
)
def test_inspection_looks_at_the_head(tiny: Any, kind: str, supported: bool, reason: str) -> None:
    """By a model's class, or by what its configuration names; every layer tells the reason."""
    model = tiny.build("bert", kind)
    named = copy.deepcopy(model.config)
    named.architectures = [type(model).__name__]
    for given in (model, named):
        seen = inspect_model(given)
        assert seen.supported is supported
        assert reason in next(finding.reason for finding in seen.findings if finding.part == "head")
        assert all((reason in layer["reason"]) is not supported for layer in seen.layers)


def test_inspection_tells_which_layer_a_plan_does_not_fit() -> None:
    """A head that is not there names its layer; the others are fine. A plan of another depth fits none."""
    config = transformers.BertConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=3)
    config.architectures = ["BertForSequenceClassification"]
    layers = (LayerPlan(), LayerPlan(heads=(0, 4)), LayerPlan())
    seen = inspect_model(config, Plan("bert", layers))
    assert [layer["supported"] for layer in seen.layers] == [True, False, True]
    assert seen.layers[1]["reason"] == "the plan keeps head 4; the dense model has 4 heads"
    assert seen.problems == ("layer 2: the plan keeps head 4; the dense model has 4 heads",)
    short = inspect_model(config, Plan("bert", layers[:1]))
    assert short.problems == ("the plan is for bert with 1 layers; the model is bert with 3",)
    assert not any(layer["supported"] for layer in short.layers)
    assert inspect_model(config, Plan.dense("bert", 3)).supported
    assert inspect_model(transformers.BertConfig(num_hidden_layers=0)).problems == ("it has no layers",)
