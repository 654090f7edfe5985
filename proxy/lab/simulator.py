"""`lengthwise simulate`: an OpenAI-compatible provider that says everywhere that it is simulated.

Layer: lab. What it answers is drawn in `answers`, the directives that a prompt may carry are listed in `chat_request`; here
answers are served and paced.

    POST /v1/chat/completions, /v1/completions, /v1/responses, /v1/messages    streamed and not
    GET  /v1/models
    GET  /sim/stats              {"requests", "active", "waiting", "cancelled", "tokens"}

Honest: models are named `sim-*` (others only with `--any-model`), every response carries `x-simulated-provider`, every
answer the system fingerprint `simulated`.

Paced: token n is due at admission + TTFT + n x TPOT by the loop's clock, so late wake-ups do not add up. The role-only
event goes out halfway to the first token: who takes it for the first token is visibly wrong. One event carries one token.

Reservation, as in providers that set `max_tokens` aside at admission: a request waits, first come first served, until input
plus limit fits into the budget, and gives it back when it ends, however few tokens came. Setting aside may itself take time, in
proportion to what is set aside (`reserving_s_per_1000_tokens`).
"""

import argparse
import asyncio
import hmac
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from aiohttp import web

from proxy.lab.answers import draw_answers
from proxy.lab.chat_request import (
    MAX_OUTPUT_TOKENS,
    MODELS,
    ChatRequest,
    Fault,
    RefusedError,
    failure,
    read_request,
)
from proxy.lab.endpoints import CHAT, ENDPOINTS, Endpoint
from proxy.lab.reservations import Reservations

__all__ = ["SimulatorOptions", "Stats", "add_arguments", "make_app", "run", "serving"]

RESERVING_MODEL_BUDGET_TOKENS = 20_000
"""Budget of models that always reserve, where the simulator was given none."""

_BODY_LIMIT_BYTES = 64 << 20
_RESET_BY_US = web.RequestKey("reset_by_us", bool)


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """How the simulated provider behaves; a request's directives override the paces and lengths."""

    ttft_s: float = 0.2
    tpot_s: float = 0.01
    jitter: float = 0.0
    """Standard deviation of every TTFT and of every gap between tokens, relative to its mean."""
    median_tokens: float = 180.0
    """Median natural length of an answer."""
    sigma: float = 0.6
    """Standard deviation of the logarithm of natural lengths."""
    seed: int = 1
    reservation_tokens: int | None = None
    """Budget from which every model reserves; None: only models that always reserve do, from a budget of their own."""
    reserving_s_per_1000_tokens: float = 0.0
    """Time that setting 1,000 tokens aside takes, of every model, reserving or not: an effect of the limit that is known."""
    error_rate: float = 0.0
    """Share of requests answered with 429, 500 or 503."""
    stall_rate: float = 0.0
    """Share of requests that fall silent somewhere, until the client leaves."""
    any_model: bool = False
    """True: unknown model names answer too, as sim-small does."""
    api_key: str | None = field(default=None, repr=False)
    """The bearer token that is asked for; None for none."""


@dataclass(slots=True)
class Stats:
    """What the simulator has done since it was made."""

    requests: int = 0
    active: int = 0
    """Chat requests in progress, waiting ones included."""
    waiting: int = 0
    """Chat requests that wait for a reservation."""
    cancelled: int = 0
    """Chat requests whose client left."""
    tokens: int = 0
    """Tokens generated; those of answers that were not streamed when they are done."""


def make_app(options: SimulatorOptions) -> web.Application:
    """Make the provider as an aiohttp application; serve it with `handler_cancellation`, or a leaving client is not seen."""
    provider = _Provider(options)
    app = web.Application(client_max_size=_BODY_LIMIT_BYTES)
    for endpoint in ENDPOINTS:
        app.router.add_post(endpoint.path, partial(provider.generate, endpoint))
    app.router.add_get("/v1/models", provider.models)
    app.router.add_get("/sim/stats", provider.stats)
    app.router.add_route("*", "/{rest:.*}", provider.unknown)
    app.on_response_prepare.append(_say_that_it_is_simulated)
    return app


