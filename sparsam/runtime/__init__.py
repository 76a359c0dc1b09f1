"""Serving: a model's inference form on this machine."""

from sparsam.runtime.freeze import Batch, Frozen, freeze

__all__ = ["Batch", "Frozen", "freeze"]
