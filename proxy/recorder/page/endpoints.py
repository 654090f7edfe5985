"""The live page's paths: `/`, its files under `/page/`, and its data under `/api/`, all of them to be read and not to be written to.

Layer: recorder. A page asks every second or two, as long as it is seen; who asks the same within a slot of five seconds, and nothing
happened meanwhile, gets the same answer, or 304. Nothing is made while nobody asks.

Every path under `/api/` but `state` and `exchanges/ID` takes `window` (seconds: 60, 300, 900, 3600, 21600, 86400; 900 when absent) and
the filters `model`, `app`, `upstream` (a name; empty: those without one) and `stream` (true, false). Unknown figures are null; `_s` is
seconds, unix time where it is a moment; `_p50` and the like are quantiles right to within 1%.

    /api/state             version, listen (the data port as configured, a URL), started_at_s (of this recorder), restored (exchanges
                           read from the ledger), settings {digest}, policy {digest, loaded_at, error, rules: [{name, do, mode, since,
                           armed, answers, cut, budget, of_last}]}, workers [{index, alive, active, …}], active, drops {…}, ledger
                           {written, failed, error}: as in `/status`
    /api/figures           window_s, step_s, since_s, known_since_s (later when the service began later), exchanges, per_s (since then),
                           complete, ends {END: n}, faults {client, proxy, upstream}, cases {cut, ended, unknown}, truncations {client,
                           policy}, reserved_unused_tokens; ttft_s, tpot_s, e2e_s, overhead_s, output_tokens, utilization: {n, p50, p95,
                           p99}; law {n, ttft_p50_s, tpot_s, on_output_tokens, on_max_tokens: {n, slope, intercept, r2}}; lengths and
                           utilization as bars; steps {exchanges, faults, ttft_p50_s, …: a list each}; decisions [{rule, action, mode,
                           count}]; names {models, apps, upstreams}: what can be filtered by
    /api/points            held, one_in, and for one in so many of the held exchanges output_tokens, max_tokens, e2e_s, cut: a list each
    /api/caps              complete, output_tokens, e2e_s, caps [{cap, governed, longer, newly_cut, newly_cut_share, tokens_saved,
                           latency_saved_s}]: what `lengthwise report --caps` says of the same exchanges
    /api/rule?cap=N        one of these caps as a policies file with a rule in shadow; text
    /api/exchanges         exchanges [the ledger's columns, but for keys]: the last 200
    /api/exchanges/ID      one of the last 1,000, with marks [[name, seconds since the first]] and checkpoints [[tokens, seconds]]

Where the variable `LW_PAGE_TOKEN` is set, `/api/` wants it as a bearer token, and the page asks for it.

Source: ARCHITECTURE.md 5.7, 7 "Admin".
"""

import asyncio
import hashlib
import hmac
import importlib.resources
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

import orjson
from aiohttp import web

from proxy.record import ExchangeRecord
from proxy.recorder.ledger import Row
from proxy.recorder.page.caps import CAPS_TOKENS
from proxy.recorder.page.cell import Figures
from proxy.recorder.page.documents import caps_document, figures_document, points_document
from proxy.recorder.page.history import History
from proxy.recorder.page.recent import Recent
from proxy.recorder.page.rule import UnnamedError, rule
from proxy.recorder.page.view import WINDOWS, Filter, Views, Window

__all__ = ["TOKEN_VARIABLE", "Page"]

TOKEN_VARIABLE: Final = "LW_PAGE_TOKEN"  # noqa: S105 -- its name
"""Not one of `LENGTHWISE_`, which are settings."""
_DEFAULT_WINDOW_S: Final = 900
_SLOT_S: Final = 5
_ANSWERS: Final = 64
_LOOKED_S: Final = 60.0
"""So long after an answer somebody is taken to be looking."""
_UNSEEN: Final = 200
"""Exchanges of a second that are kept one by one while nobody looks: as many as a first look shows."""
_KINDS: Final = {".css": "text/css", ".html": "text/html", ".js": "text/javascript"}
_SAFE: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

