"""Where the program takes its tensors to lie, if that is a device that is not here.

What a program puts on "cuda" is made on the CPU, so that sizes and types are checked as ever, and bears a mark: the device
that was named. An operator's results lie where its tensors do. Until another device is named there are no marks, and all
tensors lie on the CPU; from then on a tensor whose place cannot be told (which a function of the framework made for
itself, say) is marked so, and nothing is said of it.

Torch's own tensors without data can have any device, too; their operators would then be those of that device, of which this
build of torch has neither kernels nor the choice between them. FakeTensor's `fake_device` therefore stays the CPU.
"""

import re
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _device
from torch.utils._pytree import tree_leaves, tree_map

from sparsam.shapes.notes import notes_of

CPU = torch.device("cpu")
ELSEWHERE = ("cuda", "mps", "xpu")
ABOUT_DEVICES = re.compile(r"on the same device|device type tensor to numpy|1D CPU int64 tensor")
"""What is said of a tensor's device."""
PLACED = "placed"  # attribute of a tensor: where it lies, if that is not where it was made
CHECKED = "cuda"  # the kind of device whose kernels are known to compare devices


def named(device: Any) -> torch.device | None:
    """The device that a value names, if it is one that this framework may be built without, else None."""
    if isinstance(device, bool) or not isinstance(device, (int, str, torch.device)):
        return None
    if isinstance(device, int):
        return torch.device("cuda", device) if device >= 0 else None
    kind, _, number = str(device).partition(":")
    known = kind in ELSEWHERE and (not number or number.isdigit())
    return torch.device(kind, int(number or 0)) if known else None


def place(tensor: Any) -> torch.device | None:
    """Where a tensor lies; None where that cannot be told."""
    if type(tensor) is not FakeTensor:
        return None
    found: torch.device | None = tensor.__dict__.get(PLACED, tensor.fake_device)
    return found


def shown(tensor: torch.Tensor) -> torch.device:
    """The device that the program sees, the CPU where it cannot be told."""
    if type(tensor) is not FakeTensor:
        return tensor.device
    return place(tensor) or tensor.fake_device


def tensors(arguments: Any) -> list[torch.Tensor]:
    """All tensors among arguments."""
    return [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor)]


def mark(tensor: Any, where: torch.device | None) -> None:
    """Notes where a tensor lies."""
    if type(tensor) is FakeTensor:
        tensor.placed = where  # type: ignore[attr-defined]


# -- calls of the program ---------------------------------------------------------------------------------------------


def asked(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], already: bool
) -> tuple[torch.device | None, tuple[Any, ...], dict[str, Any]]:
    """The device that a call names for its result, and the call for the CPU.

    Args:
        func: A function of the framework.
        args: As the program gives them.
        kwargs: The same.
        already: Whether another device has been named before; else only such a device is of interest.
    """
    target = None
    if kwargs.get("device") is not None and func is not torch.device:
        target = named(kwargs["device"]) or _here(kwargs["device"])
        if target is not None and target != CPU:
            kwargs = {**kwargs, "device": "cpu"}
    elif func is torch.Tensor.to:
        target, args = _moved(args)
        target = target or (place(kwargs["other"]) if "other" in kwargs else None)
    elif func is torch.Tensor.cpu:
        target = CPU
    elif func is torch.Tensor.type_as:
        target = place(args[1]) if len(args) > 1 else None
    elif (already or _device.CURRENT_DEVICE is not None) and _makes(func, args, kwargs):
        target = named(_device.CURRENT_DEVICE) or CPU
        if target != CPU:
            kwargs = {**kwargs, "device": "cpu"}
    return (target if already or target != CPU else None), args, kwargs


def _here(device: Any) -> torch.device | None:
    return CPU if isinstance(device, (str, torch.device)) and str(device) == "cpu" else None


