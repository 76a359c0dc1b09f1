"""The exactness checker: a schedule is carried out, multiplication by multiplication, and must give the product.

A design hands over what it issued: which multiplication ``a[m, k] b[n, k]`` of the product, when, in which unit, in which lane
of the unit. :func:`replayed` holds it against the operands:

- every multiplication of two numbers that are not zero is issued, and none twice;
- a lane does one multiplication at a time, and a unit has no more lanes than it has;
- what the issued multiplications sum to is the dense product, bit for bit in integers.

A schedule that fails is a fault of the simulator, not of the input; it is refused with the first offender all the same.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.workload import Gemm

Index = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Issued:
    """Multiplications as they were issued; arrays of one length.

    Args:
        m, n, k: which: ``a[m, k] b[n, k]``.
        time: the cycle.
        unit: the processing element, from 0.
        lane: its multiplier, from 0.

    Raises:
        Refused: ``replay-shape``.
    """

    m: Index
    n: Index
    k: Index
    time: Index
    unit: Index
    lane: Index

    def __post_init__(self) -> None:
        shapes = {one.shape for one in (self.m, self.n, self.k, self.time, self.unit, self.lane)}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise Refused(
                f"issued multiplications are columns of one length; got {shapes}.", code="replay-shape"
            )

    def __len__(self) -> int:
        return len(self.m)


def replayed(
    a: NDArray[Any], b: NDArray[Any], issued: Issued, *, lanes: int, units: int | None = None
) -> NDArray[Any]:
    """Carry out what was issued: the product (m, n), int64 for integers, float64 for floating point.

    Args:
        a: (m, k) integers or floating point.
        b: (n, k).
        issued: the schedule.
        lanes: multipliers of a unit.
        units: how many there are; None for as many as it takes.

    Raises:
        Refused: ``replay-shape``; ``replay-range`` for a multiplication, lane or unit that does not exist;
            ``replay-capacity`` for a lane with two multiplications in a cycle; ``replay-twice``, ``replay-missed`` and
            ``replay-result``.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise Refused(f"(m, k) and (n, k) are multiplied; got {a.shape} and {b.shape}.", code="replay-shape")
    (m, k), n = a.shape, len(b)
    most = {"m": m, "n": n, "k": k, "lane": lanes, "unit": units}
    for name, end in most.items():
        column = getattr(issued, name)
        wrong = (column < 0) | (column >= (np.iinfo(np.int64).max if end is None else end))
        if wrong.any():
            at = int(wrong.argmax())
            raise Refused(f"multiplication {at} has {name} {column[at]} of {end}.", code="replay-range")
    slots = np.stack([issued.time, issued.unit, issued.lane]).astype(np.int64)
    taken, count = np.unique(slots, axis=1, return_counts=True)
    if (count > 1).any():
        time, unit, lane = taken[:, int((count > 1).argmax())]
        raise Refused(
            f"lane {lane} of unit {unit} has {count.max()} multiplications in cycle {time}.",
            code="replay-capacity",
        )
    place = (issued.m.astype(np.int64) * n + issued.n) * k + issued.k
    times = np.bincount(place, minlength=m * n * k).reshape(m, n, k)
    if (times > 1).any():
        at3 = tuple(int(i) for i in np.argwhere(times > 1)[0])
        raise Refused(f"multiplication (m, n, k) = {at3} is issued {times[at3]} times.", code="replay-twice")
    missed = (a[:, None, :] != 0) & (b[None, :, :] != 0) & (times == 0)
    if missed.any():
        at3 = tuple(int(i) for i in np.argwhere(missed)[0])
        raise Refused(f"multiplication (m, n, k) = {at3} is never issued.", code="replay-missed")
    exact = np.issubdtype(a.dtype, np.integer) and np.issubdtype(b.dtype, np.integer)
    kind: Any = np.int64 if exact else np.float64
    wide_a, wide_b = a.astype(kind), b.astype(kind)
    found = np.zeros((m, n), kind)
    np.add.at(found, (issued.m, issued.n), wide_a[issued.m, issued.k] * wide_b[issued.n, issued.k])
    dense = wide_a @ wide_b.T
    good = (found == dense).all() if exact else np.allclose(found, dense, rtol=1e-10, atol=1e-10)
    if not good:
        at2 = tuple(int(i) for i in np.argwhere(~np.isclose(found, dense, rtol=1e-10, atol=1e-10))[0])
        raise Refused(f"result {at2} is {found[at2]}, the product {dense[at2]}.", code="replay-result")
    return found


def sums_fit(product: Gemm, bits: int, machine: str) -> None:
    """Refuse a product of integers whose sums an accumulator of so many bits does not hold; bfloat16 passes.

    Sums on the way may leave the accumulator and come back, as in hardware; what counts is the result.

    Raises:
        Refused: ``accumulator-overflow`` with the product, its sums and the machine.
    """
    if "bf16" in (product.a.format, product.b.format) or not math.prod(product.size):
        return
    most = 1 << (bits - 1)
    a, b = (max(-int(one.values.min()), int(one.values.max())) for one in (product.a, product.b))
    bound = a * b * product.size[2]
    if bound < most:
        return
    sums: NDArray[Any]
    if bound < 1 << 53:
        sums = product.a.values.astype(np.float64) @ product.b.values.T.astype(np.float64)
    elif bound < 1 << 62:
        sums = product.result()
    else:
        raise Refused(
            f"{product.name}: sums of up to {bound} are beyond 62 bits.", code="accumulator-overflow"
        )
    low, high = int(sums.min()), int(sums.max())
    if low < -most or high >= most:
        raise Refused(
            f"{product.name}: sums from {low} to {high} do not fit an accumulator of {bits} bits of machine {machine}; "
            "give accumulator_bits, or a trace of fewer bits.",
            code="accumulator-overflow",
        )
