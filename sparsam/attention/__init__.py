"""Attention functions on packed tokens."""

from sparsam.attention.softmax import attend, reference

__all__ = ["attend", "reference"]
