"""The command ``sparsam``: wiring and printing, nothing else.

Standard output holds the answer: a table, or with ``--json`` exactly one JSON object. Progress, notes and errors go to
standard error. Exit codes: 0 done, 1 a fault of sparsam's own, 2 usage, 3 refused, 4 budget missed, 5 input or output,
130 interrupted.

Heavy modules are imported inside the commands, so that ``--help`` starts fast.
"""

from sparsam.cli.main import app, main

__all__ = ["app", "main"]
