"""The methods of ``--method``, and how the options given become a method's arguments."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from sparsam.errors import Usage

if TYPE_CHECKING:
    from sparsam.compress import Method

MethodName = Literal["ltp", "ftpp", "ltp+ftpp", "top-k", "linear-threshold", "random"]


def _ltp(**given: Any) -> "list[Method]":
    from sparsam.tokens import LTP

    return [LTP(**_arguments([LTP], "ltp", given)[0])]


def _ftpp(**given: Any) -> "list[Method]":
    from sparsam.structure import FTPP

    return [FTPP(**_arguments([FTPP], "ftpp", given)[0])]


def _both(**given: Any) -> "list[Method]":
    from sparsam.structure import FTPP
    from sparsam.tokens import LTP

    tokens, structure = _arguments([LTP, FTPP], "ltp+ftpp", given)
    first, second = LTP(**tokens), FTPP(**structure)
    again = replace(first, soft_epochs=0.0, hard_epochs=second.recover_epochs or first.hard_epochs / 2)
    return [first, replace(second, recover_epochs=0.0), again]


def _control(name: str) -> Callable[..., "list[Method]"]:
    def build(**given: Any) -> "list[Method]":
        from sparsam.tokens.control import Control

        return [Control(name, **_arguments([Control], name, given)[0])]

    return build


METHODS: dict[MethodName, Callable[..., "list[Method]"]] = {
    "ltp": _ltp,
    "ftpp": _ftpp,
    "ltp+ftpp": _both,
    "top-k": _control("top-k"),
    "linear-threshold": _control("linear-threshold"),
    "random": _control("random"),
}
"""Every name of ``--method``, and what builds its methods, in order, from the options given."""


def _arguments(kinds: Sequence[Any], name: str, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each method's arguments from the options given; ``epochs`` is shared out as the stages of training are by default.

    Raises:
        Usage: ``epochs-twice``; ``method-option`` for an option that means nothing to any of the methods.
    """
    given = dict(given)
    takes: list[dict[str, Any]] = [{one.name: one.default for one in fields(kind)} for kind in kinds]
    known = {option: default for one in takes for option, default in one.items()}
    epochs = given.pop("epochs", None)
    stages = [stage for stage in ("soft_epochs", "hard_epochs") if stage in known]
    if epochs is not None and stages:
        twice = [_flag(stage) for stage in stages if stage in given]
        if twice:
            raise Usage(
                f"--epochs is the sum of all stages and cannot stand beside {twice[0]}. Give one of them.",
                code="epochs-twice",
            )
        total = sum(float(known[stage]) for stage in stages)
        given |= {stage: epochs * float(known[stage]) / total for stage in stages}
    foreign = [_flag(option) for option in given if option not in known]
    foreign += ["--epochs"] if epochs is not None and not stages else []
    if foreign:
        options = [*(["--epochs"] if stages else []), *(_flag(one) for one in METHOD_OPTIONS if one in known)]
        raise Usage(
            f"--method {name} does not know {', '.join(foreign)}; it takes {', '.join(options)}.",
            code="method-option",
        )
    return [{option: value for option, value in given.items() if option in one} for one in takes]


METHOD_OPTIONS = (
    "soft", "soft_epochs", "hard_epochs", "lr", "hard_lr", "weight", "temperature", "distill", "distill_states",
    "samples", "score", "rearrange", "tune", "multiple", "labels", "recover_epochs", "recover_lr",
)  # fmt: skip


def _flag(option: str) -> str:
    special = {"recover_epochs": "--recover", "rearrange": "--no-rearrange"}
    return special.get(option, "--" + option.replace("_", "-"))


assert set(METHODS) == set(get_args(MethodName))
