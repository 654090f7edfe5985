"""What a request's head alone decides: the upstream, the dialect, who asks, and the head that the upstream gets.

Layer: relay. Made once for each head that differs; a connection keeps the last one, because a client mostly sends the same
head again with another Content-Length.

Invariants: ARCHITECTURE.md 5.1 (differences of the request head), 5.9 (the upstream is named by configuration only).
"""

import re
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING

from proxy.errors import RefusalError
from proxy.record import OPAQUE, RequestFacts
from proxy.wire import dialects
from proxy.wire.dialects.base import Dialect
from proxy.wire.http1 import Headers, RequestHead, serialise, without
from proxy.wire.paths import canonical, is_plain, strip_prefix

if TYPE_CHECKING:
    from proxy.relay.pool import Pool
    from proxy.relay.worker import Worker

__all__ = ["CREDENTIALS", "DEADLINE_HEADER", "METHOD_OVERRIDES", "URL_OVERRIDES", "Route"]

CREDENTIALS = (b"authorization", b"api-key", b"x-api-key")
"""Headers in which clients send their key: OpenAI, Azure, Anthropic."""

DEADLINE_HEADER = b"x-lengthwise-deadline-ms"
"""A request's own deadline, where a rule allows it; never forwarded."""

METHOD_OVERRIDES = (b"x-http-method-override", b"x-http-method", b"x-method-override")
URL_OVERRIDES = (b"x-original-url", b"x-rewrite-url", b"x-forwarded-uri")
"""Headers by which some frameworks replace the request line."""
_OVERRIDES = frozenset((*METHOD_OVERRIDES, *URL_OVERRIDES))

