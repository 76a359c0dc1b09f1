"""Sparse accelerators, simulated on a real run's real numbers: from a workload and a machine to a cost.

Simulated cycles are no measurement: they stand in columns of their own. Nothing here imports torch.
"""

from sparsam.hardware.cost import Cost, LayerCost
from sparsam.hardware.designs import DESIGNS
from sparsam.hardware.machine import Machine, Parameter, machines
from sparsam.hardware.simulate import How, simulate

__all__ = ["DESIGNS", "Cost", "How", "LayerCost", "Machine", "Parameter", "machines", "simulate"]
