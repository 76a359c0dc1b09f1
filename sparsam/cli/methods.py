"""The methods of ``--method``, and how the options given become a method's arguments."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from sparsam.errors import Usage

if TYPE_CHECKING:
    from sparsam.compress import Method

MethodName = Literal["ltp", "top-k", "linear-threshold", "random"]


def _ltp(**given: Any) -> "Method":
    from sparsam.tokens import LTP

    return LTP(**_arguments(LTP, "ltp", given))


def _control(name: str) -> Callable[..., "Method"]:
    def build(**given: Any) -> "Method":
        from sparsam.tokens.control import Control

        return Control(name, **_arguments(Control, name, given))

    return build


METHODS: dict[MethodName, Callable[..., "Method"]] = {
    "ltp": _ltp,
    "top-k": _control("top-k"),
    "linear-threshold": _control("linear-threshold"),
    "random": _control("random"),
}
"""Every method of ``--method``: its name, and what builds it from the options given."""


def _arguments(kind: Any, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A method's arguments from the options given; ``epochs`` is shared out as the method's stages are by default.

    Raises:
        Usage: ``epochs-twice``; ``method-option`` for an option that means nothing to the method.
    """
    given = dict(given)
    takes: dict[str, Any] = {one.name: one.default for one in fields(kind)}
    epochs = given.pop("epochs", None)
    if epochs is not None:
        stages = [stage for stage in ("soft_epochs", "hard_epochs") if stage in takes]
        twice = [_flag(stage) for stage in stages if stage in given]
        if twice:
            raise Usage(
                f"--epochs is the sum of all stages and cannot stand beside {twice[0]}. Give one of them.",
                code="epochs-twice",
            )
        total = sum(float(takes[stage]) for stage in stages)
        given |= {stage: epochs * float(takes[stage]) / total for stage in stages}
    foreign = [_flag(option) for option in given if option not in takes]
    if foreign:
        known = [option for option in METHOD_OPTIONS if option in takes]
        raise Usage(
            f"--method {name} does not know {', '.join(foreign)}; it takes --epochs, {', '.join(map(_flag, known))}.",
            code="method-option",
        )
    return given


METHOD_OPTIONS = (
    "soft", "soft_epochs", "hard_epochs", "lr", "hard_lr", "weight", "temperature", "distill", "distill_states",
)  # fmt: skip


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")


assert set(METHODS) == set(get_args(MethodName))
