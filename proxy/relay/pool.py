"""Connections to one upstream: kept while the upstream keeps them, made when there is none.

Layer: relay. No queue and no cap: a request never waits behind another for a connection.

Only here is an upstream's host resolved and connected, from the settings and nothing else (ARCHITECTURE.md 5.9).
"""

import asyncio
import base64
import logging
import os
import socket
import ssl
from collections.abc import Callable
from time import monotonic_ns
from urllib.parse import SplitResult, unquote, urlsplit

import aiohappyeyeballs

from proxy.relay.upstream import Upstream
from proxy.settings import Settings, names_proxy
from proxy.settings import Upstream as UpstreamSettings

__all__ = ["Pool"]

_log = logging.getLogger(__name__)

_WARN_NS = 10_000_000_000

_IDLE_S = 4.0
"""Kept without a word of the upstream about it; node closes after 5 s, uvicorn too."""
_MARGIN_S = 1.0
"""An upstream that closes at its timeout races with a request that leaves at the same moment: leave earlier."""
_LONGEST_S = 86_400.0
"""However long an upstream says that it keeps a connection: it may say more than a clock can hold."""
_HAPPY_EYEBALLS_S = 0.25  # RFC 8305 8


class Pool:
    """One upstream, its idle connections, and what a request to it needs."""

    def __init__(self, settings: Settings, upstream: UpstreamSettings) -> None:
        self.upstream = upstream
        self.header_bytes = settings.limits.header_bytes
        self.host, self.port = upstream.host, upstream.port
        authority = f"[{self.host}]" if ":" in self.host else self.host
        if self.port != {"http": 80, "https": 443}[upstream.scheme]:
            authority += f":{self.port}"
        self.host_header = authority.encode("latin-1")
        self.base_path = upstream.base_path.rstrip("/").encode("latin-1")
        self.prefix = upstream.prefix.encode("latin-1")
        self.credential = os.environ[upstream.api_key_env].strip().encode() if upstream.api_key_env else None
        self.insert_field = _insert_field(upstream)
        self.usage_refused: set[bytes] = set()
        """Paths (`Route.usage_key`) on which this upstream refused to be asked for usage."""
        self._warned_ns = -_WARN_NS
        self._keepalive_s = settings.timeouts.keepalive_s
        self._loop = asyncio.get_running_loop()
        self._tls = _tls_context(upstream) if upstream.scheme == "https" else None
        self._idle: list[Upstream] = []
        self._connections: set[Upstream] = set()

    def take(self) -> Upstream | None:
        """The idle connection used last, or None."""
        now_ns = monotonic_ns()
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing() and connection.expires_ns > now_ns:
                return connection
            connection.transport.abort()
        return None

    def put_back(self, connection: Upstream, timeout_s: float | None) -> None:
        """Keep a connection that is fit for another request."""
        idle_s = _IDLE_S if timeout_s is None else min(max(timeout_s - _MARGIN_S, 0), _LONGEST_S)
        if self._keepalive_s is not None:
            idle_s = min(idle_s, self._keepalive_s)
        connection.expires_ns = monotonic_ns() + int(idle_s * 1e9)
        self._idle.append(connection)

    def forget(self, connection: Upstream) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        if connection.exchange is None and connection in self._idle:
            self._idle.remove(connection)

    def sweep(self, now_ns: int) -> None:
        """Close idle connections that expired."""
        for connection in [connection for connection in self._idle if connection.expires_ns <= now_ns]:
            self._idle.remove(connection)
            connection.transport.abort()

    def close(self) -> None:
        """Close every connection."""
        for connection in tuple(self._connections):
            connection.transport.abort()

    def connect(self, connected: Callable[[Upstream], None], failed: Callable[[str], None]) -> asyncio.Task[None]:
        """Make a new connection; exactly one of the callbacks is called, none when the task is cancelled.

        `failed` gets a reason without addresses or credentials.
        """
        return self._loop.create_task(self._connect(connected, failed))

    async def _connect(self, connected: Callable[[Upstream], None], failed: Callable[[str], None]) -> None:
        try:
            connection = await self._open()
        except Exception as error:  # noqa: BLE001 -- whatever it is, silence would leave a client waiting
            reason = _reason(error)
            self._warn(reason)
            failed(reason)
        else:
            self._connections.add(connection)
            connected(connection)

    def _warn(self, reason: str) -> None:
        """Log an upstream that cannot be reached, at most every ten seconds: each request finds the same."""
        now_ns = monotonic_ns()
        if now_ns - self._warned_ns > _WARN_NS:
            self._warned_ns = now_ns
            _log.warning("upstream %s (%s:%d) cannot be reached: %s", self.upstream.name, self.host, self.port, reason)

    async def _open(self) -> Upstream:
        upstream = self.upstream
        proxy = self._proxy()
        host, port = (proxy.hostname or "", proxy.port or 80) if proxy else (self.host, self.port)
        sock = await aiohappyeyeballs.start_connection(
            await self._resolve(host, port), happy_eyeballs_delay=_HAPPY_EYEBALLS_S, interleave=1, loop=self._loop
        )
        try:
            if proxy is not None:
                await self._tunnel(sock, proxy.username, proxy.password)
            _, connection = await self._loop.create_connection(
                lambda: Upstream(self),
                sock=sock,
                ssl=self._tls,
                server_hostname=upstream.host if self._tls is not None else None,
            )
        except BaseException:
            sock.close()
            raise
        return connection

    async def _resolve(self, host: str, port: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        try:  # a literal address needs no thread
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return found  # type: ignore[return-value]  # typeshed's sockaddr is wider than what an IP socket has

    def _proxy(self) -> SplitResult | None:
        upstream = self.upstream
        if not (upstream.proxy_env and names_proxy(os.environ)):
            return None
        from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined] # noqa: PLC0415

        if proxy_bypass_environment(f"{upstream.host}:{upstream.port}"):
            return None
        address = getproxies_environment().get(upstream.scheme)
        return urlsplit(address if "//" in address else f"http://{address}") if address else None

    async def _tunnel(self, sock: socket.socket, user: str | None, password: str | None) -> None:
        """Ask a forward proxy for a tunnel (RFC 9110 9.3.6)."""
        target = f"{self.upstream.host}:{self.upstream.port}"
        request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
        if user is not None:
            token = base64.b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()
            request += f"Proxy-Authorization: Basic {token}\r\n"
        await self._loop.sock_sendall(sock, request.encode("latin-1") + b"\r\n")
        answer = b""
        while b"\r\n\r\n" not in answer:
            # One byte at a time past the head would be the tunnel's own; a proxy sends nothing before we do.
            data = await self._loop.sock_recv(sock, 4096)
            answer += data
            if not data or len(answer) > self.header_bytes:
                raise ConnectionRefusedError(None, "the forward proxy closed")
        if answer.split(b" ", 2)[1:2] != [b"200"]:
            raise ConnectionRefusedError(None, "the forward proxy refused")


def _reason(error: Exception) -> str:
    """Why a connection failed, without addresses, and without texts that may quote a credential."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was refused ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason})"
    if isinstance(error, socket.gaierror):
        return "its name could not be resolved"
    if isinstance(error, UnicodeError):
        return "its name is none that could be resolved"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return type(error).__name__


def _insert_field(upstream: UpstreamSettings) -> str:
    """The field in which a limit is inserted: OpenAI and Azure refuse `max_tokens` for reasoning models, while Ollama
    and llama.cpp's Python server ignore `max_completion_tokens`.
    """
    if upstream.insert_field != "auto":
        return upstream.insert_field
    official = upstream.host == "api.openai.com" or upstream.host.endswith((".openai.azure.com", ".azure-api.net"))
    return "max_completion_tokens" if official else "max_tokens"


def _tls_context(upstream: UpstreamSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(upstream.tls.ca_file) if upstream.tls.ca_file else None)
    if upstream.tls.cert_file:
        context.load_cert_chain(upstream.tls.cert_file, upstream.tls.key_file)
    if not upstream.tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context
