"""Integers as they lie in files: ``weight`` int8 of shape (outputs, 1, inputs), ``weight_scale`` float32 (outputs,).

The dimension of one keeps stock transformers from reading them as floats: without sparsam their shape fits no module, and
loading fails. Of 4 bits and fewer two lie in a byte, uint8 (outputs, 1, inputs / 2), the first in its lower half. Of integers
on levels in pieces (PWLQ) files hold the codes, b + 1 bits each, behind a byte with the output's ratio: uint8 (outputs, 1,
1 + inputs (b + 1) / 8).
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int8, Shaped
from torch import Tensor, nn

from sparsam.errors import Refused
from sparsam.models.formats import modules_in_integers, modules_in_pieces
from sparsam.models.integers import SCALES, off_grid, on_grid, scales_of
from sparsam.models.lift import base_of, family_of, layers_of
from sparsam.plan import Plan
from sparsam.quantization.pwlq import bytes_in_pieces, from_pieces, in_pieces

HALF = 4
"""Bits of which two integers lie in a byte."""


def in_integers(model: Any, plan: Plan | None) -> dict[str, tuple[Any, int]]:
    """The modules whose weights a plan says are integers, by name: each with its bits."""
    if plan is None or not plan.in_integers:
        return {}
    family = family_of(base_of(model).config.model_type)
    return modules_in_integers(model, list(layers_of(model).children()), family, plan)


def _pieces(model: Any, plan: Plan | None) -> dict[str, int]:
    """Of :func:`in_integers` those on levels in pieces, by name, with b."""
    if plan is None or not plan.in_integers:
        return {}
    family = family_of(base_of(model).config.model_type)
    return modules_in_pieces(model, list(layers_of(model).children()), family, plan)


def packed(integers: Int8[Tensor, "o i"], bits: int) -> Shaped[Tensor, "o 1 n"]:
    """Integers in the form of files."""
    if bits > HALF:
        return integers[:, None].contiguous()
    if integers.shape[1] % 2:
        integers = torch.nn.functional.pad(integers, (0, 1))
    low, high = integers[:, None, 0::2], integers[:, None, 1::2]
    return ((low & 15) | ((high & 15) << HALF)).view(torch.uint8)


def unpacked(stored: Shaped[Tensor, "o 1 n"], bits: int, inputs: int) -> Int8[Tensor, "o i"]:
    """The inverse of :func:`packed`."""
    if bits > HALF:
        return stored[:, 0]
    nibbles = torch.stack([stored[:, 0] & 15, stored[:, 0] >> HALF], 2).flatten(1)[:, :inputs]
    return ((nibbles.to(torch.int8) ^ 8) - 8).to(torch.int8)


def to_store(model: Any, state: Mapping[str, Tensor], plan: Plan | None) -> dict[str, Tensor]:
    """A state dict as it lies in files: integers where the plan says so, everything else as it is.

    Args:
        model: lifted or not.
        state: with the names of the model's modules; its own, or one that was gathered from it.
        plan: the model's.

    Raises:
        Refused: ``quantized`` where weights are off their grid (trained, or cast) or not here as a whole; ``plan-mismatch``
            where there are scales without a format, a format without scales, or integers beyond its bits; ``pwlq-levels`` for
            integers that lie on no levels in pieces.
    """
    found, planned, pieces = dict(state), in_integers(model, plan), _pieces(model, plan)
    for name, (module, bits) in planned.items():
        weight, scales = state.get(f"{name}.weight"), state.get(f"{name}.{SCALES}", scales_of(module))
        if weight is None:
            continue  # a part of the model's state, as some tools save it
        if scales is None:
            raise Refused(
                f"the plan has {name} in {bits} bits; there are no scales ({SCALES}) beside its weights. Save the state dict "
                "as a whole.",
                code="plan-mismatch",
            )
        integers = _integers(name, weight, scales, bits)
        found[f"{name}.weight"] = (
            in_pieces(integers, pieces[name])[:, None] if name in pieces else packed(integers, bits)
        )
        found[f"{name}.{SCALES}"] = scales
    for name in state:
        owner = name.removesuffix(f".{SCALES}")
        if owner != name and owner not in planned:
            raise Refused(
                f"the weights of {owner} are integers; the plan has no format for them. Lift the model with the plan they were "
                "made for.",
                code="plan-mismatch",
            )
    return found


def _integers(name: str, weight: Tensor, scales: Tensor, bits: int) -> Int8[Tensor, "o i"]:
    """The integers of weights that lie on their grid, all of them within so many bits."""
    whole = all(type(x) in (Tensor, nn.Parameter) and x.device.type != "meta" for x in (weight, scales))
    if not whole or weight.dtype != torch.float32 or scales.dtype != torch.float32:
        here = f"{str(weight.dtype).removeprefix('torch.')} on {weight.device.type}"
        raise Refused(
            f"{name} is to be saved in integers; its weights are {here}, a {type(weight).__name__}. They are read from whole "
            "float32 tensors alone: load the model again, leave its dtype as it is and its weights in memory.",
            code="quantized",
        )
    integers = off_grid(weight, scales)
    if not torch.equal(on_grid(integers, scales), weight.detach()):
        raise Refused(
            f"{name} is to be saved in integers; its weights no longer lie on the grid of its scales: they were trained "
            "or merged. Train the model in floating point, and make integers last (sparsam compress --method int8).",
            code="quantized",
        )
    _check_range(name, integers, bits)
    return integers


def _check_range(name: str, integers: Int8[Tensor, "o i"], bits: int) -> None:
    largest = 2 ** (bits - 1) - 1
    if integers.numel() and (int(integers.min()) < -largest or int(integers.max()) > largest):
        raise Refused(
            f"the integers of {name} reach from {int(integers.min())} to {int(integers.max())}; {bits} bits hold -{largest} to "
            f"{largest}. Use the plan that they were made for.",
            code="plan-mismatch",
        )


def expect(model: Any, plan: Plan) -> int:
    """Give each module that will hold integers the form of files, in place, and tell how many there are. For loading onto."""
    found, pieces = in_integers(model, plan), _pieces(model, plan)
    for name, (module, bits) in found.items():
        rows, inputs = module.weight.shape
        width = inputs if bits > HALF else (inputs + 1) // 2
        kind = torch.int8 if bits > HALF else torch.uint8
        if name in pieces:
            width, kind = bytes_in_pieces(inputs, pieces[name]), torch.uint8
        form = torch.empty(rows, 1, width, dtype=kind, device=module.weight.device)
        module.weight = nn.Parameter(form, requires_grad=False)
        module.register_buffer(SCALES, torch.empty(rows, device=form.device))
    return len(found)


def receive(model: Any, plan: Plan) -> None:
    """Make ordinary modules of those that :func:`expect` prepared and loading has filled, in place.

    Raises:
        Refused: ``plan-mismatch`` for integers beyond their bits, or scales that are not finite and above 0; ``pwlq-codes`` for
            codes or ratios that no weight in pieces has.
    """
    pieces = _pieces(model, plan)
    for name, (module, bits) in in_integers(model, plan).items():
        scales, stored = scales_of(module), module.weight.detach()
        assert isinstance(scales, Tensor)
        inputs = getattr(module, "in_features", None) or getattr(module, "embedding_dim")  # noqa: B009
        integers = (
            from_pieces(stored[:, 0], pieces[name], inputs)
            if name in pieces
            else unpacked(stored, bits, inputs)
        )
        _check_range(name, integers, bits)
        if not bool(((scales > 0) & scales.isfinite()).all()):
            raise Refused(
                f"the scales of {name} are not all finite and above 0. Restore the folder from where it was saved.",
                code="plan-mismatch",
            )
        module.weight = nn.Parameter(on_grid(integers, scales), requires_grad=False)
