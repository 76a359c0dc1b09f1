"""Transformers models on the packed encoder."""

from sparsam.models.families import FAMILIES, REFUSED, Family
from sparsam.models.inspect import Finding, inspect_model
from sparsam.models.lift import (
    dense_plan,
    head_alone,
    is_lifted,
    lift,
    plan_of,
    reads_class_token,
    resize,
    stack_of,
    unlift,
)

__all__ = [
    "FAMILIES",
    "REFUSED",
    "Family",
    "Finding",
    "dense_plan",
    "head_alone",
    "inspect_model",
    "is_lifted",
    "lift",
    "plan_of",
    "reads_class_token",
    "resize",
    "stack_of",
    "unlift",
]
