"""A websocket after its handshake: bytes both ways, nothing read, nothing kept.

Layer: relay. Until the upstream has answered 101 the client's bytes are held by its connection, never forwarded: an
upstream that refuses the upgrade would read them as another request.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.relay.client import Client
    from proxy.relay.upstream import Upstream

__all__ = ["Tunnel"]


class Tunnel:
    """Both directions of one upgraded connection."""

    __slots__ = ("_client", "_upstream", "is_open")

    def __init__(self, client: "Client") -> None:
        self.is_open = False
        self._client = client
        self._upstream: Upstream | None = None

    def open(self, upstream: "Upstream") -> None:
        """The upstream switched protocols: what the client sent meanwhile goes out first."""
        self._upstream = upstream
        self.is_open = True
        held = self._client.take_held()
        if held:
            self.from_client(held)

    def from_client(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._upstream is not None:
            self._upstream.transport.write(data)

    def from_upstream(self, data: bytes) -> None:
        """Bytes of the upstream."""
        self._client.write(data)
