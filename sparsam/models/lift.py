"""Lifting a transformers model onto the packed encoder, by reference and in place.

What changes is how the layers are run, not where they are: the user's layers stay children under their own names. In
BERT-like models a module whose child ``layer`` is the original list takes the encoder's place; ViT iterates its list itself,
so the list becomes a list subclass whose iteration yields one packed call. Embeddings, pooler and head stay as they are.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from sparsam.errors import Refused, Usage
from sparsam.models.encoder import Stack
from sparsam.models.families import FAMILIES, REFUSED, Family
from sparsam.models.formats import check_formats, refuse_integers
from sparsam.plan import LayerPlan, Plan
from sparsam.quantization.integer_only import check_scales
from sparsam.tokens import rule_of


class PackedEncoder(nn.Module):
    """Stands in for the encoder of a BERT-like model; its children are the original's."""

    def __init__(self, original: nn.Module, family: Family, left: Sequence[LayerPlan]) -> None:
        super().__init__()
        for name, child in original.named_children():
            self.add_module(name, child)
        self.layers_name = family.layers
        self.stack = Stack(family, self, left)
        self.config = original.config if hasattr(original, "config") else None
        self.original = (type(original), {k: v for k, v in vars(original).items() if not k.startswith("_")})
        self.gradient_checkpointing = False

    def own_layers(self) -> Sequence[nn.Module]:
        """The user's layers as they stand now."""
        return list(getattr(self, self.layers_name).children())

    def _replicate_for_data_parallel(self) -> "PackedEncoder":
        """A replica's stack runs the replica's layers."""
        replica: PackedEncoder = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        replica.stack = self.stack.held_by(replica)
        if isinstance(self.stack.bias, RelativeBias):
            replica.stack.bias = RelativeBias(replica, self.stack.bias.bucket)
        return replica

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Any = None,
        *args: Any,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> Any:
        """As the stock encoder: padded states (b, n, d) in, padded states out."""
        record = bool(kwargs.pop("output_hidden_states", False))
        _refuse_arguments(kwargs | ({"positional": args} if any(a is not None for a in args) else {}))
        states: list[Tensor] = []
        handles = []
        if record:
            states.append(hidden_states)
            for block in self.stack.blocks:
                hook = lambda module, taken, given: states.append(given)  # noqa: E731
                handles.append(block.layer.register_forward_hook(hook))
        try:
            x = self.stack(hidden_states, attention_mask)
        finally:
            for handle in handles:
                handle.remove()
        if not return_dict:
            return (x, tuple(states)) if record else (x,)
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=x, hidden_states=tuple(states) if record else None
        )


class PackedLayers(nn.ModuleList):
    """Stands in for a list of layers that the base model iterates over: iteration yields one packed call."""

    stack: Stack

    def own_layers(self) -> Sequence[nn.Module]:
        """The user's layers as they stand now."""
        return list(self.children())

    def _replicate_for_data_parallel(self) -> "PackedLayers":
        """A replica's stack runs the replica's layers."""
        replica: PackedLayers = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        replica.stack = self.stack.held_by(replica)
        return replica

    def __iter__(self) -> Iterator[Any]:
        yield self._run

    def __repr__(self) -> str:
        return repr(nn.ModuleList(self.children()))

    def _run(self, hidden_states: Tensor, attention_mask: Any = None, **kwargs: Any) -> Tensor:
        _refuse_arguments(kwargs)
        return self.stack(hidden_states, attention_mask)


_REFUSED = (
    "output_attentions",
    "head_mask",
    "past_key_values",
    "encoder_hidden_states",
    "encoder_attention_mask",
    "positional",
)