Handler = Callable[[web.Request], Awaitable[web.Response]]


class _QuestionError(Exception):
    """A question that cannot be answered; the text says what can."""


class Page:
    """What the page knows, and the paths that tell it."""

    def __init__(
        self, status: Callable[[], Mapping[str, Any]], token: str | None, clock: Callable[[], float] = time.time
    ) -> None:
        """`status` is what `/status` answers; `token` None or empty asks for none."""
        self._status = status
        self._token = token or None
        self._clock = clock
        self._started_s = clock()
        self.history = History(self._started_s)
        self._views = Views(self.history)
        self._recent = Recent()
        self._restored = 0
        self._looked_s = self._second = -math.inf
        self._unseen = 0
        self._answers: OrderedDict[str, tuple[object, bytes]] = OrderedDict()

    def take(self, rows: Sequence[Row | None], records: Sequence[ExchangeRecord]) -> None:
        """Take exchanges that just ended, with their rows."""
        now_s = self._clock()
        self.history.take(rows, now_s)
        if now_s > self._looked_s + _LOOKED_S:
            if now_s // 1 != self._second:
                self._second, self._unseen = now_s // 1, 0
            room = _UNSEEN - self._unseen
            rows, records = rows[:room], records[:room]
            self._unseen += len(rows)
        self._recent.take(rows, records)

    def restore(self, rows: Iterable[tuple[float, Row]]) -> None:
        """Take exchanges that ended at these unix times, before this recorder began; the latest first.

        Raises:
            LookupError, TypeError, ValueError: they are no rows that a recorder wrote.
        """
        found = list(rows)
        self.history.restore(found)
        self._recent.restore(row for _, row in found)
        self._restored += len(found)

    def add_to(self, application: web.Application) -> None:
        """Add the paths."""
        for file in (importlib.resources.files("proxy.recorder.page") / "static").iterdir():
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            self._add_file(application, path, file)
        for path, answer in (
            ("/api/state", self._state),
            ("/api/figures", self._figures),
            ("/api/points", self._points),
            ("/api/caps", self._caps),
            ("/api/rule", self._rule),
            ("/api/exchanges", self._exchanges),
            ("/api/exchanges/{id}", self._exchange),
        ):
            application.router.add_get(path, self._guarded(answer))

    def _add_file(self, application: web.Application, path: str, file: Traversable) -> None:
        body, kind = file.read_bytes(), _KINDS[Path(file.name).suffix]

        async def get(request: web.Request) -> web.Response:
            return _answer(request, body, kind)

        application.router.add_get(path, get)

    def _guarded(self, answer: Handler) -> Handler:
        async def get(request: web.Request) -> web.Response:
            if not self._is_permitted(request.headers.get("Authorization", "")):
                refusal = _json(request, {"error": f"this page wants the token of {TOKEN_VARIABLE}"}, 401)
                refusal.headers["WWW-Authenticate"] = "Bearer"
                return refusal
            self._looked_s = self._clock()
            try:
                return await answer(request)
            except _QuestionError as error:
                return _json(request, {"error": str(error)}, 400)

        return get

    def _is_permitted(self, authorization: str) -> bool:
        if self._token is None:
            return True
        scheme, _, given = authorization.partition(" ")
        # a header may hold bytes that are no text
        same = hmac.compare_digest(given.strip().encode(errors="surrogateescape"), self._token.encode())
        return same and scheme.lower() == "bearer"

    async def _state(self, request: web.Request) -> web.Response:
        status = self._status()
        shown = ("version", "listen", "settings", "policy", "workers", "drops", "ledger")
        active = sum(worker["active"] for worker in status["workers"])
        own = {"started_at_s": self._started_s, "restored": self._restored, "active": active}
        return _json(request, {name: status[name] for name in shown} | own)

    async def _figures(self, request: web.Request) -> web.Response:
        window, chosen = _asked(request)

        async def make() -> dict[str, Any]:
            steps = await self._steps(window, chosen)
            first_s = next((slot.start_s for slot in self.history.slots(0)), self._started_s)
            known_since_s = min(first_s, self._started_s)
            return figures_document(steps, window, self.history.now_s, known_since_s, self._views.groups(window))

        return await self._remembered(request, make)

    async def _points(self, request: web.Request) -> web.Response:
        window, chosen = _asked(request)

        async def make() -> dict[str, Any]:
            self.history.advance(self._clock())
            return points_document(self._views.columns(window, chosen), self.history.words.kinds)

        return await self._remembered(request, make)

    async def _caps(self, request: web.Request) -> web.Response:
        window, chosen = _asked(request)

        async def make() -> dict[str, Any]:
            return caps_document(Figures.total(await self._steps(window, chosen)).outcomes)

        return await self._remembered(request, make)

    async def _rule(self, request: web.Request) -> web.Response:
        window, chosen = _asked(request)
        cap = request.query.get("cap", "")
        if cap not in map(str, CAPS_TOKENS):
            raise _QuestionError(f"cap is one of {', '.join(map(str, CAPS_TOKENS))}")
        outcomes = Figures.total(await self._steps(window, chosen)).outcomes
        now_s = self.history.now_s
        try:
            text = rule(int(cap), chosen, outcomes, window.since_s(now_s), now_s)
        except UnnamedError as error:
            raise _QuestionError(str(error)) from error
        return _answer(request, text.encode(), "text/plain")

    async def _exchanges(self, request: web.Request) -> web.Response:
        _, chosen = _asked(request)
        said = self.history.words.said
        return _json(request, {"exchanges": self._recent.last(lambda row: chosen.takes(said(row).group))})

    async def _exchange(self, request: web.Request) -> web.Response:
        found = self._recent.one(request.match_info["id"])
        if found is None:
            return _json(request, {"error": "this exchange is not among the last ones any more"}, 404)
        return _json(request, found)

    async def _steps(self, window: Window, chosen: Filter) -> list[Figures]:
        """The figures of each step; those that are to be made are made bit by bit, and records pass meanwhile."""
        self.history.advance(self._clock())
        for _ in self.history.prepare(window.since_s(self.history.now_s)):
            await asyncio.sleep(0)
        self.history.advance(self._clock())
        return self._views.steps(window, chosen)

    async def _remembered(self, request: web.Request, make: Callable[[], Awaitable[dict[str, Any]]]) -> web.Response:
        """The answer of a question, as long as it stays the same."""
        state = (self.history.taken, self.history.restored, self._clock() // _SLOT_S)
        question = request.raw_path
        known = self._answers.get(question)
        if known is None or known[0] != state:
            known = self._answers[question] = (state, orjson.dumps(await make()))
            if len(self._answers) > _ANSWERS:
                self._answers.popitem(last=False)
        self._answers.move_to_end(question)
        return _answer(request, known[1], "application/json")


def _asked(request: web.Request) -> tuple[Window, Filter]:
    query = request.query
    window = query.get("window", str(_DEFAULT_WINDOW_S))
    if window not in map(str, WINDOWS):
        raise _QuestionError(f"window is one of {', '.join(map(str, WINDOWS))}: seconds")
    stream = query.get("stream")
    if stream not in {None, "true", "false"}:
        raise _QuestionError("stream is true or false")
    chosen = Filter(
        query.get("model"), query.get("app"), query.get("upstream"), None if stream is None else stream == "true"
    )
    return WINDOWS[int(window)], chosen


def _json(request: web.Request, document: Mapping[str, Any], status: int = 200) -> web.Response:
    return _answer(request, orjson.dumps(document), "application/json", status)


def _answer(request: web.Request, body: bytes, kind: str, status: int = 200) -> web.Response:
    """An answer, or that it is the one that the asker has already."""
    tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers = _SAFE | {"ETag": tag, "Cache-Control": "no-cache"}
    if status == 200 and request.headers.get("If-None-Match") == tag:
        return web.Response(status=304, headers=headers)
    return web.Response(status=status, body=body, content_type=kind, charset="utf-8", headers=headers)