@asynccontextmanager
async def serving(app: web.Application, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve `app` and yield its origin, for example `http://127.0.0.1:40001` (an SDK's base URL is that plus `/v1`)."""
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound_host, bound_port = runner.addresses[0][:2]
        yield f"http://[{bound_host}]:{bound_port}" if ":" in bound_host else f"http://{bound_host}:{bound_port}"
    finally:
        await runner.cleanup()


async def _say_that_it_is_simulated(_request: web.BaseRequest, response: web.StreamResponse) -> None:
    response.headers["x-simulated-provider"] = "lengthwise"


class _Provider:
    """The handlers and what they share."""

    def __init__(self, options: SimulatorOptions) -> None:
        self._options = options
        self._stats = Stats()
        common = options.reservation_tokens
        self._reservations = {
            model.name: Reservations(RESERVING_MODEL_BUDGET_TOKENS)
            for model in MODELS.values()
            if model.reserves and common is None
        }
        self._shared_reservations = None if common is None else Reservations(common)

    async def generate(self, endpoint: Endpoint, http: web.Request) -> web.StreamResponse:
        """Answer one request that generates."""
        self._stats.requests += 1
        self._stats.active += 1
        number = self._stats.requests
        try:
            self._authenticate(http)
            body = await http.read()
            request = read_request(body, any_model=self._options.any_model, chat=endpoint.chat)
            exchange = _Exchange(self._options, request, number, endpoint)
            if exchange.error_status is not None:
                raise failure(exchange.error_status)
            await asyncio.sleep(request.reserved_tokens / 1000 * self._options.reserving_s_per_1000_tokens)
            reservations = self._shared_reservations or self._reservations.get(request.model.name)
            if reservations is None:
                return await self._answer(http, exchange)
            async with reservations.hold(request.reserved_tokens):
                return await self._answer(http, exchange)
        except RefusedError as refused:
            return _refuse(refused, endpoint)
        except (asyncio.CancelledError, ConnectionResetError):
            self._stats.cancelled += _RESET_BY_US not in http
            raise
        finally:
            self._stats.active -= 1

    async def models(self, http: web.Request) -> web.Response:
        """List the models."""
        try:
            self._authenticate(http)
        except RefusedError as refused:
            return _refuse(refused)
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "lengthwise"} for name in MODELS]
        return web.json_response({"object": "list", "data": listed})

    async def stats(self, _http: web.Request) -> web.Response:
        """Tell what was done so far."""
        queues = [*self._reservations.values(), *([self._shared_reservations] if self._shared_reservations else [])]
        self._stats.waiting = sum(queue.waiting for queue in queues)
        return web.json_response(asdict(self._stats))

    async def unknown(self, _http: web.Request) -> web.Response:
        """Refuse any other path or method."""
        return _refuse(RefusedError(404, "Unknown request URL or method.", code="unknown_url"))

    def _authenticate(self, http: web.Request) -> None:
        if self._options.api_key is None:
            return
        scheme, _, token = http.headers.get("authorization", "").partition(" ")
        given, wanted = token.strip().encode("utf-8", "surrogateescape"), self._options.api_key.encode()
        if "x-api-key" in http.headers:  # as clients of messages send it
            scheme, given = "bearer", http.headers["x-api-key"].encode("utf-8", "surrogateescape")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, wanted):
            raise RefusedError(401, "Incorrect API key provided.", code="invalid_api_key")

    async def _answer(self, http: web.Request, exchange: "_Exchange") -> web.StreamResponse:
        if exchange.request.stream:
            return await self._stream(http, exchange)
        clock = _Clock()
        await clock.reach(exchange.seconds_until_end())
        if exchange.fault is not None:
            if exchange.fault.kind == "error_after":
                raise failure(500)
            await _silence_or_reset(http, exchange.fault)
        self._stats.tokens += sum(answer.tokens for answer in exchange.spelling.answers)
        return web.Response(body=exchange.spelling.body(), content_type="application/json", headers=exchange.headers)

    async def _stream(self, http: web.Request, exchange: "_Exchange") -> web.StreamResponse:
        spelling, fault = exchange.spelling, exchange.fault
        response = web.StreamResponse(headers=exchange.headers | {"cache-control": "no-cache"})
        response.content_type = "text/event-stream"
        response.charset = "utf-8"
        due_s = exchange.due_s()
        first_s = next(due_s)
        clock = _Clock()
        await clock.reach(first_s / 2)
        await response.prepare(http)
        await response.write(spelling.first_event())
        for position in range(exchange.steps + 1):
            if fault is not None and position == min(fault.after_tokens, exchange.steps):
                if fault.kind == "error_after":
                    await response.write(exchange.endpoint.error_in_stream(failure(500)))
                    return response
                await _silence_or_reset(http, fault)
            if position < exchange.steps:
                await clock.reach(first_s if position == 0 else next(due_s))
            self._stats.tokens += sum(position < answer.tokens for answer in spelling.answers)
            last = spelling.last_events() if position == exchange.steps else b""
            await response.write(spelling.step_events(position) + last)
        return response