def _refuse_swallowed(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A hook before the model's forward pass: some models (MPNet) take arguments and drop them on the way."""
    _refuse_arguments(kwargs)


def _refuse_arguments(kwargs: dict[str, Any]) -> None:
    """Arguments the packed encoder would have to ignore are refused, so that no result is silently wrong."""
    for name, value in kwargs.items():
        if name in _REFUSED and value is not None and value is not False:
            raise Refused(
                f"{name} is not supported by the packed encoder. Call sparsam.models.unlift(model) for the stock "
                "forward pass, or leave the argument out.",
                code="encoder-argument",
            )
    if _attentions_wanted():
        raise Refused(
            "output_attentions is not supported by the packed encoder: attention is not kept. Call "
            "sparsam.models.unlift(model) for the stock forward pass.",
            code="encoder-argument",
        )


def _attentions_wanted() -> bool:
    """Whether transformers is collecting attentions in this call (they come through hooks, not arguments)."""
    try:
        from transformers.utils.output_capturing import _active_collector
    except ImportError:
        return False
    collected = _active_collector.get()
    return collected is not None and "attentions" in collected


_GENERATES = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES}


def family_of(model_type: str, config: Any = None) -> Family:
    """The family of a transformers ``model_type``.

    Raises:
        Refused: ``family-unknown`` or ``family-refused``, with the reason.
    """
    if model_type in REFUSED:
        raise Refused(
            f"models of type {model_type!r} are refused: {REFUSED[model_type]}. Supported: "
            f"{', '.join(FAMILIES)}.",
            code="family-refused",
        )
    if config is not None and (
        getattr(config, "is_decoder", False)
        or getattr(config, "add_cross_attention", False)
        or getattr(config, "is_encoder_decoder", False)
    ):
        raise Refused(
            f"this {model_type!r} model is a decoder; sparsam takes encoders. Supported: "
            f"{', '.join(FAMILIES)}.",
            code="family-refused",
        )
    if model_type in _GENERATES and model_type not in FAMILIES:
        raise Refused(
            f"models of type {model_type!r} are refused: a decoder; sparsam takes encoders. Supported: "
            f"{', '.join(FAMILIES)}.",
            code="family-refused",
        )
    positions = getattr(config, "position_embedding_type", None)
    if positions not in (None, "absolute"):
        raise Refused(
            f"this {model_type!r} model has position_embedding_type {positions!r}; transformers computes absolute positions "
            "alone since its release 5, so its answers would be wrong. Take a model with absolute positions.",
            code="family-refused",
        )
    if model_type not in FAMILIES:
        raise Refused(
            f"models of type {model_type!r} are not known; supported are {', '.join(FAMILIES)}. A new family is one "
            "table of roles in sparsam/models/families/.",
            code="family-unknown",
        )
    return FAMILIES[model_type]


def base_of(model: nn.Module) -> Any:
    """The bare model inside a model with a head."""
    if not isinstance(model, PreTrainedModel):
        raise Usage(
            f"expected a transformers model; got {type(model).__name__}. Load it with AutoModelFor….",
            code="model-type",
        )
    return model.base_model


def _container(base: nn.Module, family: Family) -> Any:
    return base.get_submodule(family.container) if family.container else base


def layers_of(model: nn.Module) -> nn.ModuleList:
    """The user's layers, in order (a plain iteration over the underlying modules)."""
    base = base_of(model)
    family = family_of(base.config.model_type, base.config)
    found = getattr(_container(base, family), family.layers, None)
    if not isinstance(found, nn.ModuleList):
        raise Refused(
            f"{type(base).__name__} has no list of layers at {family.container}.{family.layers}; this release of "
            "transformers may have moved it. sparsam is tested with the releases in constraints.txt.",
            code="family-layout",
        )
    return found


def stack_of(model: nn.Module) -> Stack:
    """The packed encoder inside a lifted model.

    Raises:
        Usage: ``not-lifted``.
    """
    found = _find_stack(model)
    if found is None:
        raise Usage("this model is not lifted; call sparsam.lift(model) first.", code="not-lifted")
    return found


