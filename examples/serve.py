"""A checkpoint behind HTTP, with requests that arrive together answered together.

    pip install 'sparsam[serve]'
    python examples/serve.py runs/half                    # http://127.0.0.1:8000, until Ctrl-C or SIGTERM
    curl -H 'content-type: application/json' -d '{"texts": ["a gripping film"]}' http://127.0.0.1:8000/predict
    python examples/serve.py --load-test runs/half        # throughput and latencies with and without batching
    python examples/serve.py --load-test tiny             # the same on a model made on the spot, as in serve.out

`POST /predict` takes {"texts": [...]}, each a text or a pair of two, and answers {"labels": [...], "logits": [[...]]}. What it
cannot read is a 422 that says what was wrong; when too many wait it is a 503 at once, rather than a wait without end.
`GET /health` says that the model is loaded, and how much was answered in how many batches.

Batching: a batch closes when it has --batch texts or --wait milliseconds after its first request, whichever comes first. While
the model works on one, the next fills up. A frozen model pads nothing, so texts of any length share a batch. Logits are
those of `Frozen.predict` on the batch; alone or in company, a text's may differ in their last bit.

Threads: a frozen model is not safe to share, so one worker thread owns it; it computes on torch's threads.

    all cores for one process       python examples/serve.py DIR
                                    the shortest answers for whoever is alone, and one copy of the weights
    one process a core              for port in 8001 8002 8003 8004; do
                                        OMP_NUM_THREADS=1 taskset -c $((port - 8001)) \\
                                            python examples/serve.py DIR --port $port &
                                    done
                                    behind a proxy that deals requests out: no thread waits for another

Never both: processes that each take all cores wait for one another. The default is OMP_NUM_THREADS, or all cores; --threads
says otherwise. Bodies are not bounded in size here, and nobody is asked who they are: put a proxy that does both in front.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

try:
    import httpx
    import uvicorn
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from pydantic import BaseModel, ConfigDict, Field, field_validator
except ImportError as error:
    raise SystemExit(f"{error}. Serving takes some more: pip install 'sparsam[serve]'") from None

LONGEST = 20_000
"""Characters of a text. The model reads its first few hundred tokens; what is far longer is a mistake."""

MOST = 64
"""Texts of a request."""

log = logging.getLogger("serve")


# ---- Requests that arrive together are answered together -------------------------------------------------------------


@dataclass
class Waiting:
    """A request that waits for its answer: texts alone or pairs alone."""

    texts: list[Any]
    answer: asyncio.Future = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Full(Exception):
    """Too many requests wait already."""


class Batcher:
    """Collects requests and has one worker thread answer them.

    Args:
        load: makes the frozen model; called here, in the worker thread, which alone touches it.
        most: texts of a batch. A request of more is a batch of its own.
        wait: seconds that a batch stays open after its first request.
        room: requests that may wait.
    """

    def __init__(self, load: Callable[[], Any], most: int, wait: float, room: int) -> None:
        self.most, self.wait = most, wait
        self.queue: asyncio.Queue[Waiting | None] = asyncio.Queue(room)
        self.worker = ThreadPoolExecutor(1, "model")
        self.model = self.worker.submit(load).result()
        self.batches = self.answered = 0

    async def start(self) -> None:
        """Take requests."""
        self.task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Answer what waits, then let the worker go."""
        await self.queue.put(None)
        await self.task
        self.worker.shutdown()

    async def ask(self, texts: list[Any]) -> Any:
        """Logits of some texts, or of some pairs.

        Raises:
            Full: there is no room to wait.
        """
        one = Waiting(texts)
        try:
            self.queue.put_nowait(one)
        except asyncio.QueueFull:
            raise Full from None
        return await one.answer

    async def _run(self) -> None:
        over, held = False, None
        while not over:
            first = held or await self.queue.get()
            held = None
            if first is None:
                return
            batch, texts, ends = [first], len(first.texts), time.monotonic() + self.wait
            while texts < self.most:
                one = await self._next(ends)
                if one is TOO_LATE:
                    break
                if one is None:
                    over = True
                    break
                if texts + len(one.texts) > self.most:
                    held = one  # the first of the next batch
                    break
                batch.append(one)
                texts += len(one.texts)
            await self._answer(batch)

    async def _next(self, ends: float) -> Any:
        """The next request that is there before a batch closes."""
        if not self.queue.empty():
            return self.queue.get_nowait()
        left = ends - time.monotonic()
        if left <= 0:
            return TOO_LATE
        try:
            return await asyncio.wait_for(self.queue.get(), left)
        except TimeoutError:
            return TOO_LATE

    async def _answer(self, batch: Sequence[Waiting]) -> None:
        """Answer a batch; texts alone and pairs go one after the other. What fails together is tried one by one."""
        for pairs in (False, True):
            part = [one for one in batch if isinstance(one.texts[0], str) is not pairs]
            if not part:
                continue
            try:
                logits = await self._predicted([text for one in part for text in one.texts])
            except Exception:
                log.exception("a batch of %d requests failed; each is tried alone", len(part))
                for one in part:
                    await self._alone(one)
                continue
            for one in part:
                _give(one, logits[: len(one.texts)])
                logits = logits[len(one.texts) :]

    async def _alone(self, one: Waiting) -> None:
        try:
            _give(one, await self._predicted(one.texts))
        except Exception as error:
            if not one.answer.done():
                one.answer.set_exception(error)

    async def _predicted(self, texts: list[Any]) -> Any:
        logits = await asyncio.get_running_loop().run_in_executor(
            self.worker, lambda: self.model.predict(texts, batch=len(texts))
        )
        self.batches += 1
        self.answered += len(texts)
        return logits