class _Exchange:
    """One request with everything that was drawn for it."""

    def __init__(self, options: SimulatorOptions, request: ChatRequest, number: int, endpoint: Endpoint = CHAT) -> None:
        self.endpoint = endpoint
        self.request = request
        self.spelling = endpoint.spelling(
            f"{endpoint.id_prefix}-sim-{options.seed}-{number}",
            int(time.time()),
            request,
            draw_answers(request, median_tokens=options.median_tokens, sigma=options.sigma, seed=options.seed),
        )
        self.headers = {"x-request-id": f"req-sim-{options.seed}-{number}"}
        self.steps = max(answer.tokens for answer in self.spelling.answers)
        # By the request's number, not by its prompt: the same prompt comes with another pace each time.
        self._source = random.Random(f"{options.seed}:{number}")  # noqa: S311 -- a simulation
        self._options = options
        chance = self._source.random()
        self.error_status = request.error_status
        self.fault = request.fault
        if self.error_status is None and chance < options.error_rate:
            self.error_status = self._source.choice((429, 500, 503))
        elif self.fault is None and 1 - chance <= options.stall_rate:
            self.fault = Fault("stall_after", self._source.randrange(self.steps))

    def due_s(self) -> Iterator[float]:
        """When each token is due, in seconds after admission; endless."""
        slowdown = self.request.model.slowdown
        now_s = self._jittered(self._options.ttft_s * slowdown) if self.request.ttft_s is None else self.request.ttft_s
        while True:
            yield now_s
            gap_s = self.request.tpot_s
            now_s += self._jittered(self._options.tpot_s * slowdown) if gap_s is None else gap_s

    def seconds_until_end(self) -> float:
        """When an answer that is not streamed is due: with its last token, or where its fault lies."""
        tokens = self.steps if self.fault is None else max(min(self.steps, self.fault.after_tokens), 1)
        due_s = self.due_s()
        return max(next(due_s) for _ in range(tokens))

    def _jittered(self, mean_s: float) -> float:
        if not self._options.jitter:
            return mean_s
        return mean_s * max(self._source.gauss(1.0, self._options.jitter), 0.0)


