"""A worker as a whole: draining, counting, reloading, and its process as the supervisor starts it."""

import asyncio
import contextlib
import gc
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.policy import rules
from proxy.policy.live import Law, Live
from proxy.record import End
from proxy.relay import worker as module
from proxy.settings import from_json, to_json
from tests.support.provider import PATIENCE_S, Link, Provider, answering, ok, read_message, silent
from tests.support.relay import relay

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
START = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"


async def test_invariant_11_drain_lets_running_streams_finish():
    """The listening socket closes, idle clients end, the running stream arrives whole and its connection ends."""
    go = asyncio.Event()

    async def script(link: Link) -> None:
        await link.request()
        await link.send(START)
        await go.wait()
        await link.send(b"3\r\nbye\r\n0\r\n\r\n")

    async with Provider(script) as provider, relay(provider.url) as served:
        idle, busy = await served.connect(), await served.connect()
        await busy.send(GET)
        await busy.has(b"hello")
        draining = asyncio.create_task(served.worker.drain(PATIENCE_S))
        assert await idle.end() == "fin"
        with pytest.raises(ConnectionRefusedError):
            await served.connect()
        assert not draining.done()
        go.set()
        assert (await busy.message()).body == b"hellobye"
        assert await busy.end() == "fin"
        await draining
        assert (await served.record()).end is End.COMPLETE
        await provider.links[0].end()


async def test_invariant_11_drain_aborts_what_is_left_when_its_time_is_over():
    """Without a terminator, so that a cut stream looks like one; recorded as aborted; the upstream is cancelled."""

    async def script(link: Link) -> None:
        await link.request()
        await link.send(START if not link.number else b"")

    async with Provider(script) as provider, relay(provider.url) as served:
        streaming, waiting = await served.connect(), await served.connect()
        await streaming.send(GET)
        await streaming.has(b"hello")
        await waiting.send(GET)
        await (await provider.link(1)).head()
        await served.worker.drain(0.01)
        await streaming.end()
        assert read_message(streaming.received) is None
        assert await waiting.end() == "reset"
        assert waiting.received == b""
        for link in provider.links:
            await link.end()
        assert [(record.end, record.error_type) for record in await served.records(2)] == [(End.ABORTED, "drain")] * 2


async def test_invariant_11_nobody_is_refused_while_somebody_else_listens_on():
    """Connected just before, or kept alive, with a request under way: it is answered, and the connection ends with it."""
    async with Provider(answering(ok(), ok(), ok())) as provider, relay(provider.url) as served:
        kept, fresh = await served.connect(), await served.connect()
        await kept.send(GET)
        assert (await kept.message()).status == 200
        draining = asyncio.create_task(served.worker.drain(PATIENCE_S, linger=True))
        await asyncio.sleep(0)
        assert served.worker.draining
        for client in (kept, fresh):
            assert not draining.done()
            await client.send(GET)
            answer = await client.message()
            assert (answer.status, answer.value(b"connection")) == (200, b"close")
        await draining
        await served.records(3)


async def test_invariant_11_an_idle_connection_does_not_hold_up_a_drain_for_long(monkeypatch: pytest.MonkeyPatch):
    """One that brings nothing is closed when its time is over."""
    monkeypatch.setattr(module, "_LINGER_NS", 1)
    async with Provider(answering(ok(), ok(), ok())) as provider, relay(provider.url) as served:
        idle = await served.connect()
        await served.ask(GET)
        await served.worker.drain(PATIENCE_S, linger=True)
        assert await idle.end() == "fin"


async def test_invariant_11_drain_waits_until_a_slow_client_has_its_answer():
    """An exchange may be over while its last bytes are still here: they are not cut off."""
    size = 12_000_000
    async with Provider(answering(ok(b"x" * size))) as provider, relay(provider.url) as served:
        client = await served.connect(receive_buffer_bytes=65536)
        await client.send(GET)
        async with asyncio.timeout(PATIENCE_S):
            while not served.worker.exchanges:
                await asyncio.sleep(0)
        draining = asyncio.create_task(served.worker.drain(PATIENCE_S))
        assert len((await client.message()).body) == size
        await draining
        assert (await served.record()).end is End.COMPLETE


async def test_invariant_11_drain_waits_for_a_client_that_has_not_taken_its_answers():
    """Answers that are over and still here, behind them requests that will not be answered: the former arrive whole."""
    size = 100_000
    async with Provider(answering(ok(b"x" * size))) as provider, relay(provider.url) as served:
        client = await served.connect(receive_buffer_bytes=65536)
        await client.stop_reading()
        await client.send(GET * 400)
        async with asyncio.timeout(PATIENCE_S):
            before = -1
            while before != served.worker.exchanges or served.worker.exchanges_active or not before:
                before = served.worker.exchanges
                await asyncio.sleep(0.05)
        draining = asyncio.create_task(served.worker.drain(PATIENCE_S))
        await asyncio.sleep(0)
        client.read()
        assert await client.end() == "fin"
        await draining
        assert len([await client.message() for _ in range(before)]) == before < 400
        assert client.taken == len(client.received)


