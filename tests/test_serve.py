"""examples/serve.py: answers are the frozen model's, bad input and a full queue are said, and it stops."""

import asyncio
import importlib.util
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints

import sparsam

for extra in ("fastapi", "uvicorn"):
    pytest.importorskip(extra, reason=f"{extra} is not installed: pip install 'sparsam[serve]'")
httpx: Any = pytest.importorskip("httpx", reason="httpx is not installed: pip install 'sparsam[serve]'")

SCRIPT = Path(__file__).parent.parent / "examples" / "serve.py"
spec = importlib.util.spec_from_file_location("serve_example", SCRIPT)
assert spec is not None and spec.loader is not None
serve: Any = importlib.util.module_from_spec(spec)
sys.modules["serve_example"] = serve
spec.loader.exec_module(serve)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT that drops tokens."""
    return tiny_checkpoints.text_checkpoints(tmp_path_factory.mktemp("texts")).half


class Watched:
    """A frozen model, or what stands in for one, that remembers what it was asked; it may be held up."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.calls, self.threads = answer, [], set()
        self.go = threading.Event()
        self.go.set()
        self.labels = {0: "one", 1: "two", 2: "three"}

    def predict(self, texts: list[Any], *, batch: int) -> Any:
        assert batch == len(texts)
        self.threads.add(threading.current_thread().name)
        assert self.go.wait(30)
        self.calls.append(list(texts))
        return self.answer(texts)


def in_app(model: Watched, work: Any, most: int = 4, wait: float = 0.05, room: int = 8) -> Any:
    """What ``work`` finds, given a client of an app around the model, and its batcher; no socket is opened."""

    async def run() -> Any:
        batcher = serve.Batcher(lambda: model, most, wait, room)
        app = serve.make_app(batcher, "stand-in")
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return await work(client, batcher)

    return asyncio.run(run())


def numbers(texts: list[Any]) -> Any:
    """Logits that say which text they are of."""
    return np.array([[0, float(text if isinstance(text, str) else text[0]), 0] for text in texts], np.float32)


def test_server_answers_what_the_frozen_model_answers(half: Path) -> None:
    """Concurrent requests over a real socket: alone, bit for bit; in batches, up to the last bit; then it stops at SIGTERM."""
    frozen = sparsam.load(half).frozen
    asked: list[list[Any]] = [tiny_checkpoints.texts(1 + seed % 5, seed) for seed in range(20)]
    asked += [[["3 5 7", "11 2"], ["1", "9 9 9"]]]
    wanted = [frozen.predict([x if isinstance(x, str) else tuple(x) for x in texts]) for texts in asked]

    def post(address: str, texts: list[Any]) -> Any:
        got = httpx.post(f"{address}/predict", json={"texts": texts}, timeout=60, trust_env=False)
        assert got.status_code == 200, got.text
        return got.json()

    for batch, exact in (("1", True), ("32", False)):
        with serve.running(str(half), "--batch", batch, "--wait", "5", "--threads", "1") as (
            address,
            process,
        ):
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda texts, to=address: post(to, texts), asked))
            for found, logits in zip(answers, wanted, strict=True):
                given = np.array(found["logits"], np.float32)
                assert np.array_equal(given, logits) if exact else np.allclose(given, logits, atol=1e-5)
                assert found["labels"] == [frozen.labels[int(row.argmax())] for row in logits]
            health = httpx.get(f"{address}/health", trust_env=False).json()
            assert health["status"] == "ok" and health["answered"] == sum(map(len, asked))
            assert health["batches"] == len(asked) if exact else health["batches"] <= len(asked)
            bad = httpx.post(f"{address}/predict", json={"texts": []}, trust_env=False)
            assert bad.status_code == 422 and "at least 1 item" in bad.text
        assert process.returncode in (0, -signal.SIGTERM)


