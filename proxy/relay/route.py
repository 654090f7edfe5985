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
from proxy.wire.paths import canonical, strip_prefix

if TYPE_CHECKING:
    from proxy.relay.pool import Pool
    from proxy.relay.worker import Worker

__all__ = ["CREDENTIALS", "Route"]

CREDENTIALS = (b"authorization", b"api-key", b"x-api-key")
"""Headers in which clients send their key: OpenAI, Azure, Anthropic."""

_APP_CHARS = 128
_API_VERSION = re.compile(rb"[?&](api-version=[^&]*)")


class Route:
    """The way of every request with one head."""

    __slots__ = (
        "_headers",
        "_heads",
        "_start",
        "app",
        "dialect",
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
        if head.method == b"POST":
            self.dialect = dialects.match(canonical(target))
            if self.dialect is not None:
                self.facts = RequestFacts(self.dialect.name)
            elif limits.unknown_routes == "block":
                raise RefusalError("unknown_route", "This path is not one that Lengthwise may relay.")
        if worker.settings.keys or pool.credential is not None:
            self._check_key(worker, pool)
        self.websocket = head.upgrade == b"websocket" and head.method == b"GET" and limits.upgrades == "pass"
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

    def _check_key(self, worker: "Worker", pool: "Pool") -> None:
        keys = worker.settings.keys
        for name in CREDENTIALS:
            value = self.head.named.get(name)
            if value is None:
                continue
            token = value.split(b" ", 1)[1] if name == b"authorization" and b" " in value else value
            digest = sha256(token.strip()).hexdigest()
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