async def test_drain_answers_the_last_request_and_says_that_it_was_the_last():
    """A request that begins while we leave is answered, with `Connection: close`."""
    go = asyncio.Event()

    async def script(link: Link) -> None:
        await link.request()
        await go.wait()
        await link.send(ok())

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(GET)
        await (await provider.link(0)).head()
        draining = asyncio.create_task(served.worker.drain(PATIENCE_S))
        await asyncio.sleep(0)
        go.set()
        answer = await client.message()
        assert (answer.body, answer.value(b"connection")) == (b"ok", b"close")
        await draining


async def test_drain_of_an_idle_worker_is_over_at_once():
    """Nothing to wait for, not even with no limit of time."""
    async with Provider(answering(ok())) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(GET)
        await client.message()
        await served.worker.drain(None)
        assert await client.end() == "fin"
        await provider.links[0].end()


async def test_no_chunk_waits_for_the_acknowledgement_of_another():
    """Nagle's algorithm is off on both sides, however the listening socket was made: with it a chunk waits 40 ms."""
    async with Provider(silent) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(GET)
        await (await provider.link(0)).head()
        (inner,) = served.worker.clients
        (outer,) = served.worker.pools[0]._connections
        for transport in (inner._transport, outer.transport):
            assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_totals_count_what_began_runs_and_was_no_request():
    """Cumulative, but for the exchanges that run now."""
    async with Provider(silent) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(GET)
        await (await provider.link(0)).head()
        await served.ask(b"nonsense\r\n\r\n")
        digest = served.worker.policies.digest
        assert served.worker.totals() == {
            "exchanges": 1,
            "exchanges_active": 1,
            "connections_malformed": 1,
            "policy_digest": digest,
        }
        await client.close()
        await served.record()
        assert served.worker.totals()["exchanges_active"] == 0


async def test_a_connection_reads_new_policies_with_its_next_request():
    """A kept connection, with the same head again: what it remembers does not outlive a reload."""
    body = b'{"model":"m","max_tokens":5000}'
    request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with Provider(answering(ok())) as provider, relay(provider.url) as served:
        client = await served.connect()
        for document in (
            {"version": 1, "rules": []},
            {"version": 1, "rules": [{"name": "cap", "do": "cap", "max_tokens": 10}]},
            {"version": 1, "rules": []},
        ):
            served.worker.policies = rules.parse(document)
            await client.send(request)
            await client.message()
        received = [data.partition(b"\r\n\r\n")[2] for _, kind, data in provider.log if kind == "received"]
        assert received == [body, body.replace(b"5000", b"10"), body]


async def test_a_law_that_is_not_repeated_is_no_law_and_what_is_disarmed_stays_so():
    """The recorder's word is taken whole; when it has been away for 30 s only its laws are forgotten."""
    async with relay("http://127.0.0.1:9") as served:
        worker = served.worker
        said = Live({("u0", "m", 0.95): Law(0.5, 0.01)}, frozenset({"cap"}))
        worker.outbox.on_message({"live": said.to_json()})
        assert worker.live == said
        worker._live_ns -= 29_000_000_000
        worker._tick()
        assert worker.live == said
        worker._live_ns -= 2_000_000_000
        worker._tick()
        assert worker.live == Live(disarmed=frozenset({"cap"}))


async def test_a_mistake_of_ours_in_one_exchange_stays_there(caplog: pytest.LogCaptureFixture):
    """An exception in a callback costs its connection; timeouts and other exchanges go on."""

    def broken(now_ns: int) -> None:
        raise RuntimeError("a mistake")

    async with (
        Provider(answering(ok())) as provider,
        relay(provider.url, timeouts={"keepalive_s": 0.01}) as served,
    ):
        loop = asyncio.get_running_loop()
        seen = asyncio.Event()
        loop.set_exception_handler(lambda *_: seen.set())
        first = await served.connect()
        async with asyncio.timeout(PATIENCE_S):
            while not served.worker.clients:
                await asyncio.sleep(0)
        (inner,) = served.worker.clients
        original, served.worker.pools[0].sweep = served.worker.pools[0].sweep, broken
        async with asyncio.timeout(PATIENCE_S):
            await seen.wait()
        served.worker.pools[0].sweep = original
        second = await served.connect()
        assert await second.end() == "fin"  # the clock still ticks
        assert await first.end() == "fin"
        del inner


# -- a TLS listener ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cert.pem and key.pem for localhost, signed by itself."""
    folder = tmp_path_factory.mktemp("listen")
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    command += " -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem"
    subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    return folder


