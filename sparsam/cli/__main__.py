"""``python -m sparsam.cli``: the same as the command ``sparsam``."""

import sys

from sparsam.cli import main

if __name__ == "__main__":
    sys.exit(main())
