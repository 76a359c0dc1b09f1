"""The process of one contestant; see :mod:`sparsam.baselines`."""

import logging
import os
import sys
import warnings
from pathlib import Path

from sparsam.baselines.offline import keep_to_this_machine


def main(arguments: list[str]) -> int:
    """Take part as the spec says, or only export what it needs."""
    keep_to_this_machine()
    os.environ.setdefault(
        "RAYON_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "0")
    )  # the tokenizer's threads
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    from sparsam.baselines.laps import contestant, feed_of
    from sparsam.baselines.peers import peer_of
    from sparsam.baselines.spec import Spec
    from sparsam.clock import take_part

    spec = Spec.read(Path(arguments[0]))
    if arguments[1:] == ["export"]:
        exports = peer_of(spec.form).exports
        assert exports is not None, spec.form
        for entry in exports(feed_of(spec), Path(spec.cache)):
            entry.made()
        return 0
    take_part(contestant(spec))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
