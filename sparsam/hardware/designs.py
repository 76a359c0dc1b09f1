"""The designs: each name is a module of this package with ``check(machine)`` and ``layer_cost(layer, machine, how)``.

A design that carries something from layer to layer (SpAtten: which tokens and heads are left) offers
``start(machine, how, workload)`` too; what it returns is passed to each ``layer_cost`` of the run as ``carry``.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from sparsam.errors import Refused
from sparsam.hardware.cost import LayerCost
from sparsam.hardware.machine import Machine
from sparsam.workload import Layer, Workload

DESIGNS = {
    "dense": "sparsam.hardware.dense",
    "tensordash": "sparsam.hardware.tensordash",
    "griffin": "sparsam.hardware.griffin",
    "s2engine": "sparsam.hardware.s2engine",
    "fpraker": "sparsam.hardware.fpraker",
    "spatten": "sparsam.hardware.spatten",
    "sparch": "sparsam.hardware.sparch",
}
"""Name of a design, and the module that simulates it."""


class Design(Protocol):
    """What a module of a design offers."""

    @staticmethod
    def check(machine: Machine) -> None:
        """Raise Refused ``machine-parameter`` for parameters that no such machine can have."""

    @staticmethod
    def layer_cost(layer: Layer, machine: Machine, how: Any) -> LayerCost:
        """A layer on the machine. Raises :class:`NotComputed` for one that the design leaves to others."""


@runtime_checkable
class Carrying(Protocol):
    """A design whose layers depend on those before."""

    @staticmethod
    def check(machine: Machine) -> None:
        """As of :class:`Design`."""

    @staticmethod
    def start(machine: Machine, how: Any, workload: Workload) -> Any:
        """A fresh carry for one run over the workload; ``layer_cost`` changes it."""

    @staticmethod
    def layer_cost(layer: Layer, machine: Machine, how: Any, carry: Any) -> LayerCost:
        """As of :class:`Design`, after the layers that ``carry`` has seen."""


class NotComputed(Exception):
    """The design does not compute such a layer; the text says why."""


def design_of(machine: Machine) -> Design | Carrying:
    """The module that simulates a machine, its parameters checked.

    Raises:
        Refused: ``machine-invalid`` for an unknown design, and those of the design's check.
    """
    if machine.design not in DESIGNS:
        raise Refused(
            f"machine {machine.name} is of design {machine.design!r}; known are {', '.join(DESIGNS)}.",
            code="machine-invalid",
        )
    module: Any = import_module(DESIGNS[machine.design])
    module.check(machine)
    if "dram_pj_per_bit" in machine.parameters:
        machine.number("dram_pj_per_bit", above=-1e-12)
    return module  # type: ignore[no-any-return]


Progress = Callable[[int, int, str], None]
"""Told of each layer: its number, how many there are, its name."""
