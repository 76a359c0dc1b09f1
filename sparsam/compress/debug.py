"""Where a compressed model leaves the dense one it came from: layer by layer, product by product, answer by answer.

Both are walked side by side on the same rows. Of each layer three things are asked:

    own        what it makes of the dense model's states, on those tokens that the compressed model has left there
    piled up   how far the compressed model's own states are behind it by now
    agreement  how many answers stay the same when the compressed model's layers run up to here, and the dense model's after it

The first layer behind which too few answers agree is the one that went wrong, and the product of its with the least
signal-to-noise ratio on the dense model's inputs says where. Whole layers can be swapped, whatever heads, filters and integers
they have: at its borders every layer has the model's width. States are compared for tokens that are alive in both models.

    SQNR = 10 log10(sum of the dense model's squares / sum of the differences' squares), in decibels
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparsam.compress.evaluation import Progress
from sparsam.compress.opening import Opened, split_of
from sparsam.errors import Refused, Usage
from sparsam.models import dense_plan, plan_of, stack_of
from sparsam.models.encoder import Block, Stack, apply_linear, call, key_mask
from sparsam.models.formats import ROLES, words_of
from sparsam.models.walk import entered, replaced
from sparsam.packed import Packed, pack, select
from sparsam.plan import PRODUCTS, Plan
from sparsam.structure.slices import of_heads
from sparsam.task import Task, classes, collate, encode
from sparsam.tokens import rule_of
from sparsam.tokens.rule import Rule
from sparsam.training.feed import by_length, tensors

TOKENS = 2048
"""Real tokens a batch. Chosen by us; nothing but memory depends on it."""

AGREEMENT = 0.99
"""Share of answers that have to be the dense model's. Chosen by us."""

ROWS = 256


@dataclass(frozen=True)
class Error:
    """How far numbers are from the dense model's."""

    sqnr: float | None
    """Decibels; None where nothing differs."""
    largest: float
    """The largest absolute difference."""
    numbers: int
    """How many were compared."""


@dataclass(frozen=True)
class ProductError:
    """A product's error when it is given what the dense model's is given, as far as it has kept that."""

    product: str
    bits: int | None
    """Of its weights; None in floating point."""
    error: Error


@dataclass(frozen=True)
class Stage:
    """What is known of the way up to here: ``embeddings``, ``layer 1`` and on, ``head``. The head's states are its logits."""

    name: str
    own: Error
    piled_up: Error
    products: tuple[ProductError, ...]
    kept: float
    """Share of the tokens that are alive behind it."""
    agreement: float
    """Share of rows that have the dense model's answer when all up to here is compressed, and nothing after it."""

    @property
    def worst(self) -> ProductError | None:
        """The product with the least signal-to-noise ratio; None where no product differs."""
        differing = [one for one in self.products if one.error.sqnr is not None]
        return min(differing, key=lambda one: loudness(one.error), default=None)


def loudness(error: Error) -> float:
    """The signal-to-noise ratio as a number to order by: infinite where nothing differs."""
    return math.inf if error.sqnr is None else error.sqnr


@dataclass(frozen=True)
class Debugged:
    """A compressed model beside the dense one, stage by stage."""

    model: str
    dense: str
    rows: int
    threshold: float
    stages: tuple[Stage, ...]

    @property
    def first(self) -> Stage | None:
        """The first stage behind which too few answers agree; None where all is well."""
        return next((stage for stage in self.stages if stage.agreement < self.threshold), None)

    @property
    def loudest(self) -> Stage:
        """The stage with the largest error of its own."""
        return min(self.stages, key=lambda stage: loudness(stage.own))

    @property
    def agreement(self) -> float:
        """Share of rows on which both models, whole, give one answer."""
        return self.stages[-1].agreement

    def to_json(self) -> dict[str, Any]:
        """The facts, and the verdict in ``fine``, ``first`` and ``worst``."""
        first = self.first
        worst = None if first is None else first.worst
        return {
            "model": self.model,
            "dense": self.dense,
            "rows": self.rows,
            "threshold": self.threshold,
            "agreement": self.agreement,
            "fine": first is None,
            "first": None if first is None else first.name,
            "worst": None if worst is None else worst.product,
            "loudest": self.loudest.name,
            "stages": [asdict(stage) for stage in self.stages],
        }