class _Clock:
    """The loop's clock, from now on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._start_s = self._loop.time()

    async def reach(self, due_s: float) -> None:
        """Sleep until `due_s` seconds after the start; lets others run even when that is past."""
        await asyncio.sleep(max(self._start_s + due_s - self._loop.time(), 0.0))


async def _silence_or_reset(http: web.Request, fault: Fault) -> None:
    """End in silence or with a reset; returns only by an exception."""
    if fault.kind == "reset_after" and http.transport is not None:
        http[_RESET_BY_US] = True
        http.transport.abort()
    await asyncio.Event().wait()  # cancelled when the connection is gone


def _refuse(refused: RefusedError, endpoint: Endpoint = CHAT) -> web.Response:
    headers = {"retry-after": "1"} if refused.status in {429, 503} else None
    body = endpoint.error_body(refused)
    return web.Response(status=refused.status, body=body, content_type="application/json", headers=headers)


# -- command --------------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `lengthwise simulate`."""
    default = SimulatorOptions()
    add = parser.add_argument
    add(
        "--listen",
        type=_address,
        default=("127.0.0.1", 8081),
        metavar="H:P",
        help="default 127.0.0.1:8081; port 0: any",
    )
    add(
        "--ttft-ms",
        type=_positive,
        default=default.ttft_s * 1e3,
        metavar="MS",
        help="time to first token (%(default)g)",
    )
    add("--tpot-ms", type=_positive, default=default.tpot_s * 1e3, metavar="MS", help="time per token (%(default)g)")
    add("--jitter", type=_positive, default=default.jitter, metavar="SD", help="relative sd of both (%(default)g)")
    add(
        "--median-tokens", type=_length, default=default.median_tokens, metavar="N", help="natural length (%(default)g)"
    )
    add("--sigma", type=_positive, default=default.sigma, metavar="S", help="sd of its logarithm (%(default)g)")
    add("--seed", type=int, default=default.seed, metavar="N", help="of lengths, paces and faults (%(default)d)")
    add(
        "--reservation-tokens",
        type=_budget,
        metavar="N",
        help="budget that requests reserve their limit from (sim-reserving only)",
    )
    add(
        "--reserving-ms",
        type=_positive,
        default=default.reserving_s_per_1000_tokens * 1e3,
        metavar="MS",
        help="time that setting 1,000 tokens aside takes (%(default)g)",
    )
    add("--error-rate", type=_share, default=default.error_rate, metavar="P", help="share that fails (%(default)g)")
    add(
        "--stall-rate",
        type=_share,
        default=default.stall_rate,
        metavar="P",
        help="share that falls silent (%(default)g)",
    )
    add("--any-model", action="store_true", help=f"answer for any model name, not only {', '.join(MODELS)}")
    add("--api-key-env", metavar="NAME", help="ask for the bearer token that this environment variable holds")


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; prints one line with the address once it listens."""
    api_key = None
    if arguments.api_key_env is not None:
        api_key = os.environ.get(arguments.api_key_env)
        if not api_key:
            sys.stderr.write(f"--api-key-env: the variable {arguments.api_key_env} is not set\n")
            return 2
    options = SimulatorOptions(
        ttft_s=arguments.ttft_ms / 1e3,
        tpot_s=arguments.tpot_ms / 1e3,
        jitter=arguments.jitter,
        median_tokens=arguments.median_tokens,
        sigma=arguments.sigma,
        seed=arguments.seed,
        reservation_tokens=arguments.reservation_tokens,
        reserving_s_per_1000_tokens=arguments.reserving_ms / 1e3,
        error_rate=arguments.error_rate,
        stall_rate=arguments.stall_rate,
        any_model=arguments.any_model,
        api_key=api_key,
    )
    try:
        asyncio.run(_serve(options, *arguments.listen))
    except OSError as error:
        sys.stderr.write(f"lengthwise: --listen: {error}\n")
        return 2
    return 0


async def _serve(options: SimulatorOptions, host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with serving(make_app(options), host, port) as origin:
        sys.stdout.write(f"simulated provider on {origin}/v1 (models: {', '.join(MODELS)})\n")
        sys.stdout.flush()
        await stop.wait()


def _address(text: str) -> tuple[str, int]:
    host, separator, port = text.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, found {text!r}")
    return host.strip("[]") or "127.0.0.1", int(port)


def _positive(text: str) -> float:
    return _number(text, 0.0, 1e9)


def _length(text: str) -> float:
    return _number(text, 1.0, float(MAX_OUTPUT_TOKENS))


def _budget(text: str) -> int:
    return int(_number(text, 1, 1e9))


def _share(text: str) -> float:
    return _number(text, 0.0, 1.0)


def _number(text: str, low: float, high: float) -> float:
    value: Any = float(text)  # argparse words a ValueError itself
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"expected a number from {low:g} to {high:g}, found {text!r}")
    return float(value)