def _find_stack(model: nn.Module) -> Stack | None:
    for module in model.modules():
        if isinstance(module, PackedEncoder | PackedLayers):
            return module.stack
    return None


def is_lifted(model: nn.Module) -> bool:
    """Whether the model already runs on the packed encoder."""
    return _find_stack(model) is not None


def plan_of(model: nn.Module) -> Plan | None:
    """The plan a lifted model runs by."""
    return getattr(model, "sparsam_plan", None)


def dense_plan(model: nn.Module) -> Plan:
    """The plan of a model as it stands."""
    base = base_of(model)
    return Plan.dense(base.config.model_type, len(layers_of(model)))


def reads_class_token(model: nn.Module) -> bool:
    """Whether the model's output depends on the class token's state alone (a classification head on it)."""
    name = type(model).__name__
    return name.endswith(
        (
            "ForSequenceClassification",
            "ForImageClassification",
            "ForMultipleChoice",
            "ForImageClassificationWithTeacher",
            "ForNextSentencePrediction",
        )
    )


@contextmanager
def head_alone(model: nn.Module) -> Iterator[None]:
    """Inside the block the model is only asked for what its head gives.

    Where that reads the class token alone, the last layer's queries, output projection and feed-forward part are worked out for
    it alone: the same logits and gradients for less. Other tokens come out of the last layer as zeros then.
    """
    if not (is_lifted(model) and reads_class_token(model)):
        yield
        return
    stack = stack_of(model)
    before, stack.head_alone = stack.head_alone, True
    try:
        yield
    finally:
        stack.head_alone = before


def lift(model: Any, plan: Plan | None = None) -> Any:
    """Make a transformers model run on the packed encoder, in place, and return it.

    Without a token rule the outputs equal the stock model's up to rounding. A model that is lifted already gets the new plan.

    Args:
        model: of a supported family; see ``sparsam inspect``.
        plan: what is left; the model as it stands if absent.

    Raises:
        Refused: the family is not supported; the plan is for another family or depth, or for other integers
            (``plan-mismatch``); the model's weights are integers and the plan is another for its layers (``quantized``).
    """
    base = base_of(model)
    family = family_of(base.config.model_type, base.config)
    layers = layers_of(model)
    known = plan_of(model)
    plan = plan or known or dense_plan(model)
    if known is not None and replace(plan, tokens=known.tokens) != known:
        refuse_integers(known, "another plan for its layers")
    if plan.family != family.name or len(plan.layers) != len(layers):
        raise Refused(
            f"the plan is for {plan.family} with {len(plan.layers)} layers; the model is {family.name} with "
            f"{len(layers)}. Use the plan that was saved with this model.",
            code="plan-mismatch",
        )
    if plan.tokens is not None and plan.tokens.output == "survivors" and family.pre_norm:
        raise Refused(
            f"output 'survivors' is not supported for {family.name}: its final norm acts on every state, so a mean over "
            "tokens would not be the mean over survivors. Use output 'last'.",
            code="plan-mismatch",
        )
    check_formats(model, list(layers.children()), family, plan)
    if plan.integer_only is not None:
        check_scales(plan.integer_only.scales, len(plan.layers))
    rule = rule_of(plan.tokens) if plan.tokens is not None else None
    stack = _find_stack(model)
    if stack is None:
        container = _container(base, family)
        if family.replace == "encoder":
            packed = PackedEncoder(container, family, plan.layers)
            stack = packed.stack
            packed.train(container.training)
            if family.relative_bias:
                stack.bias = RelativeBias(packed, type(container).relative_position_bucket)
            set_submodule(base, family.container, packed)
        else:
            replaced = PackedLayers(layers.children())
            replaced.stack = stack = Stack(family, replaced, plan.layers)
            replaced.train(layers.training)
            setattr(container, family.layers, replaced)
    stack.left = tuple(plan.layers)
    stack.rule = rule
    stack.output = plan.tokens.output if plan.tokens is not None else "last"
    stack.reads_class_token = reads_class_token(model) or getattr(base, "pooler", None) is not None
    for module in {id(m): m for m in (model, base)}.values():
        if _refuse_swallowed not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_refuse_swallowed, with_kwargs=True)
    model.sparsam_plan = plan
    return model