class _Sums:
    """Squares of what is wanted and of what is missed, added up over batches."""

    def __init__(self) -> None:
        self.signal, self.noise, self.largest, self.numbers = 0.0, 0.0, 0.0, 0

    def add(self, wanted: Float[Tensor, "r c"], given: Float[Tensor, "r c"], name: str) -> None:
        if not given.numel():
            return
        if not bool(torch.isfinite(given).all()):
            raise Refused(
                f"what {name} of the compressed model gives is not a number (NaN or infinity) for the dense model's input or "
                "for its own. That is where it goes wrong; look at its scales and weights.",
                code="non-finite",
            )
        wide = wanted.double()
        missed = given.double() - wide
        self.signal += float(wide.square().sum())
        self.noise += float(missed.square().sum())
        self.largest = max(self.largest, float(missed.abs().max()))
        self.numbers += given.numel()

    def error(self) -> Error:
        sqnr = None
        if self.noise:
            tiny = float(np.finfo(np.float64).tiny)
            sqnr = 10 * math.log10(max(self.signal, tiny) / self.noise)
        return Error(sqnr, self.largest, self.numbers)


class _Layers:
    """The layers of a stack that owns none."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers = list(layers)

    def own_layers(self) -> Sequence[nn.Module]:
        return self.layers


class _Joined(Stack):
    """A stack over layers that other stacks lend; what stands on a pair of positions is that of each layer's own model."""

    def __init__(
        self, parts: Sequence[tuple[Stack, int]], rule: Rule | None = None, output: str = "last"
    ) -> None:
        first = parts[0][0]
        layers = [stack.blocks[at].layer for stack, at in parts]
        super().__init__(first.family, _Layers(layers), [stack.left[at] for stack, at in parts])
        self.parts, self.rule, self.output = list(parts), rule, output
        self.bias, self.reads_class_token = first.bias, first.reads_class_token

    def pair_bias(self, index: int) -> Any:
        stack, at = self.parts[index]
        return stack.pair_bias(at)


class _Pair:
    """The two models, and the stacks that are made of their layers."""

    def __init__(self, ours: Opened, dense: Opened) -> None:
        self.ours, self.dense = ours.model, dense.model
        self.plan: Plan = plan_of(self.ours) or dense_plan(self.ours)
        self.stack, self.whole = stack_of(self.ours), stack_of(self.dense)
        self.depth = len(self.stack.left)

    def joined(self, first: int) -> _Joined:
        """The compressed model's first layers, with its tokens leaving there, and the dense model's after them."""
        lent = [(self.stack if at < first else self.whole, at) for at in range(self.depth)]
        tokens, rule, output = self.plan.tokens, None, "last"
        if tokens is not None and first:
            values = tuple(value if at < first else None for at, value in enumerate(tokens.values))
            rule, output = rule_of(replace(tokens, values=values)), tokens.output
        return _Joined(lent, rule, output)

    def kept(self, index: int) -> "_Kept":
        """Which of the dense layer's outputs and inputs the compressed layer has."""
        ours, theirs = self.stack.left[index], self.whole.left[index]
        return _Kept(
            _places("heads", index, ours.heads, theirs.heads),
            _places("filters", index, ours.filters, theirs.filters),
        )


@dataclass(frozen=True)
class _Kept:
    heads: tuple[int, ...] | None
    filters: tuple[int, ...] | None

    def of(self, role: str, width: int) -> tuple[Any, Any]:
        """Rows and columns of a module in the dense layer that stand in the compressed one; None for all."""
        if role in ("q", "k", "v", "o"):
            chosen = None if self.heads is None else torch.from_numpy(of_heads(self.heads, width))
        else:
            chosen = None if self.filters is None else torch.tensor(self.filters, dtype=torch.long)
        return (None, chosen) if role in ("o", "down") else (chosen, None)


def _places(
    kind: str, index: int, ours: tuple[int, ...] | None, theirs: tuple[int, ...] | None
) -> tuple[int, ...] | None:
    """Where what the compressed layer has kept stands in the other one; None for all of it."""
    if ours == theirs:
        return None
    if theirs is None:
        return ours
    at = {unit: place for place, unit in enumerate(theirs)}
    if ours is None or any(unit not in at for unit in ours):
        raise Refused(
            f"layer {index + 1} of the compressed model has {kind} that the model to compare with has not. Compare it with "
            "the model it was made from, or with the dense one.",
            code="other-model",
        )
    return tuple(at[unit] for unit in ours)


