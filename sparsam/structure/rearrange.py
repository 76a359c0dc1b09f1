"""Which units of a layer leave together: the layer's full Fisher information instead of its diagonal."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray


def rearrange(
    gradients: Float[NDArray[Any], "b u"], keep: Bool[NDArray[Any], " u"]
) -> Bool[NDArray[Any], " u"]:
    """As many units as before, chosen so that the pruned ones cost less together (Kwon et al. 2022, section 3.3).

    Removing the set P changes a loss, to second order, by the squared sum of P's gradients, sample by sample. One greedy pass:
    each other unit, from the smallest on, joins P, and the member leaves whose leaving costs least. The cost without i is
    |s|^2 - 2 s.g_i + |g_i|^2 with the running sum s, so a step takes one row of the Gram matrix. Never worse than the start.

    Args:
        gradients: of each sample's (or batch's) loss by each unit's gate.
        keep: how many are kept; which is found anew.
    """
    wide = gradients.astype(np.float64)
    gram = wide.T @ wide
    norms = np.diag(gram).copy()
    order = np.argsort(norms, kind="stable")
    count = int((~keep).sum())
    pruned = np.zeros(len(keep), bool)
    pruned[order[:count]] = True
    if not 0 < count < len(keep):
        return ~pruned
    towards = gram[:, pruned].sum(1)  # s.g_i of every unit
    for joining in order[count:]:
        pruned[joining] = True
        towards += gram[joining]
        members = np.flatnonzero(pruned)
        leaving = members[int(np.argmin((norms - 2 * towards)[members]))]
        pruned[leaving] = False
        towards -= gram[leaving]
    return ~pruned


def cost(gradients: Float[NDArray[Any], "b u"], keep: Bool[NDArray[Any], " u"]) -> float:
    """What removing the units that are not kept costs: the squared norm of their summed gradients."""
    return float(np.square(gradients.astype(np.float64)[:, ~keep].sum(1)).sum())
