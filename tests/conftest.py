"""What holds for every test: fixed seeds, one thread, no model hub, no connection beyond this machine."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # before torch or numpy start their threads
os.environ["MKL_NUM_THREADS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["SPARSAM_PROVENANCE"] = "0"  # commands under test leave no .sparsam behind; tests of that say so

import ipaddress
import random
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SEED = 20261121


class ConnectionBeyondLoopback(RuntimeError):
    """A test reached for the network."""


_reached: list[
    str
] = []  # what the running test reached for, also where the library under test caught the error


def _is_local(host: object) -> bool:
    if host is None or host in ("", "localhost", b"localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return False


def _guard(event: str, args: tuple) -> None:
    """Audit hook: refuses connections and name look-ups that leave this machine. Child processes have no guard."""
    if event in ("socket.connect", "socket.sendto"):
        address = args[1]
        host = address[0] if isinstance(address, tuple) else None  # a path is a Unix socket
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    if not _is_local(host):
        _reached.append(f"{event} {host!r}")
        raise ConnectionBeyondLoopback(f"{event} to {host!r}: tests talk to nobody but this machine")


sys.addaudithook(_guard)


@pytest.fixture(autouse=True)
def reached_hosts():
    """Hosts beyond loopback that the running test reached for; the test fails if any is left in the list."""
    _reached.clear()
    yield _reached
    if _reached:
        pytest.fail(f"the test reached beyond this machine: {', '.join(_reached)}", pytrace=False)


@pytest.fixture(autouse=True)
def fixed_seeds():
    """Every test starts from the same random state, on one thread."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002  for libraries that still draw from the global generator
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.manual_seed(SEED)
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data sets and models: ``SPARSAM_SHARED``, or ``../shared`` beside the repository."""
    default = Path(__file__).parent.parent.parent / "shared"
    folder = Path(os.environ.get("SPARSAM_SHARED", default))
    if not (folder / "data").is_dir():
        pytest.skip(
            f"no shared data at {folder}; set SPARSAM_SHARED to the folder that holds data/ and models/"
        )
    return folder


@pytest.fixture(scope="session")
def tiny() -> Any:
    """Builders of tiny random models of every family, and of their inputs."""
    import tiny_models

    return tiny_models.BUILDERS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests wait to be asked for."""
    if os.environ.get("SPARSAM_LONG") != "1":
        skip = pytest.mark.skip(reason="takes minutes; SPARSAM_LONG=1 asks for it")
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(skip)