def _makes(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a call makes a tensor of nothing but numbers."""
    return func in _device._device_constructors() and not tensors((args, kwargs))


def _moved(args: tuple[Any, ...]) -> tuple[torch.device | None, tuple[Any, ...]]:
    """Of `x.to(…)`: the device, a number, or the place of a tensor among the arguments; and the arguments for the CPU."""
    for number, value in enumerate(args[1:], 1):
        if isinstance(value, torch.Tensor):
            return place(value), args
        where = named(value)
        if where is not None and (number == 1 or not isinstance(value, int)):
            return where, (*args[:number], "cpu", *args[number + 1 :])
        if _here(value) is not None:
            return CPU, args
    return None, args


def put(answer: Any, target: torch.device, given: Any) -> Any:
    """The result of a call, marked as lying on the device that the call names: a copy where it is an argument itself."""
    before = {id(tensor) for tensor in tensors(given)}

    def moved(value: Any) -> Any:
        if type(value) is not FakeTensor:
            return value
        if id(value) in before and place(value) != target:
            known = notes_of(value)
            value = value.clone()
            value.__dict__.update(known)
        mark(value, target)
        return value

    return moved(answer) if isinstance(answer, torch.Tensor) else tree_map(moved, answer)


# -- operators --------------------------------------------------------------------------------------------------------


def carry(func: Any, args: Any, kwargs: Any, answer: Any, where: torch.device | None) -> None:
    """Marks what an operator made: it lies `where` that is named, else where the operator's tensors do."""
    given = tensors((args, kwargs))
    before = {id(tensor) for tensor in given}
    if where is None and kwargs.get("device") is None and _name(func) not in UNTOLD:
        places = {place(tensor) for tensor in given}
        far = [found for found in places if found is not None and found != CPU]
        where = far[0] if len(far) == 1 else CPU if places == {CPU} else None
    for made in tensors(answer):
        if id(made) not in before:
            mark(made, where)


UNTOLD = frozenset({"_pack_padded_sequence", "_pad_packed_sequence", "set", "resize_as", "record_stream"})
"""Operators some of whose results lie on the CPU, or that only look at sizes."""


def refuse(func: Any, args: Any, kwargs: Any) -> None:
    """Raises what kernels say of tensors on two devices.

    Raises:
        RuntimeError: If tensors certainly lie on the CPU and on another device, and the operator is known to compare them.
            Tensors of no dimension on the CPU go with all others.
    """
    name = _name(func)
    if name not in COMPARING and name not in INDEXING:
        return
    given = [(place(tensor), tensor) for tensor in tensors((args, kwargs))]
    far = next((where for where, _ in given if where is not None and where.type == CHECKED), None)
    if far is None:
        return
    if name in INDEXING:
        if given[0][0] == CPU and given[0][1].dim():
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
            )
        return
    if any(where == CPU and tensor.dim() and not _nothing(tensor) for where, tensor in given):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {far} and cpu!"
        )


def _nothing(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a list of no numbers, as which some programs begin to gather."""
    size = tensor.shape[0]
    return tensor.dim() == 1 and type(size) is int and size == 0


def _name(func: Any) -> str:
    schema = getattr(func, "_schema", None)
    return "" if schema is None else str(schema.name).removeprefix("aten::").rstrip("_")


_COMPARING = """
add sub rsub mul div pow maximum minimum fmax fmin atan2 fmod remainder floor_divide hypot lerp addcmul addcdiv
eq ne lt le gt ge logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor where
mse_loss smooth_l1_loss huber_loss binary_cross_entropy
mm bmm addmm baddbmm addbmm addmv mv dot linear convolution
mkldnn_rnn_layer native_batch_norm _native_batch_norm_legit native_layer_norm native_group_norm
embedding index_select gather cat stack nll_loss_forward nll_loss2d_forward
"""
COMPARING = frozenset(_COMPARING.split())
"""Operators that refuse tensors on a GPU together with others on the CPU, whatever else they are given."""
INDEXING = frozenset({"index"})
"""Operators whose indices may lie on the CPU."""