@torch.no_grad()
def layer_by_layer(
    ours: Opened,
    dense: Opened,
    task: Task,
    *,
    rows: int = ROWS,
    threshold: float = AGREEMENT,
    split: str = "train",
    seed: int = 0,
    progress: Progress | None = None,
) -> Debugged:
    """A compressed model beside the dense one it came from, on some rows whose labels are not looked at.

    Args:
        ours: the compressed model.
        dense: the one to compare with: dense, or one whose heads and filters the other has in part.
        task: where rows come from.
        rows: how many of them are drawn; all where there are fewer.
        threshold: share of answers that have to agree.
        split: which rows.
        seed: draws them.
        progress: told of rows done.

    Raises:
        Usage: ``rows``, ``agreement``, ``split-missing``, ``against-compressed`` for one to compare with that removes tokens
            or multiplies integers itself.
        Refused: ``other-model`` for models that cannot come from each other, ``no-answers`` for a regression, ``non-finite``.
    """
    if rows < 1:
        raise Usage(f"rows must be at least 1; got {rows}.", code="rows")
    if not 0 <= threshold <= 1:
        raise Usage(f"agreement is a share from 0 to 1; got {threshold!r}.", code="agreement")
    _check_pair(ours, dense, task)
    pair, device = _Pair(ours, dense), next(ours.model.parameters()).device
    for model in (pair.ours, pair.dense):
        model.to(device).eval()
    source = split_of(task, split)
    count = min(rows, len(source))
    drawn = source.take(np.sort(np.random.default_rng(seed).permutation(len(source))[:count]))
    read = encode(ours.processor, drawn, max_length=ours.max_length)
    lengths = read.lengths if read.input_ids is not None else np.full(count, ours.image_tokens, np.int64)
    sums, done = _Found(pair), 0
    for group in by_length(lengths, TOKENS):
        batch = tensors(collate(read, group, ours.pad_id))
        _compare(pair, {name: x.to(device) for name, x in batch.items() if name != "labels"}, sums)
        done += len(group)
        if progress is not None:
            progress("compare", done, count, {})
    return Debugged(ours.name, dense.name, count, threshold, tuple(sums.stages(count)))


class _Found:
    """What is added up over batches, for every stage: the embeddings, each layer, the head."""

    def __init__(self, pair: _Pair) -> None:
        self.pair = pair
        self.names = ["embeddings", *(f"layer {at + 1}" for at in range(pair.depth)), "head"]
        self.own, self.piled_up = ([_Sums() for _ in self.names] for _ in range(2))
        self.products = [{product: _Sums() for product in PRODUCTS} for _ in range(pair.depth)]
        self.alive, self.agree, self.all = [0] * len(self.names), [0] * len(self.names), 0

    def stages(self, rows: int) -> Iterator[Stage]:
        """The figures by stage."""
        for at, name in enumerate(self.names):
            products: tuple[ProductError, ...] = ()
            if 0 < at <= self.pair.depth:
                formats: Any = self.pair.stack.left[at - 1].formats
                products = tuple(
                    ProductError(product, formats[product].bits if product in formats else None, one.error())
                    for product, one in self.products[at - 1].items()
                    if one.numbers
                )
            yield Stage(
                name, self.own[at].error(), self.piled_up[at].error(), products,
                self.alive[at] / max(self.all, 1), self.agree[at] / rows,
            )  # fmt: skip


def _compare(pair: _Pair, batch: dict[str, Tensor], found: _Found) -> None:
    """Add one batch to the figures."""
    (theirs, mask), (x, _) = entered(pair.dense, batch), entered(pair.ours, batch)
    living = key_mask(mask, *x.shape[:2])
    wanted, last = _run(pair.joined(0), theirs, mask, living)
    given, own_last = _run(pair.joined(pair.depth), x, mask, living)
    logits = _answers(pair.dense, batch, last)
    answered = logits.argmax(1)
    head = pair.depth + 1

    found.all += len(wanted[0].rows)
    for at, (one, other) in enumerate(zip(wanted, given, strict=True)):
        found.alive[at] += len(other.rows)
        found.piled_up[at].add(_at(one, other.rows), other.values, found.names[at])
        if at < pair.depth:
            _, states = _run(pair.joined(at), x, mask)
            found.agree[at] += _same(_answers(pair.dense, batch, states), answered)
    found.agree[pair.depth] += _same(_answers(pair.dense, batch, own_last), answered)
    found.alive[head] = found.alive[pair.depth]
    found.own[0].add(wanted[0].values, given[0].values, "embeddings")
    for at in range(pair.depth):
        _compare_layer(pair, at, wanted, given, found)

    whole = _answers(pair.ours, batch, own_last)
    found.agree[head] += _same(whole, answered)
    found.piled_up[head].add(logits, whole, "head")
    found.own[head].add(logits, _answers(pair.ours, batch, last), "head")