def test_answers_in_a_batch_are_the_batch_s_bit_for_bit(half: Path) -> None:
    """Whatever requests a batch is made of, each gets its own rows of what the model says of all of it."""
    model = Watched(sparsam.load(half).frozen.predict)
    frozen = sparsam.load(half).frozen
    texts = tiny_checkpoints.texts(24, 3)

    async def work(client: Any, batcher: Any) -> list[Any]:
        return await asyncio.gather(*(client.post("/predict", json={"texts": [text]}) for text in texts))

    found = dict(zip(texts, in_app(model, work, most=8, room=64), strict=True))
    assert sum(map(len, model.calls)) == 24 and max(map(len, model.calls)) > 1
    assert model.threads == {"model_0"}, "one thread owns the model"
    for call in model.calls:
        for text, logits in zip(call, frozen.predict(call), strict=True):
            assert np.array_equal(np.array(found[text].json()["logits"][0], np.float32), logits)


def test_a_batch_closes_when_it_is_full_or_late() -> None:
    """What waits together goes together, up to so many texts, in the order it came; one request is never divided."""
    model = Watched(numbers)

    async def work(client: Any, batcher: Any) -> list[Any]:
        model.go.clear()
        first = asyncio.create_task(client.post("/predict", json={"texts": ["0"]}))
        while batcher.queue.qsize() or not model.threads:
            await asyncio.sleep(0.01)
        rest = []
        for texts in (["1", "2"], ["3"], ["4", "5"], ["6", "7", "8", "9", "10"], ["11"]):
            rest.append(asyncio.create_task(client.post("/predict", json={"texts": texts})))
            await asyncio.sleep(0.02)
        model.go.set()
        return await asyncio.gather(first, *rest)

    found = in_app(model, work)
    assert [one.json()["logits"][0][1] for one in found] == [0, 1, 3, 4, 6, 11]
    assert model.calls == [["0"], ["1", "2", "3"], ["4", "5"], ["6", "7", "8", "9", "10"], ["11"]]


def test_a_full_queue_is_a_503_at_once() -> None:
    """Beside the request in work and those that may wait, the next is refused, with when to come back; the rest is answered."""
    model = Watched(numbers)

    async def work(client: Any, batcher: Any) -> Any:
        model.go.clear()
        waiting = [asyncio.create_task(client.post("/predict", json={"texts": ["1"]}))]
        while batcher.queue.qsize() or not model.threads:
            await asyncio.sleep(0.01)
        waiting += [asyncio.create_task(client.post("/predict", json={"texts": ["1"]})) for _ in range(2)]
        while batcher.queue.qsize() < 2:
            await asyncio.sleep(0.01)
        refused = await client.post("/predict", json={"texts": ["1"]})
        assert (await client.get("/health")).json()["waiting"] == 2
        model.go.set()
        return refused, await asyncio.gather(*waiting)

    refused, answered = in_app(model, work, most=1, room=2)
    assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
    assert refused.json()["detail"] == "2 requests wait already; try again in a second."
    assert [one.status_code for one in answered] == [200, 200, 200]


def test_what_waits_is_answered_before_it_stops() -> None:
    """Stopping lets the requests through that came before."""

    async def run() -> list[Any]:
        model = Watched(numbers)
        batcher = serve.Batcher(lambda: model, 1, 0.0, 8)
        await batcher.start()
        model.go.clear()
        asked = [asyncio.create_task(batcher.ask([str(number)])) for number in range(4)]
        await asyncio.sleep(0.05)
        stopping = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0.05)
        assert not stopping.done()
        model.go.set()
        await stopping
        return [float((await one)[0, 1]) for one in asked]

    assert asyncio.run(run()) == [0, 1, 2, 3]


