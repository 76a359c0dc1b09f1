"""Optimizers and schedulers: they keep the sizes of what they change, so their arithmetic needs not run."""

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim import lr_scheduler


def step(self: Any, closure: Callable[[], Any] | None = None, *args: Any, **kwargs: Any) -> Any:
    """`optimizer.step()`: calls the closure, as it would."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def advance(self: Any, *args: Any, **kwargs: Any) -> None:
    """`scheduler.step()`."""


def clip(parameters: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`clip_grad_norm_`: the norm is a number that only data know."""
    return torch.empty(())


def keep(parameters: Any, *args: Any, **kwargs: Any) -> None:
    """`clip_grad_value_`."""


def convert(
    self: torch.nn.Module, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True
) -> torch.nn.Module:
    """`module.to()`, `.double()`, `.cuda()` …: parameters and buffers change their dtype and device and stay themselves."""
    if recurse:
        for module in self.children():
            module._apply(fn)
    for parameter in self._parameters.values():
        if parameter is None:
            continue
        with torch.no_grad():
            made = fn(parameter)
            grad = None if parameter.grad is None else fn(parameter.grad)
        if made is not parameter and (made.dtype, made.device) != (parameter.dtype, parameter.device):
            parameter.grad = None
            _become(parameter, made)
            if grad is not None:
                parameter.grad = grad
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = fn(buffer)
    return self


def scaled(self: Any, outputs: Any) -> Any:
    """`scaler.scale(loss)`: a scaled loss has the sizes of the loss."""
    return outputs


def step_scaled(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
    """`scaler.step(optimizer)`."""
    return optimizer.step(*args, **kwargs)


def _become(parameter: torch.Tensor, made: torch.Tensor) -> None:
    if isinstance(parameter, FakeTensor) and isinstance(made, FakeTensor):
        parameter.fake_device = made.fake_device
    parameter.data = made


def started(least: int, most: int | None = None) -> Callable[..., torch.Tensor]:
    """A function of `torch.nn.init` for tensors of so many dimensions: which values it sets does not matter."""

    def initialize(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if tensor.dim() < least:
            raise ValueError(
                f"Fan in and fan out can not be computed for tensor with fewer than {least} dimensions"
            )
        if most is not None and tensor.dim() > most:
            raise ValueError(f"Only tensors with {least} to {most} dimensions are supported")
        return tensor

    return initialize


STARTS = {
    0: ("uniform_", "normal_", "trunc_normal_", "constant_", "ones_", "zeros_"),
    2: (
        "xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "orthogonal_",
    ),
}  # fmt: skip


def patches() -> list[tuple[Any, str, Any]]:
    """(owner, attribute, stand-in) for all of this module."""
    optimizers = {kind for kind in vars(torch.optim).values() if isinstance(kind, type)}
    found: list[tuple[Any, str, Any]] = [
        (kind, "step", step)
        for kind in optimizers
        if issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    ]
    schedulers = [kind for kind in vars(lr_scheduler).values() if isinstance(kind, type)]
    found += [
        (kind, "step", advance)
        for kind in schedulers
        if issubclass(kind, lr_scheduler.LRScheduler)
        and "step" in vars(kind)
        and kind is not lr_scheduler.LRScheduler
    ]
    found += [
        (torch.nn.Module, "_apply", convert),
        (torch.amp.GradScaler, "scale", scaled),
        (torch.amp.GradScaler, "step", step_scaled),
        (torch.amp.GradScaler, "unscale_", advance),
        (torch.amp.GradScaler, "update", advance),
        (torch.amp.GradScaler, "get_scale", lambda self: 1.0),
        (torch.nn.utils, "clip_grad_norm_", clip),
        (torch.nn.utils, "clip_grad_value_", keep),
    ]
    return found