TOO_LATE: Any = object()
"""No request came before the batch closed."""


def _give(one: Waiting, logits: Any) -> None:
    if not one.answer.done():  # whoever asked may be gone
        one.answer.set_result(logits)


# ---- HTTP ------------------------------------------------------------------------------------------------------------

Text = Annotated[str, Field(max_length=LONGEST)]


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    texts: Annotated[
        list[Text | Annotated[list[Text], Field(min_length=2, max_length=2)]],
        Field(min_length=1, max_length=MOST),
    ]

    @field_validator("texts")
    @classmethod
    def of_one_kind(cls, texts: list[Any]) -> list[Any]:
        if len({type(text) for text in texts}) > 1:
            raise ValueError("texts alone and pairs do not go into one request")
        return texts


class Answered(BaseModel):
    labels: list[str]
    logits: list[list[float]]


def make_app(batcher: Batcher, name: str) -> FastAPI:
    """The app around a batcher; what waits is answered on shutdown."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await batcher.start()
        try:
            yield
        finally:
            await batcher.stop()

    app = FastAPI(title=name, lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.exception_handler(RequestValidationError)
    async def say_what_was_wrong(request: Request, error: RequestValidationError) -> JSONResponse:
        # without the input: it may be long, and may hold what cannot be written as UTF-8
        found = [{"where": ".".join(map(str, one["loc"])), "what": str(one["msg"])} for one in error.errors()]
        return JSONResponse({"detail": found}, 422)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {
            "status": "ok", "model": name, "waiting": batcher.queue.qsize(), "answered": batcher.answered,
            "batches": batcher.batches,
        }  # fmt: skip

    @app.post("/predict")
    async def predict(asked: Asked) -> Answered:
        texts = [text if isinstance(text, str) else tuple(text) for text in asked.texts]
        try:
            logits = await batcher.ask(texts)
        except Full:
            raise HTTPException(
                503,
                f"{batcher.queue.maxsize} requests wait already; try again in a second.",
                {"Retry-After": "1"},
            ) from None
        labels = [batcher.model.labels[int(row.argmax())] for row in logits]
        return Answered(labels=labels, logits=logits.tolist())

    return app


def loading(folder: str, threads: int | None) -> Callable[[], Any]:
    """What makes the frozen model of a folder that sparsam saved."""

    import torch

    import sparsam

    def load() -> Any:
        if threads is not None:
            torch.set_num_threads(threads)  # of this thread, which is the one that computes
        frozen = sparsam.load(folder).frozen
        if frozen.model.main_input_name == "pixel_values":
            raise ValueError(f"{folder} reads images; this example serves texts.")
        frozen.predict(["warm"])
        return frozen

    return load


def serve(asked: argparse.Namespace) -> None:
    """Serve until SIGINT or SIGTERM; what has been asked by then is answered."""
    try:
        batcher = Batcher(loading(asked.folder, asked.threads), asked.batch, asked.wait / 1000, asked.queue)
    except (ValueError, OSError) as error:  # sparsam's errors are of these kinds
        raise SystemExit(f"error: {error}") from None
    place = socket.create_server((asked.host, asked.port))
    print(f"http://{asked.host}:{place.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        make_app(batcher, asked.folder), log_level="warning", timeout_graceful_shutdown=10, lifespan="on"
    )
    uvicorn.Server(config).run(sockets=[place])


# ---- Load test -------------------------------------------------------------------------------------------------------


def make_tiny(folder: str) -> None:
    """A BERT of width 128 with 4 layers, random weights and a tokenizer of one token a number."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    import sparsam

    words = {word: at for at, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(str, range(200))])}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"], model_max_length=128,
    )  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512,
        max_position_embeddings=128,
    )  # fmt: skip
    sparsam.save(BertForSequenceClassification(config).eval(), folder, processor=tokenizer)


