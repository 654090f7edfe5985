"""nginx reads the same bytes: whatever we relay and nginx refuses has a reason in the table of cases.

Debian: `apt-get install nginx-light`. `-s` prints each difference, the ones where nginx is the laxer one included.
"""

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.requests import CASES, Case, Seen
from tests.conformance.test_requests import answers_in, as_seen
from tests.support.provider import PATIENCE_S, Link, Provider, Wire, ok

LAST = b"GET /after HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
WAIT_S = 1.0
"""A case behind which nginx still waits for bytes after this is one that it did not understand as we do."""
CONFIG = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log crit; {user}
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; large_client_header_buffers 16 64k;
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://127.0.0.1:{upstream}; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")


@contextlib.asynccontextmanager
async def nginx(folder: Path, upstream: int) -> AsyncIterator[int]:
    """The port of an nginx in front of `upstream`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, port=port, upstream=upstream, user=user))
    command = ["nginx", "-c", folder / "nginx.conf", "-e", folder / "error.log", "-p", folder]
    process = await asyncio.create_subprocess_exec(*command)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert process.returncode is None
                await asyncio.sleep(0.02)
        yield port
    finally:
        process.terminate()
        await process.wait()


async def told(port: int, case: Case) -> Wire:
    """A client's connection after everything was said."""
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    client = Wire(sock)
    client.read()
    with contextlib.suppress(ConnectionError):
        await client.send(case.sent + LAST)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(WAIT_S):
            await client.closed.wait()
    await client.close()
    return client


async def test_what_we_relay_and_nginx_refuses_has_a_reason(tmp_path: Path) -> None:
    """And a reason without such a difference is an old one."""
    reached: list[Seen] = []

    async def script(link: Link) -> None:
        while True:
            reached.append(as_seen(await link.request()))
            await link.send(ok(b"" if reached[-1].line.startswith(b"HEAD ") else b"ok"))

    unexplained, outdated, laxer = [], [], []
    async with Provider(script) as provider, nginx(tmp_path, provider.port) as port:
        for case in CASES:
            reached.clear()
            client = await told(port, case)
            relayed = [each for each in case.expected if isinstance(each, Seen)]
            ours = len(relayed) == len(case.expected)
            through = [each for each in reached if each.line != b"GET /after"]
            theirs = len(through) == len(relayed)
            with contextlib.suppress(AssertionError):
                statuses = [answer.status for answer in answers_in(bytes(client.received), [])]
            if ours and not theirs:
                if case.nginx is None:
                    unexplained.append((case.kind, case.name, statuses))
            elif case.nginx is not None:
                outdated.append((case.kind, case.name))
            if not ours and len(through) > len(relayed):
                laxer.append((case.kind, case.name, [each.line for each in through]))
    for kind, name, lines in laxer:
        print(f"we refuse and nginx relays: {kind}: {name}: {lines}")
    for case in CASES:
        if case.nginx is not None:
            print(f"we relay and nginx refuses: {case.kind}: {case.name}: {case.nginx}")
    assert unexplained == []
    assert outdated == []
