"""The network guard of conftest.py itself: it stops what leaves this machine and nothing else."""

import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

TEST_NET = "192.0.2.1"  # RFC 5737: reserved for documentation, nobody answers


def test_connection_beyond_loopback_is_refused(reached_hosts):
    """A connection to a foreign address raises before any packet leaves, and is remembered."""
    with socket.socket() as client, pytest.raises(RuntimeError, match=r"socket.connect to '192.0.2.1'"):
        client.connect((TEST_NET, 9))
    assert reached_hosts == [f"socket.connect {TEST_NET!r}"]
    reached_hosts.clear()


def test_name_lookup_is_refused(reached_hosts):
    """Looking up a foreign name is network use too, also where no resolver would answer."""
    with pytest.raises(RuntimeError, match=r"socket.getaddrinfo to 'huggingface.co'"):
        socket.getaddrinfo("huggingface.co", 443)
    assert reached_hosts == ["socket.getaddrinfo 'huggingface.co'"]
    reached_hosts.clear()


def test_loopback_and_unix_sockets_work(tmp_path):
    """Talking to this machine is allowed: rendezvous of worker processes needs it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))
    assert socket.getaddrinfo("localhost", 80)


def test_swallowed_attempt_still_fails_the_test(tmp_path):
    """A library that catches the guard's error does not hide the attempt."""
    (tmp_path / "conftest.py").write_text(Path(__file__).with_name("conftest.py").read_text())
    (tmp_path / "test_swallows.py").write_text(
        textwrap.dedent(
            f"""
            import socket

            def test_swallows():
                try:
                    socket.create_connection(({TEST_NET!r}, 9), timeout=0.1)
                except Exception:
                    pass

            def test_stays_at_home():
                pass
            """
        )
    )
    run = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        "--rootdir",
        str(tmp_path),
    ]
    done = subprocess.run([*run, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "reached beyond this machine: " in done.stdout
    assert "2 passed, 1 error" in done.stdout, done.stdout
