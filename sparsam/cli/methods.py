"""The methods of ``--method``, and how the options given become a method's arguments."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from sparsam.errors import Usage

if TYPE_CHECKING:
    from sparsam.compress import Method

MethodName = Literal[
    "ltp",
    "ftpp",
    "ltp+ftpp",
    "int8",
    "ltp+int8",
    "ftpp+int8",
    "ltp+ftpp+int8",
    "top-k",
    "linear-threshold",
    "random",
]


def _named(name: str) -> Callable[..., "list[Method]"]:
    """What builds the methods whose names stand in ``name``, with a plus between them."""

    def build(**given: Any) -> "list[Method]":
        from sparsam.quantization.int8 import Int8
        from sparsam.structure import FTPP
        from sparsam.tokens import LTP

        kinds: list[Any] = [{"ltp": LTP, "ftpp": FTPP, "int8": Int8}[part] for part in name.split("+")]
        arguments = _arguments(kinds, name, given)
        made: list[Any] = [kind(**one) for kind, one in zip(kinds, arguments, strict=True)]
        if kinds[:2] == [LTP, FTPP]:
            first, second = made[:2]
            again = replace(
                first, soft_epochs=0.0, hard_epochs=second.recover_epochs or first.hard_epochs / 2
            )
            made[1:2] = [replace(second, recover_epochs=0.0), again]
        return made

    return build


def _control(name: str) -> Callable[..., "list[Method]"]:
    def build(**given: Any) -> "list[Method]":
        from sparsam.tokens.control import Control

        return [Control(name, **_arguments([Control], name, given)[0])]

    return build


METHODS: dict[MethodName, Callable[..., "list[Method]"]] = {
    "ltp": _named("ltp"),
    "ftpp": _named("ftpp"),
    "ltp+ftpp": _named("ltp+ftpp"),
    "int8": _named("int8"),
    "ltp+int8": _named("ltp+int8"),
    "ftpp+int8": _named("ftpp+int8"),
    "ltp+ftpp+int8": _named("ltp+ftpp+int8"),
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
    "bits", "sensitivity", "bitops", "inputs", "range", "clip", "correct", "smooth", "embeddings", "qat_epochs", "qat_lr",
)  # fmt: skip


def _flag(option: str) -> str:
    special = {
        "recover_epochs": "--recover", "rearrange": "--no-rearrange", "qat_epochs": "--qat",
    }  # fmt: skip
    return special.get(option, "--" + option.replace("_", "-"))


assert set(METHODS) == set(get_args(MethodName))
