"""From a budget to a plan: tables of this machine, what they say of a plan, and how fast frozen models really are."""

from sparsam.search.speed import Speed, compare
from sparsam.search.tables import Tables, tables_of

__all__ = ["Speed", "Tables", "compare", "tables_of"]