async def test_clients_may_come_over_tls(certificate: Path):
    """`listen_tls`: HTTP/1.1 by ALPN, the same answers, and the same cancelling of a client that leaves."""
    tls = {"cert_file": str(certificate / "cert.pem"), "key_file": str(certificate / "key.pem")}
    context = ssl.create_default_context(cafile=certificate / "cert.pem")
    context.set_alpn_protocols(["h2", "http/1.1"])

    async def script(link: Link) -> None:
        await link.request()
        await link.send(ok())
        await link.head()

    async with Provider(script) as provider, relay(provider.url, tls=tls) as served:
        reader, writer = await asyncio.open_connection(*served.address, ssl=context, server_hostname="localhost")
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        writer.write(GET)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 OK")
        writer.write(GET)
        link = await provider.link(0)
        await link.until(lambda: link.received.count(b"HTTP/1.1\r\n") == 2)
        writer.close()
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            await writer.wait_closed()
        await link.end()
        first, second = await served.records(2)
        assert (first.scheme, first.end, second.end) == ("https", End.COMPLETE, End.CLIENT_DISCONNECT)


# -- the process ------------------------------------------------------------------------------------------------------


class Process:
    """A worker's process and the supervisor's end of its control socket."""

    def __init__(self, url: str, intake: Path) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.control = ours
        self.process = subprocess.Popen(
            [sys.executable, "-m", "proxy.relay", "--control", str(theirs.fileno())],
            pass_fds=(theirs.fileno(), self.listener.fileno()),
            stderr=subprocess.PIPE,
        )
        theirs.close()
        settings = from_json(orjson.dumps({"upstreams": [{"name": "u", "url": url}], "policies": None}))
        self.say(
            {
                "init": {
                    "settings": orjson.loads(to_json(settings)),
                    "policy": {"version": 1, "rules": []},
                    "intake": str(intake),
                    "index": 0,
                    "listen_fd": self.listener.fileno(),
                }
            }
        )
        self._received = b""

    def say(self, message: dict[str, Any]) -> None:
        """One line to the worker."""
        self.control.send(orjson.dumps(message) + b"\n")

    async def hear(self, key: str) -> Any:
        """The next message with this key."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                line, end, rest = self._received.partition(b"\n")
                if end:
                    self._received = rest
                    message = orjson.loads(line)
                    if key in message:
                        return message[key]
                    continue
                data = await loop.sock_recv(self.control, 65536)
                assert data, "the worker left"
                self._received += data

    async def left(self) -> int:
        """Wait for its end."""
        code = await asyncio.to_thread(self.process.wait, PATIENCE_S)
        assert self.process.stderr is not None
        self.said = self.process.stderr.read().decode()
        self.process.stderr.close()
        self.control.close()
        self.listener.close()
        return code


@pytest.mark.asyncio(loop_factories=["asyncio"])
@pytest.mark.parametrize("how", ["the word", "end of the control socket"])
async def test_a_worker_process_serves_reloads_and_leaves(how: str, tmp_path: Path):
    """Ready, heartbeats, a request, another policy, and a clean end, with no recorder anywhere."""
    body = b'{"model":"m","max_tokens":5000}'
    request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with Provider(answering(ok())) as provider:
        worker = Process(provider.url, tmp_path / "nobody")
        assert await worker.hear("ready") is True
        assert (await worker.hear("heartbeat"))["exchanges"] == 0
        worker.say({"policy": {"version": 1, "rules": [{"name": "cap", "do": "cap", "max_tokens": 10}]}})
        digest = rules.parse({"version": 1, "rules": [{"name": "cap", "do": "cap", "max_tokens": 10}]}).digest
        while (await worker.hear("heartbeat"))["policy_digest"] != digest:
            pass
        reader, writer = await asyncio.open_connection(*worker.address)
        writer.write(request)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 OK")
        assert provider.links[0].received.endswith(body.replace(b"5000", b"10"))
        if how == "the word":
            worker.say({"leave": True})
        else:
            worker.control.shutdown(socket.SHUT_RDWR)
        assert await reader.read() == b""
        writer.close()
        assert await worker.left() == 0
        assert "Traceback" not in worker.said


@pytest.mark.parametrize("end", ["whole", "left", "broken", "kept"])
async def test_a_connection_that_ended_leaves_nothing_to_collect(end: str):
    """Collections are rare in a worker: what waits for one, of each connection, is memory that grows."""

    async def script(link: Link) -> None:
        while True:
            await link.request()
            await link.send(START + (b"0\r\n\r\n" if end in {"whole", "kept"} else b""))
            if end == "left":
                await link.closed.wait()
            if end != "kept":
                await link.fin()
                return

    async with Provider(script) as provider, relay(provider.url) as served:
        gc.collect()
        gc.disable()
        try:
            for number in range(3):
                client = await served.connect()
                await client.send(GET)
                await client.has(b"hello")
                await client.close()
                await served.records(number + 1)
                await served.settled()
            await served.worker.drain(0)
            async with asyncio.timeout(PATIENCE_S):
                while any(pool._connections for pool in served.worker.pools):
                    await asyncio.sleep(0)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            ours = [
                type(each).__name__ for each in gc.garbage if type(each).__module__.startswith(("proxy", "httptools"))
            ]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert ours == []
