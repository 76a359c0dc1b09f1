"""Two models walked side by side, half by half: what the smaller one gives is brought near to what the larger one gives.

Each half is solved on what the halves before it, solved already, now give it: errors are made up for on the way, not added up.
States of all calibration tokens are held: twice their number times the width, in float32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from sparsam.attention import native
from sparsam.models import reads_class_token, stack_of
from sparsam.models.apply import set_output
from sparsam.models.encoder import Stack, apply_linear, call, first_tokens
from sparsam.models.walk import after, attention_inputs, ffn_inputs
from sparsam.packed import Packed, select
from sparsam.structure import FTPP
from sparsam.structure.mask import HALVES
from sparsam.structure.reconstruct import Products, Solved, System


@dataclass(frozen=True)
class Reconstruction:
    """How well one half is reproduced: mean squared distance a token, before and after it was solved."""

    layer: int
    half: str
    before: float
    after: float


def reconstruct(
    model: Any,
    reference: Any,
    states: Sequence[Packed],
    method: FTPP,
    progress: Callable[[int, int], None] | None = None,
) -> list[Reconstruction]:
    """Solve every output product of ``model``, in place, so that it gives what ``reference`` gives. Call without gradients.

    Where the head reads the class token alone, the last layer is solved for the tokens it protects alone.

    Args:
        model: cut already.
        reference: of the same family and width; its layers may be larger.
        states: what the embeddings give for the calibration batches; the same for both models.
        method: says how to solve.
        progress: told of each half.
    """
    ours, theirs = _Side(stack_of(model), states), _Side(stack_of(reference), states)
    layers, alone = len(ours.stack.left), reads_class_token(model)
    found: list[Reconstruction] = []
    given_up = False
    for index in range(layers):
        for half in HALVES:
            only = alone and index == layers - 1 and half == "attention"
            module: Any = ours.stack.blocks[index].output(half)
            products = Products.zeros(module.weight.shape[1], module.weight.shape[0])
            for number in range(len(states)):
                wanted = theirs.summed(index, half, number, only)
                x, residual = ours.inputs(index, half, number, only)
                products.add(x, wanted.float() - residual.values.float())
                theirs.go_on(index, half, number, wanted)
            first = index == 0 and half == "attention"
            if not given_up and not (first and method.variant == "released"):
                solved = _solved(products, module, half, ours.stack, index, method)
                given_up = solved is None
                if solved is not None:
                    set_output(model, index, half, solved.weight, solved.bias)
                    found.append(Reconstruction(index, half, solved.before, solved.after))
            for number in range(len(states)):
                ours.go_on(index, half, number, ours.summed(index, half, number, only))
            if progress is not None:
                progress(2 * index + HALVES.index(half) + 1, 2 * layers)
    return found


def _solved(
    products: Products, module: nn.Linear, half: str, stack: Stack, index: int, method: FTPP
) -> Solved | None:
    weight = module.weight.detach().double().cpu().T
    bias = weight.new_zeros(weight.shape[1]) if module.bias is None else module.bias.detach().double().cpu()
    units = weight.shape[0]
    if half == "attention":
        units //= int(stack.blocks[index].part("head_width"))
    system = System(products, weight, bias, units, module.bias is not None)
    if method.variant == "released":
        return system.released() if units else None
    return system.scaled(method.ridge) if method.tune == "scale" else system.full(method.ridge)


class _Side:
    """One of the two models, and the states of all batches in front of its next half."""

    def __init__(self, stack: Stack, states: Sequence[Packed]) -> None:
        self.stack = stack
        self.states = list(states)
        self.lengths = [tuple(tokens.lengths.tolist()) for tokens in states]
        self.kept: dict[int, tuple[Tensor, Packed]] = {}

    def inputs(self, index: int, half: str, number: int, only: bool) -> tuple[Float[Tensor, "t a"], Packed]:
        """What a half's output product is given, and the residual beside it; ``only`` for the protected tokens."""
        tokens = self.states[number]
        block = self.stack.blocks[index]
        if half == "ffn":
            x = ffn_inputs(block, tokens.values)
        else:
            x = attention_inputs(self.stack, index, tokens, self.lengths[number], native.attend)
            if only:
                keep = first_tokens(tokens, self.stack.family.protected)
                x, tokens = x[keep], select(tokens, keep)
        self.kept[number] = (x, tokens)
        return x, tokens

    def summed(self, index: int, half: str, number: int, only: bool) -> Float[Tensor, "t d"]:
        """A half's output on top of its residual; inputs that were worked out just before are taken as they are."""
        if number not in self.kept:
            self.inputs(index, half, number, only)
        x, tokens = self.kept[number]
        return tokens.values + apply_linear(call, self.stack.blocks[index].output(half), x)

    def go_on(self, index: int, half: str, number: int, summed: Float[Tensor, "t d"]) -> None:
        """To the next half."""
        _, tokens = self.kept.pop(number)
        self.states[number] = tokens.with_values(after(self.stack.blocks[index], half, summed))