def test_one_bad_request_does_not_take_its_batch_along(caplog: pytest.LogCaptureFixture) -> None:
    """What fails together is tried one by one: only the one that fails alone gets no answer."""
    model = Watched(numbers)

    async def work(client: Any, batcher: Any) -> list[Any]:
        asked = [batcher.ask([text]) for text in ("1", "no number", "2")] + [batcher.ask([("3", "4")])]
        return await asyncio.gather(*asked, return_exceptions=True)

    one, failed, two, pair = in_app(model, work)
    assert isinstance(failed, ValueError)
    assert [float(logits[0, 1]) for logits in (one, two, pair)] == [1, 2, 3]
    assert "a batch of 3 requests failed" in caplog.text
    assert all(len({type(text) for text in call}) == 1 for call in model.calls), "pairs go by themselves"


@pytest.mark.parametrize(
    ("body", "where", "what"),
    [
        (b"{", "body", "JSON"),
        (b"[]", "body", "dictionary"),
        (b"{}", "body.texts", "required"),
        (b'{"texts": "one"}', "body.texts", "list"),
        (b'{"texts": []}', "body.texts", "at least 1 item"),
        (b'{"texts": [1]}', "body.texts.0", "string"),
        (b'{"texts": [["a"]]}', "body.texts.0", "at least 2 items"),
        (b'{"texts": ["a", ["b", "c"]]}', "body.texts", "do not go into one request"),
        (b'{"texts": ["a"], "more": 1}', "body.more", "not permitted"),
        (b'{"texts": ["\\ud800"]}', "body.texts.0", "unicode"),
        (b'{"texts": ["' + b"a" * 20_001 + b'"]}', "body.texts.0", "at most 20000 characters"),
        (b'{"texts": [' + b", ".join([b'"a"'] * 65) + b"]}", "body.texts", "at most 64 items"),
    ],
)
def test_bad_input_is_a_422_that_says_what(body: bytes, where: str, what: str) -> None:
    """Where it was wrong and what was expected, and the model is not asked."""
    model = Watched(numbers)

    async def work(client: Any, batcher: Any) -> Any:
        return await client.post("/predict", content=body, headers={"content-type": "application/json"})

    found = in_app(model, work)
    assert found.status_code == 422
    said = found.json()["detail"]
    assert any(one["where"].startswith(where) and what.lower() in one["what"].lower() for one in said), said
    assert model.calls == []


def test_what_it_cannot_serve_is_said(tmp_path: Path) -> None:
    """A folder that is not there: sparsam's own words, exit code 1, no traceback."""
    command = [sys.executable, str(SCRIPT), str(tmp_path / "none"), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.startswith("error: there is no folder")
    made = tiny_checkpoints.image_checkpoints(tmp_path)
    with pytest.raises(ValueError, match="reads images; this example serves texts"):
        serve.loading(str(made.half), None)()
    with pytest.raises(SystemExit):
        serve.main([])


@pytest.mark.slow  # starts two servers, one after the other
def test_load_test_prints_what_stands_in_serve_out(capsys: pytest.CaptureFixture[str]) -> None:
    """The lines of serve.out, with other figures."""
    asked = ["--load-test", "tiny", "--requests", "24", "--clients", "4", "--threads", "1", "--seconds", "20"]
    serve.main(asked)

    def shape(text: str) -> list[str]:
        return [re.sub(r"[\d.]+", "#", " ".join(line.split())) for line in text.strip().splitlines()]

    out = SCRIPT.with_suffix(".out").read_text(encoding="utf-8")
    assert shape(capsys.readouterr().out) == shape(out)[1:]
    assert out.startswith("$ python examples/serve.py --load-test tiny")


def test_load_test_is_bounded_in_time() -> None:
    """Clients stop at the end of their time, however many requests are left."""

    async def slow() -> Any:
        async def answer(reader: Any, writer: Any) -> None:
            while await reader.read(4096):
                await asyncio.sleep(0.05)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            return await serve.ask_many(address, ["a"] * 10_000, clients=2, seconds=0.3)

    took, whole = asyncio.run(slow())
    assert 1 <= len(took) < 40 and whole < 10
