"""A contestant's process talks to nobody, and the libraries' telemetry is off."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sparsam.baselines.cache import version_of


def fresh(source: str, home: Path) -> str:
    """What a fresh process prints, with a home of its own."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY")
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)], capture_output=True, text=True, timeout=240,
        env=environment | {"HOME": str(home)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_connections_are_refused_and_this_machine_is_not(tmp_path: Path) -> None:
    """Addresses and names beyond loopback end in an error; Unix sockets and loopback do not."""
    source = """
        import socket
        from sparsam.baselines.offline import keep_to_this_machine
        keep_to_this_machine()
        def tried(do):
            try:
                do()
            except ConnectionRefusedError as error:
                return "refused by us" if "talks to nobody" in str(error) else "nobody there"
            except OSError:
                return "nobody there"
        print(tried(lambda: socket.create_connection(("192.0.2.1", 443), timeout=1)))
        print(tried(lambda: socket.getaddrinfo("example.org", 443)))
        print(tried(lambda: socket.create_connection(("127.0.0.1", 9), timeout=1)))
        print(tried(lambda: socket.socket(socket.AF_UNIX).connect("/no/such")))
    """
    assert fresh(source, tmp_path).splitlines() == ["refused by us"] * 2 + ["nobody there"] * 2


def test_the_package_imports_nothing_before_it_is_offline(tmp_path: Path) -> None:
    """``python -m sparsam.baselines`` sets the environment before torch, transformers or a hub client are there."""
    source = """
        import sys
        import sparsam.baselines.__main__
        print(sorted({"torch", "transformers", "huggingface_hub", "numpy", "onnxruntime", "openvino"} & set(sys.modules)))
    """
    assert fresh(source, tmp_path) == "[]"


@pytest.mark.skipif(version_of("onnxruntime") is None, reason="onnxruntime is absent")
def test_onnxruntime_keeps_no_identifier(tmp_path: Path) -> None:
    """Its telemetry would leave an identifier of the device and a database in the home; nothing is left there."""
    source = """
        from sparsam.baselines.offline import without_telemetry
        without_telemetry()
        import onnxruntime
        onnxruntime.SessionOptions()
        print(onnxruntime.get_available_providers()[-1])
    """
    assert "ExecutionProvider" in fresh(source, tmp_path)
    assert [path for path in tmp_path.rglob("*") if "onnx" in path.name or "Microsoft" in path.name] == []


@pytest.mark.skipif(version_of("nncf") is None, reason="nncf is absent")
@pytest.mark.slow  # nncf takes ten seconds to import
def test_openvino_and_nncf_find_no_telemetry(tmp_path: Path) -> None:
    """Both put a stub in its place, and leave nothing in the home."""
    source = """
        from sparsam.baselines.offline import without_telemetry
        without_telemetry()
        import sys, openvino, nncf
        from nncf.telemetry import telemetry
        from openvino.tools.ovc import telemetry as of_openvino
        print(type(telemetry).__name__, type(of_openvino).__module__, "openvino_telemetry.main" in sys.modules)
    """
    stub, module, loaded = fresh(source, tmp_path).split()
    assert (stub, loaded) == ("MagicMock", "False") and "stub" in module
    assert not (tmp_path / "intel").exists()
