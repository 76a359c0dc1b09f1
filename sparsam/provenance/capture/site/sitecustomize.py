"""Put in front of a tracked program's path: begins tracking, then runs the sitecustomize that would have run."""

import importlib.machinery
import importlib.util
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))


def _begin() -> None:
    if "SPARSAM_TRACK" not in os.environ:
        return
    package = os.path.abspath(os.path.join(_HERE, *[os.pardir] * 4))
    sys.path.append(package)  # last, and only while sparsam is imported: this interpreter may not have it
    try:
        from sparsam.provenance.capture.start import start
    except Exception as error:
        if "SPARSAM_TRACK_DEBUG" in os.environ:
            sys.stderr.write(f"sparsam: not tracked: {type(error).__name__}: {error}\n")
        return
    finally:
        sys.path.remove(package)
    start()


def _next() -> None:
    """The program's own sitecustomize."""
    rest = [entry for entry in sys.path if os.path.abspath(entry or ".") != _HERE]
    found = importlib.machinery.PathFinder.find_spec("sitecustomize", rest)
    if found is not None and found.loader is not None:
        module = importlib.util.module_from_spec(found)
        sys.modules["sitecustomize"] = module
        found.loader.exec_module(module)


_begin()
_next()