_AUTHORITY = re.compile(rb"^[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_APP_CHARS = 128
_TOKEN_WORDS = 3
"""A scheme, a token, and one more: servers differ in what they take for the token."""
_DEADLINE_MS = re.compile(rb"[1-9][0-9]{0,8}")
_CHARSET = re.compile(rb"charset[ \t]*=[ \t]*\"?([^\s;,\"]*)", re.IGNORECASE)
_CHARSETS = frozenset((b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1", b"latin1", b"windows-1252"))
"""In these the names of members read alike."""
_DEPLOYMENT = re.compile(rb"/deployments/([^/]+)/", re.IGNORECASE)
"""Azure reads paths without case."""
_SOCKETS = re.compile(rb"/(realtime|responses)(?:/|$)")
"""Paths whose websockets generate: nothing that passes there can be judged."""
_API_VERSION = re.compile(rb"[?&](api-version=[^&]*)")


class Route:
    """The way of every request with one head."""

    __slots__ = (
        "_headers",
        "_heads",
        "_start",
        "app",
        "bad_deadline",
        "deadline_s",
        "deployment",
        "dialect",
        "doubts",
        "encoding",
        "facts",
        "head",
        "key_name",
        "method",
        "pool",
        "refusal",
        "sdk_retry_count",
        "traceparent",
        "tracestate",
        "usage_key",
        "websocket",
    )

    def __init__(self, worker: "Worker", head: RequestHead) -> None:
        named = head.named
        self.head = head
        self.method = head.method.decode("latin-1")
        self.pool: Pool | None = None
        self.dialect: Dialect | None = None
        self.websocket = False
        self.key_name: str | None = None
        app = named.get(worker.app_header)
        self.app = None if app is None else app[:_APP_CHARS].decode("latin-1")
        retries = named.get(b"x-stainless-retry-count", b"")
        self.sdk_retry_count = int(retries) if retries.isdigit() and len(retries) < 4 else None
        self.traceparent = named.get(b"traceparent")
        self.tracestate = named.get(b"tracestate")
        encoding = named.get(b"content-encoding", b"").strip().lower().decode("latin-1")
        self.encoding = "" if encoding == "identity" else encoding
        """Content coding of the request's body; empty for none."""
        self.refusal: RefusalError | None = None
        """Why there is no way; None when there is one."""
        version = _API_VERSION.search(head.target)
        self.usage_key = head.target.split(b"?", 1)[0] + (version[1] if version else b"")
        """What an upstream's refusal of added fields is remembered by: Azure's depends on the api-version."""
        deadline = named.get(DEADLINE_HEADER)
        self.bad_deadline = deadline is not None and _DEADLINE_MS.fullmatch(deadline.strip()) is None
        """True when the request's deadline is no whole number of milliseconds."""
        self.deadline_s = None if deadline is None or self.bad_deadline else int(deadline) / 1000
        self.deployment: str | None = None
        """Model that the path names; None when it names none."""
        self.doubts: list[tuple[str, RefusalError]] = []
        """(dialect, answer) where servers could read this head in two ways, or what it opens cannot be judged: if a policy applies there."""
        self._heads: dict[tuple[bool, bool], bytes] = {}
        self.facts = RequestFacts(OPAQUE)
        """Facts of a request whose body was not read."""
        try:
            self._find(worker)
        except RefusalError as error:
            self.refusal = error

    def _find(self, worker: "Worker") -> None:
        head, limits = self.head, worker.settings.limits
        for pool in worker.pools:
            target = strip_prefix(head.target, pool.prefix) if head.target != b"*" or pool.prefix else head.target
            if target is not None:
                break
        else:
            raise RefusalError("unknown_route", "No upstream is configured for this path.")
        self.pool = pool
        path = canonical(target)
        if head.method == b"POST":
            self.dialect = dialects.match(path)
            if self.dialect is not None:
                self.facts = RequestFacts(self.dialect.name)
            elif limits.unknown_routes == "block":
                raise RefusalError("unknown_route", "This path is not one that Lengthwise may relay.")
        if worker.settings.keys or pool.credential is not None:
            self._check_key(worker, pool)
        self.websocket = head.upgrade == b"websocket" and head.method == b"GET" and limits.upgrades == "pass"
        deployment = _DEPLOYMENT.search(target.partition(b"?")[0])
        if deployment is not None:
            self.deployment = deployment[1].decode("latin-1")
        self._find_doubts(target, path)
        drop = set(worker.private_headers)
        extra: Headers = []
        if worker.propagate:
            drop |= {b"traceparent", b"tracestate"}
        if pool.credential is not None:
            drop |= set(CREDENTIALS)
            extra.append(_credential(pool))
        if self.websocket:
            extra += ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))
        self._start = b"%b %b%b HTTP/1.1" % (head.method, pool.base_path, target)
        self._headers = [(b"Host", pool.host_header), *without(head.headers, drop), *extra]

    def _find_doubts(self, target: bytes, path: bytes) -> None:
        """Look for what an upstream might read otherwise than it is read here."""
        named, dialect = self.head.named, self.dialect
        if dialect is not None:
            if not is_plain(target, dialect.suffix):
                self._doubt(
                    dialect.name,
                    "malformed_request",
                    f"A policy applies here, and servers read this spelling of the path differently; send {dialect.route}.",
                )
            if any(each.lower() not in _CHARSETS for each in _CHARSET.findall(named.get(b"content-type", b""))):
                self._doubt(
                    dialect.name,
                    "ambiguous_body",
                    "A policy applies on this route, and this body cannot be judged: its charset is not utf-8.",
                )
        socket = _SOCKETS.search(path) if self.websocket else None
        if socket is not None:
            self._doubt(
                socket[1].decode(),
                "policy_unjudgeable",
                "A policy applies here, and what is asked for over a websocket cannot be judged; send POST /v1/responses.",
            )
        if not named.keys().isdisjoint(_OVERRIDES):
            for name, value in self.head.headers:
                self._find_override(name.lower(), value, path)

    def _find_override(self, name: bytes, value: bytes, path: bytes) -> None:
        """Look for another request line in a header."""
        if name in URL_OVERRIDES:
            meant = dialects.match(canonical(_AUTHORITY.sub(b"", value)))
        elif name in METHOD_OVERRIDES and value.strip().upper() == b"POST":
            meant = dialects.match(path)
        else:
            return
        if meant is not None and meant is not self.dialect:
            self._doubt(
                meant.name,
                "malformed_request",
                f"A policy applies here, and {name.decode()} makes some servers read another request line.",
            )

    def _doubt(self, dialect: str, error_type: str, message: str) -> None:
        self.doubts.append((dialect, RefusalError(error_type, message)))

    def _check_key(self, worker: "Worker", pool: "Pool") -> None:
        keys = worker.settings.keys
        for name, value in self.head.headers:  # of several lines the upstream may read any
            if name.lower() not in CREDENTIALS:
                continue
            for token in value.split(None, _TOKEN_WORDS)[:_TOKEN_WORDS]:
                digest = sha256(token).hexdigest()
                for key_name, expected in keys.items():
                    if compare_digest(digest, expected):
                        self.key_name = key_name
                        return
        if pool.credential is not None and keys:
            raise RefusalError("unknown_key", "This key is not one that may use this upstream.")

    def upstream_head(self, *, usage_asked: bool, decoded: bool) -> bytes:
        """The head for the upstream but for its trace context, framing and blank line.

        Args:
            usage_asked: Ask for the answer as identity, because an event will be cut out of it.
            decoded: The body goes out decoded, so without Content-Encoding.
        """
        made = self._heads.get((usage_asked, decoded))
        if made is None:
            headers = without(self._headers, (b"content-encoding",)) if decoded else self._headers
            if usage_asked:
                headers = [*without(headers, (b"accept-encoding",)), (b"Accept-Encoding", b"identity")]
            made = self._heads[usage_asked, decoded] = serialise(self._start, headers)[:-2]
        return made


def _credential(pool: "Pool") -> tuple[bytes, bytes]:
    provider, credential = pool.upstream.provider, pool.credential or b""
    if provider.startswith("azure"):
        return b"api-key", credential
    if provider.startswith("anthropic"):
        return b"x-api-key", credential
    return b"Authorization", b"Bearer " + credential