def unlift(model: Any) -> Any:
    """Give a lifted model its stock forward pass back, in place. Tokens are then no longer removed, nor inputs rounded."""
    base = base_of(model)
    family = family_of(base.config.model_type, base.config)
    container = _container(base, family)
    if isinstance(container, PackedEncoder):
        kind, attributes = container.original
        stock = kind.__new__(kind)
        nn.Module.__init__(stock)
        for name, value in attributes.items():
            setattr(stock, name, value)
        for name, child in container.named_children():
            stock.add_module(name, child)
        stock.train(container.training)
        set_submodule(base, family.container, stock)
    else:
        layers = getattr(container, family.layers)
        if isinstance(layers, PackedLayers):
            setattr(container, family.layers, nn.ModuleList(layers.children()))
    for module in (model, base):
        for key, hook in list(module._forward_pre_hooks.items()):
            if hook is _refuse_swallowed:
                del module._forward_pre_hooks[key], module._forward_pre_hooks_with_kwargs[key]
    if hasattr(model, "sparsam_plan"):
        del model.sparsam_plan
    return model


def linear_like(old: Any, inputs: int, outputs: int) -> nn.Linear:
    """A linear module of another size where the old one is; its values are not the old one's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # a layer may lose all it has
        return nn.Linear(
            inputs, outputs, bias=old.bias is not None, device=old.weight.device, dtype=old.weight.dtype
        )


def set_submodule(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place that a path from ``root`` names."""
    parent, _, leaf = path.rpartition(".")
    setattr(root.get_submodule(parent) if parent else root, leaf, module)


class RelativeBias:
    """MPNet's bucketed relative positions, for the original positions of a group of sequences."""

    def __init__(self, encoder: Any, bucket: Callable[..., Tensor]) -> None:
        self.encoder = encoder
        self.bucket = bucket
        self.buckets = (
            32  # MPNetEncoder.compute_position_bias always passes this many, whatever the table's size
        )

    def __call__(self, positions: Tensor) -> Tensor:
        relative = positions[:, None, :] - positions[:, :, None]  # key minus query
        values: Tensor = self.encoder.relative_attention_bias(self.bucket(relative, num_buckets=self.buckets))
        return values.permute(0, 3, 1, 2)  # (g, h, n, n)


def resize(model: Any, plan: Plan) -> None:
    """Make each layer's linears as small as the plan says, in place; values are not kept. For loading onto."""
    family = family_of(plan.family)
    for layer, left in zip(layers_of(model).children(), plan.layers, strict=True):
        resize_layer(layer, family, left)


def resize_layer(layer: nn.Module, family: Family, left: LayerPlan) -> None:
    """Make one layer's linears as small as ``left`` says, in place; values are not kept."""

    def put(path: str, inputs: int | None, outputs: int | None) -> None:
        old: Any = layer.get_submodule(path)
        sizes = (
            old.in_features if inputs is None else inputs,
            old.out_features if outputs is None else outputs,
        )
        set_submodule(layer, path, linear_like(old, *sizes))

    if left.heads is not None:
        name, _, leaf = family.head_width.rpartition(".")
        width = len(left.heads) * int(getattr(layer.get_submodule(name), leaf))
        for role in (family.q, family.k, family.v):
            put(role, None, width)
        put(family.o, width, None)
    if left.filters is not None:
        put(family.up, None, len(left.filters))
        put(family.down, len(left.filters), None)


def on_meta(model: nn.Module) -> bool:
    """Whether the model's parameters hold no values yet."""
    return any(p.device == torch.device("meta") for p in model.parameters())