@contextmanager
def running(folder: str, *options: str) -> Any:
    """A server on a free port of this machine, in a process of its own; gives its address, and stops it."""
    command = [sys.executable, __file__, folder, "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()  # once the model is loaded
            if not address:
                raise SystemExit("the server did not come up; what it said stands above.")
            httpx.get(f"{address}/health", timeout=60, trust_env=False).raise_for_status()
            yield address, process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


async def ask_many(
    address: str, texts: Sequence[str], clients: int, seconds: float
) -> tuple[list[float], float]:
    """One text a request, each client one request at a time: seconds of every answer, and of all together."""
    todo, took = iter(texts), []
    async with httpx.AsyncClient(
        base_url=address, timeout=30, trust_env=False, limits=httpx.Limits(max_connections=clients)
    ) as client:

        async def one_client() -> None:
            for text in todo:
                if time.monotonic() > ends:
                    return
                started = time.monotonic()
                answer = await client.post("/predict", json={"texts": [text]})
                answer.raise_for_status()
                took.append(time.monotonic() - started)

        started = time.monotonic()
        ends = started + seconds
        await asyncio.gather(*(one_client() for _ in range(clients)))
        return took, time.monotonic() - started


def load_test(asked: argparse.Namespace) -> None:
    """Throughput and latencies of a server on this machine, without batching and with it, one after the other."""
    import numpy as np

    draw = np.random.default_rng(0)
    texts = [" ".join(map(str, draw.integers(0, 200, draw.integers(4, 33)))) for _ in range(asked.requests)]
    with tempfile.TemporaryDirectory() as made:
        folder = asked.load_test
        if folder == "tiny":
            folder = str(Path(made) / "tiny")
            make_tiny(folder)
        threads = ["--threads", str(asked.threads)] if asked.threads is not None else []
        print(f"{asked.load_test}: {asked.requests} requests of one text, {asked.clients} clients at a time")
        print(f"{'':24}{'requests/s':>12}{'p50, ms':>10}{'p95, ms':>10}{'texts a batch':>15}")
        for name, batch, wait in (
            ("one by one", 1, 0.0),
            (f"up to {asked.batch}, {asked.wait:g} ms", asked.batch, asked.wait),
        ):
            options = ("--batch", str(batch), "--wait", str(wait), "--queue", str(asked.queue), *threads)
            with running(folder, *options) as (address, _):
                asyncio.run(ask_many(address, texts[: 2 * asked.clients], asked.clients, asked.seconds))
                before = json.loads(httpx.get(f"{address}/health", trust_env=False).text)
                took, whole = asyncio.run(ask_many(address, texts, asked.clients, asked.seconds))
                after = json.loads(httpx.get(f"{address}/health", trust_env=False).text)
            ordered = statistics.quantiles(took, n=100) if len(took) > 1 else took * 99
            mean = (after["answered"] - before["answered"]) / max(after["batches"] - before["batches"], 1)
            print(
                f"{name:24}{len(took) / whole:12.0f}{1000 * ordered[49]:10.1f}{1000 * ordered[94]:10.1f}{mean:15.1f}"
            )


def at_least(smallest: float, kind: Callable[[str], Any] = int) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        value = kind(text)
        if not smallest <= value < 1e9:
            raise argparse.ArgumentTypeError(f"must be {smallest:g} or more; got {text}")
        return value

    return read


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Serve a checkpoint that sparsam saved, over HTTP, with batching."
    )
    parser.add_argument("folder", nargs="?", help="what sparsam compress, finetune or save wrote")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=at_least(0), default=8000, help="0 takes a free one")
    parser.add_argument("--batch", type=at_least(1), default=32, help="texts of a batch at most")
    parser.add_argument("--wait", type=at_least(0, float), default=2.0, help="ms that a batch stays open")
    parser.add_argument("--queue", type=at_least(1), default=256, help="requests that may wait")
    parser.add_argument(
        "--threads", type=at_least(1), help="that the model computes on; OMP_NUM_THREADS, or all cores"
    )
    parser.add_argument(
        "--load-test", metavar="DIR", help="measure, on this machine alone; tiny makes a model"
    )
    parser.add_argument("--requests", type=at_least(1), default=1000, help="of the load test")
    parser.add_argument("--clients", type=at_least(1), default=16, help="of the load test")
    parser.add_argument(
        "--seconds", type=at_least(0, float), default=30.0, help="of each of its halves at most"
    )
    asked = parser.parse_args(arguments)
    if (asked.folder is None) == (asked.load_test is None):
        parser.error("give the folder to serve, or --load-test DIR.")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one text takes microseconds
    (serve if asked.load_test is None else load_test)(asked)


if __name__ == "__main__":
    main()