def _compare_layer(
    pair: _Pair, at: int, wanted: Sequence[Packed], given: Sequence[Packed], found: _Found
) -> None:
    """One layer on the dense model's states, whole and product by product."""
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def watch(module: nn.Module, x: Tensor) -> Tensor:
        y = call(module, x)
        seen[id(module)] = x, y
        return y

    entering, staying = wanted[at], given[at + 1].rows
    alone = _Joined([(pair.stack, at)])
    made, _ = alone.run(select(entering, torch.isin(entering.rows, given[at].rows)))
    found.own[at + 1].add(_at(wanted[at + 1], staying), _at(made, staying), found.names[at + 1])

    original = _Joined([(pair.whole, at)])
    original.linear = watch
    original.run(entering)
    there = torch.isin(entering.rows, staying)
    block, source, kept = pair.stack.blocks[at], pair.whole.blocks[at], pair.kept(at)
    for product in PRODUCTS:
        for role in ROLES[product]:
            module = source.part(role)
            if id(module) in seen:
                x, y = (part[there] for part in seen[id(module)])
                chosen = kept.of(role, int(block.part("head_width")))
                y, own = _product(block, product, role, x, y, chosen)
                found.products[at][product].add(y, own, f"{found.names[at + 1]}, {product},")


def _product(
    block: Block, product: str, role: str, x: Tensor, y: Tensor, chosen: tuple[Any, Any]
) -> tuple[Tensor, Tensor]:
    """What a module of the dense layer gives, as far as the compressed layer has it, and what its own gives for that input."""
    rows, columns = (None if some is None else some.to(x.device) for some in chosen)
    x = x if columns is None else x[:, columns]
    y = y if rows is None else y[:, rows]
    return y, apply_linear(call, block.part(role), block.read(product, x)) if y.shape[1] else y


def _run(
    stack: _Joined, x: Float[Tensor, "b n d"], mask: Any, living: Any = None
) -> tuple[list[Packed], Float[Tensor, "b n d"]]:
    """The states that enter a stack and those behind each layer; and what goes to the head."""
    stack.states = []
    out = stack(x, mask)
    return [pack(x, living), *stack.states], out


def _answers(model: Any, batch: dict[str, Tensor], states: Float[Tensor, "b n d"]) -> Float[Tensor, "b c"]:
    """What a model's head makes of other states than its own encoder's."""
    with replaced(model, lambda x, mask=None: states):
        found: Tensor = model(**batch).logits
    return found.float()


def _same(logits: Float[Tensor, "b c"], answered: Tensor) -> int:
    """How many rows have this answer."""
    return int((logits.argmax(1) == answered).sum())


def _at(tokens: Packed, rows: Tensor) -> Float[Tensor, "t d"]:
    """The states of some tokens, all of which are there."""
    return tokens.values[torch.isin(tokens.rows, rows)]


def _check_pair(ours: Opened, dense: Opened, task: Task) -> None:
    """Refuse two models of which one cannot come from the other, and what has no answers to compare."""
    plan = plan_of(dense.model)
    if plan is not None and (plan.tokens is not None or plan.in_integers):
        raise Usage(
            f"{dense.name} is compressed itself; name the dense model that {ours.name} came from: --against DIR.",
            code="against-compressed",
        )
    if task.problem == "regression":
        raise Refused(
            f"{task.name} is a regression: its answers are numbers, which do not agree or differ as classes do. Compare both "
            "models with sparsam evaluate --baseline.",
            code="no-answers",
        )
    for what, mine, other in _facts(ours, dense):
        if mine != other:
            raise Refused(
                f"{ours.name} has {what} {mine}; {dense.name} has {other}. One cannot come from the other: name the dense "
                "model that it came from with --against DIR.",
                code="other-model",
            )


def _facts(ours: Opened, dense: Opened) -> Iterator[tuple[str, Any, Any]]:
    """What two models have in common where one comes from the other, each with a name."""
    pair = [one.model for one in (ours, dense)]
    configs = [model.config for model in pair]

    def both(what: str, read: Any, of: Sequence[Any]) -> tuple[str, Any, Any]:
        return what, read(of[0]), read(of[1])

    yield both("family", lambda config: config.model_type, configs)
    yield both("number of layers:", lambda model: len(stack_of(model).left), pair)
    yield both("width", lambda config: getattr(config, "hidden_size", None) or config.dim, configs)
    yield both("classes", lambda config: ", ".join(classes.names_of(config)), configs)
    if ours.kind == "image":
        yield both("tokens of an image:", lambda one: one.image_tokens, (ours, dense))
    else:
        yield both("number of words:", lambda model: getattr(words_of(model), "num_embeddings", None), pair)
