"""Heads and filters: what each is worth, which of them stay, and how those make up for the others."""

from sparsam.structure.ftpp import FTPP

__all__ = ["FTPP"]
