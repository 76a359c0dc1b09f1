"""Levels that rows of magnitudes are rounded to: their true squared error, and the steps that make it least.

A level is a whole number of each of a few steps: ``levels = counts @ steps``, counts (j, s) rising from zero. A uniform grid
has one step, a piecewise linear one a step a piece (:mod:`~sparsam.quantization.pwlq`). Every number goes to its nearest level,
so all that matters of a row in order is how many numbers, and what sum of them, lie between two levels: sums from the left,
and a search for each midpoint, give the exact error of a candidate without touching the numbers again.

Letters: c channels (rows), n numbers of a row, k candidates, j levels (the first is zero), s steps.
"""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

EVENTS = 2**22
"""Numbers that are worked on at a time. Chosen by us: about 100 MB."""

ROUNDS = 24
"""Of least squares at most. Chosen by us; most rows stand still after ten."""


class Ordered:
    """Rows of magnitudes (c, n) in order, with sums from the left."""

    def __init__(self, magnitudes: Float[Tensor, "c n"]) -> None:
        self.rows: Float64[Tensor, "c n"] = magnitudes.double().sort(1).values
        nothing = self.rows.new_zeros(len(self.rows), 1)
        self.places = (
            self.rows.float()
        )  # what is looked up in: half the bytes, and a tie costs nothing either way
        self.sums = torch.cat([nothing, self.rows.cumsum(1)], 1)  # (c, n + 1)
        self.squares = self.rows.square().sum(1)  # (c,)

    @property
    def largest(self) -> Float64[Tensor, " c"]:
        """The end of each row."""
        return self.rows[:, -1] if self.rows.shape[1] else self.rows.new_zeros(len(self.rows))

    def cells(
        self, levels: Float64[Tensor, "c k j"]
    ) -> tuple[Float64[Tensor, "c k j"], Float64[Tensor, "c k j"]]:
        """How many numbers each level is the nearest of, and their sum. Levels rise; one in the middle goes to the lower."""
        c, k, j = levels.shape
        middles = ((levels[..., 1:] + levels[..., :-1]) / 2).flatten(1)
        inner = torch.searchsorted(self.places, middles.float()).view(c, k, j - 1)
        ends = inner.new_full((c, k, 1), self.rows.shape[1])
        edges = torch.cat([torch.zeros_like(ends), inner, ends], 2)  # (c, k, j + 1)
        sums = self.sums.gather(1, edges.flatten(1)).view_as(edges)
        return edges.diff(dim=2).double(), sums.diff(dim=2)

    def error(self, levels: Float64[Tensor, "c k j"]) -> Float64[Tensor, "c k"]:
        """The sum of squared distances of each row to each candidate's levels."""
        size = max(1, EVENTS // max(1, levels.shape[0] * levels.shape[2]))
        found = []
        for part in torch.split(levels, size, 1):
            counts, sums = self.cells(part)
            found.append(((part * counts - 2 * sums) * part).sum(2))
        return (torch.cat(found, 1) + self.squares[:, None]).clamp_(min=0.0)

    def polished(
        self, counts: Float64[Tensor, "r j s"], steps: Float64[Tensor, "c s"]
    ) -> tuple[Float64[Tensor, "c s"], Float64[Tensor, " c"]]:
        """Steps that least squares can no longer improve, and their errors: never worse than those given.

        In turn numbers go to their nearest level and steps to the least squares of that assignment, as in Lloyd's algorithm;
        a step that no number asks for stays.

        Args:
            counts: of steps in each level; one table for all rows (r = 1), or one a row.
            steps: to begin with.
        """
        best = self.error((counts @ steps[..., None]).transpose(1, 2))[:, 0]
        live = torch.arange(len(steps))
        steps = steps.clone()
        for _ in range(ROUNDS):
            if not len(live):
                break
            part, table = self.of(live), counts if len(counts) == 1 else counts[live]
            n, x = part.cells((table @ steps[live][..., None]).transpose(1, 2))  # (c, 1, j)
            matrix = (table * n.transpose(1, 2)).transpose(1, 2) @ table  # (c, s, s)
            wanted = (table * x.transpose(1, 2)).sum(1)  # (c, s)
            hold = matrix.diagonal(dim1=1, dim2=2).sum(1, keepdim=True) * 1e-12 + 1e-300
            matrix = matrix + torch.diag_embed(hold.expand_as(wanted))
            moved = torch.linalg.solve(matrix, wanted + hold * steps[live])
            moved = torch.where((moved > 0) & moved.isfinite(), moved, steps[live])
            error = part.error((table @ moved[..., None]).transpose(1, 2))[:, 0]
            before = best[live]
            better = error < before
            at = live[better]
            steps[at], best[at] = moved[better], error[better]
            # less than a hundred thousandth is left to win where it was the last step
            live = at[(before - error)[better] > 1e-5 * error[better]]
        return steps, best

    def of(self, rows: Int64[Tensor, " r"]) -> "Ordered":
        """Some of the rows."""
        part = object.__new__(Ordered)
        part.rows, part.places = self.rows[rows], self.places[rows]
        part.sums, part.squares = self.sums[rows], self.squares[rows]
        return part


def exact_scale(
    magnitudes: Float[Tensor, "c n"], levels: Float64[Tensor, " j"]
) -> tuple[Float64[Tensor, " c"], Float64[Tensor, " c"]]:
    """The scale of fixed levels with the least squared error of all scales, and that error. Levels rise from zero.

    As the scale falls from infinity, numbers climb from level to level, each at its own moment x / (the middle of two levels).
    Between moments the assignment stands, its least squares scale is B / C and its error ``sum x^2 - B^2 / C`` with B the sum
    of x times level and C that of squared levels; the least of them over all moments is the least error there is, for at that
    scale no other assignment is nearer. Source: derived for this file. n (j - 1) moments a row are put in order.
    """
    middles, climb = (levels[1:] + levels[:-1]) / 2, levels.diff()
    widen = levels[1:].square() - levels[:-1].square()
    scales, errors = [], []
    for part in torch.split(magnitudes.double(), max(1, EVENTS // max(1, magnitudes.shape[1] * len(climb)))):
        moments = (part[..., None] / middles).flatten(1)
        order = moments.argsort(1, descending=True)
        b = (part[..., None] * climb).flatten(1).gather(1, order).cumsum(1)  # (c, n (j - 1))
        c = widen.repeat(part.shape[1])[order].cumsum(1)
        best = (b.square() / c).argmax(1, keepdim=True) if order.shape[1] else order.new_zeros(len(part), 0)
        top, width = b.gather(1, best).sum(1), c.gather(1, best).sum(1)
        scales.append(torch.where(top > 0, top / width.clamp(min=1e-300), 1.0))
        gain = torch.where(top > 0, top.square() / width.clamp(min=1e-300), 0.0)
        errors.append((part.square().sum(1) - gain).clamp_(min=0.0))
    return torch.cat(scales), torch.cat(errors)
