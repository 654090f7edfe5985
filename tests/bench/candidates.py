"""The things that are compared, each started with its own files in a temporary folder and pinned.

The process that relays, whose CPU is counted, runs on the first core alone; everything else (upstream, load, recorder, supervisor,
OTLP sink, and this program) on the others. The `-2` candidates have two such processes, which run where the kernel puts them.
"""

import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench import processes
from tests.engines.install import home_of
from tests.support.certificates import make_certificates

CORES = sorted(os.sched_getaffinity(0))
MEASURED_CORES, OTHER_CORES = CORES[:1], CORES[1:]
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = HERE / "build"
START_S = 60.0
IN_FLIGHT = 10
"""What `lengthwise-shedding` lets in."""
TOKEN = "sk-bench-0123456789abcdef0123456789abcdef"
"""What the load generator brings."""

NGINX = """
daemon off; worker_processes {workers}; pid {folder}/nginx.pid; error_log {folder}/error.log warn; {user}
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 75s;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi; client_body_buffer_size 64k;
  upstream provider {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096 {listening};
    location / {{
      proxy_pass {scheme}://provider; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_read_timeout 600s; {passing}
    }}
  }}
}}
"""
ENDS_TLS = "ssl; ssl_certificate {tls}/localhost.pem; ssl_certificate_key {tls}/localhost.key"
BEGINS_TLS = "proxy_ssl_trusted_certificate {tls}/ca.pem; proxy_ssl_verify on; proxy_ssl_name localhost; proxy_ssl_server_name on;"
PORTKEY_HEADERS = (
    "const plain = fetch; globalThis.fetch = async (...given) => "
    "{ const got = await plain(...given); return new Response(got.body, got) }"
)
"""Preloaded: under Node.js 20 the published package fails every stream, because the headers that fetch gives it cannot be changed."""


@dataclass(slots=True)
class Running:
    """A candidate that answers."""

    name: str
    port: int
    pid: int
    measured: Sequence[int] = ()
    """Processes whose CPU counts; none for direct."""
    recorder: int | None = None
    admin: int | None = None
    """Lengthwise's admin port."""
    lag_s: float = 0.0
    """What it does after an answer begins at the latest so much later."""
    headers: Sequence[str] = ()
    """Lines that each request must carry."""
    first_answer_s: float = 0.0
    """From the start of the process, on all cores, to the end of the first answer; looked for every 5 ms."""

    def rss_kib(self) -> int:
        """Resident memory of what is measured."""
        return sum(map(processes.rss_kib, self.measured))

    def status(self) -> dict[str, Any]:
        """Lengthwise's `/status`; empty for the others."""
        return get(self.admin, "/status") if self.admin is not None else {}

    def settle(self) -> None:
        """Wait until the recorder has worked off what the last measurement left, 20 s at most."""
        if self.recorder is None:
            return
        time.sleep(self.lag_s)
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s:
            before_ns = processes.cpu_ns(self.recorder)
            time.sleep(0.2)
            if processes.cpu_ns(self.recorder) - before_ns < 0.2e9 * 0.05:
                return


@dataclass(frozen=True, slots=True)
class Ground:
    """What all candidates stand on."""

    folder: Path
    """For their files."""
    tls: Path
    """Certificates of an authority and of `localhost`."""
    direct: Running
    """The upstream itself."""
    tls_port: int
    """An nginx before the same upstream that ends TLS."""
    sink_port: int
    """Takes OTLP over HTTP."""


def get(port: int, path: str) -> dict[str, Any]:
    """A JSON answer."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return json.loads(answer.read())  # type: ignore[no-any-return]


def compile_parts() -> None:
    """Build the C upstream and load generator when their sources are newer."""
    BUILD.mkdir(exist_ok=True)
    for name in ("upstream", "load"):
        source, program = HERE / f"{name}.c", BUILD / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["cc", "-std=gnu11", "-O2", "-Wall", "-o", program, source], check=True)


def free_port() -> int:
    """A port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- start and stop ---------------------------------------------------------------------------------------------------


@contextmanager
def _process(
    name: str, command: Iterable[str | Path], url: str, log: Path, headers: Sequence[str] = (), **options: Any
) -> Iterator[Running]:
    """A process on all cores until it has given its first answer, then on the others."""
    started_s = time.monotonic()
    on_all = ["taskset", "-c", ",".join(map(str, CORES))]
    with log.open("ab") as out:
        process = subprocess.Popen([*on_all, *command], stdout=out, stderr=out, stdin=subprocess.DEVNULL, **options)
    try:
        _await_answer(process, url, log, headers)
        first_s = time.monotonic() - started_s
        for pid in (process.pid, *processes.descendants(process.pid)):
            processes.pin(pid, OTHER_CORES)
        yield Running(name, int(url.rsplit(":", 1)[1]), process.pid, headers=headers, first_answer_s=first_s)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_answer(process: subprocess.Popen[bytes], url: str, log: Path, headers: Sequence[str]) -> None:
    body = json.dumps({"model": "bench-1-0-0", "messages": [{"role": "user", "content": "hi"}]}).encode()
    fields = dict(line.split(": ", 1) for line in (*headers, f"Authorization: Bearer {TOKEN}"))
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, fields | {"Content-Type": "application/json"})
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=10, context=anybody) as answer:
                answer.read()
                return
        except OSError:
            time.sleep(0.005)
    raise SystemExit(f"bench: no answer from {url}:\n{log.read_text()[-4000:]}")


def _measured(running: Running, words: str | None = None, count: int = 1) -> Running:
    """With the processes that relay on their cores: those whose command line has `words`; None for its own."""
    found = [running.pid] if words is None else processes.all_named(running.pid, words)
    if len(found) != count:
        raise SystemExit(f"bench: {running.name} has {len(found)} relaying processes, not {count}")
    for pid in found:
        processes.pin(pid, MEASURED_CORES if count == 1 else CORES)
    running.measured = found
    return running


@contextmanager
def upstream(folder: Path, name: str = "direct") -> Iterator[Running]:
    """A fake provider; by another name the OTLP sink, which takes every POST."""
    port = free_port()
    with _process(name, [BUILD / "upstream", str(port)], f"http://127.0.0.1:{port}", folder / f"{name}.log") as running:
        yield running


@contextmanager
def ground(folder: Path) -> Iterator[Ground]:
    """Start what all candidates need."""
    tls = folder / "tls"
    tls.mkdir()
    make_certificates(tls)
    with ExitStack() as stack:
        direct, sink = (stack.enter_context(upstream(folder, name)) for name in ("direct", "sink"))
        end = stack.enter_context(_nginx("tls", folder, direct.port, listening=ENDS_TLS.format(tls=tls)))
        yield Ground(folder, tls, direct, end.port, sink.port)


@contextmanager
def _nginx(name: str, folder: Path, upstream_port: int, workers: int = 1, **changes: str) -> Iterator[Running]:
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder))
    port, config = free_port(), folder / "nginx.conf"
    values = {"scheme": "http", "listening": "", "passing": "", "user": "user root;" if os.geteuid() == 0 else ""}
    config.write_text(
        NGINX.format(folder=folder, port=port, upstream=upstream_port, workers=workers, **(values | changes))
    )
    url = f"{'https' if changes.get('listening', '').startswith('ssl') else 'http'}://127.0.0.1:{port}"
    command = ["nginx", "-c", config, "-e", folder / "error.log", "-p", folder]
    with _process(name, command, url, folder / "error.log") as running:
        yield running


# -- the candidates ---------------------------------------------------------------------------------------------------


@contextmanager
def _direct(_name: str, ground: Ground) -> Iterator[Running]:
    yield ground.direct


@contextmanager
def nginx(name: str, ground: Ground, *, workers: int = 1, tls: bool = False) -> Iterator[Running]:
    """nginx, unbuffered, keep-alive on both sides; more workers with a socket each, or one of them would take every connection."""
    changes = {"scheme": "https", "passing": BEGINS_TLS.format(tls=ground.tls)} if tls else {}
    if workers > 1:
        changes["listening"] = "reuseport"
    port = ground.tls_port if tls else ground.direct.port
    with _nginx(name, ground.folder, port, workers, **changes) as running:
        yield _measured(running, "worker process", workers)


@contextmanager
def lengthwise(
    name: str,
    ground: Ground,
    *,
    observing: bool = True,
    rules: int = 10,
    workers: int = 1,
    in_flight: int = 0,
    tls: bool = False,
) -> Iterator[Running]:
    """Lengthwise: `observing` with every sink, injected usage and so many rules, of which the last caps; else with none of it."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=ground.folder))
    port, admin = free_port(), free_port()
    to: dict[str, Any] = {"name": "bench", "provider": "openai", "url": f"http://127.0.0.1:{ground.direct.port}"}
    if tls:
        to |= {"url": f"https://localhost:{ground.tls_port}", "tls": {"ca_file": str(ground.tls / "ca.pem")}}
    settings: dict[str, Any] = {
        "listen": f"127.0.0.1:{port}",
        "admin": f"127.0.0.1:{admin}",
        "workers": workers,
        "limits": {"in_flight": in_flight},
        "upstreams": [to | {"usage": "inject" if observing else "observe"}],
    }
    if observing:
        settings |= {"policies": "policies.yaml", "ledger": {"path": "lengthwise.sqlite"}}
        settings["telemetry"] = {"traces": "otlp", "metrics": "otlp", "prometheus": True}
        patterns = [*(f"other-{number}-*" for number in range(rules - 1)), "bench-*"]
        document = [
            {"name": f"rule-{number}", "match": {"model": [pattern]}, "do": "cap", "max_tokens": 256}
            for number, pattern in enumerate(patterns)
        ]
        (folder / "policies.yaml").write_text(json.dumps({"version": 1, "rules": document}))
    else:
        settings |= {"ledger": {"path": None}}
        settings["telemetry"] = {"traces": "none", "metrics": "none", "prometheus": False}
    config = folder / "lengthwise.yaml"
    config.write_text(json.dumps(settings))
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "LENGTHWISE_"))}
    environ |= {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{ground.sink_port}"}
    command = [sys.executable, "-m", "proxy.cli", "serve", "--config", config]
    with _process(name, command, f"http://127.0.0.1:{port}", folder / "log", env=environ, cwd=ROOT) as running:
        running.admin = admin
        running.recorder = processes.named(running.pid, "proxy.recorder")
        running.lag_s = 1.1 if observing else 0.0  # spans leave, and totals come, once a second
        yield _measured(running, "proxy.relay", workers)


@contextmanager
def aiohttp(name: str, ground: Ground) -> Iterator[Running]:
    """`aiohttp_proxy.py`."""
    port, log = free_port(), ground.folder / f"{name}.log"
    command = [sys.executable, HERE / "aiohttp_proxy.py", str(port), str(ground.direct.port)]
    with _process(name, command, f"http://127.0.0.1:{port}", log) as running:
        yield _measured(running)


@contextmanager
def litellm(name: str, ground: Ground) -> Iterator[Running]:
    """LiteLLM's proxy: one process, a master key, its defaults otherwise; nothing fetched at its start."""
    port, log, config = free_port(), ground.folder / f"{name}.log", ground.folder / "litellm.yaml"
    to = {"model": "openai/bench-*", "api_base": f"http://127.0.0.1:{ground.direct.port}/v1", "api_key": TOKEN}
    settings = {
        "model_list": [{"model_name": "bench-*", "litellm_params": to}],
        "general_settings": {"master_key": TOKEN},
    }
    config.write_text(json.dumps(settings))
    program = engine(name) / "bin" / "litellm"
    command = [program, "--config", config, "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    environ = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with _process(name, command, f"http://127.0.0.1:{port}", log, env=environ, cwd=ground.folder) as running:
        yield _measured(running)


@contextmanager
def portkey(name: str, ground: Ground) -> Iterator[Running]:
    """Portkey's gateway under Node.js, told where to by headers."""
    port, log = free_port(), ground.folder / f"{name}.log"
    program = engine(name) / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    command = ["node", "--import", f"data:text/javascript,{PORTKEY_HEADERS}", program, f"--port={port}", "--headless"]
    headers = (
        "x-portkey-provider: openai",
        f"x-portkey-custom-host: http://127.0.0.1:{ground.direct.port}/v1",
    )
    environ = os.environ | {"NODE_ENV": "production"}
    with _process(name, command, f"http://127.0.0.1:{port}", log, headers, env=environ) as running:
        yield _measured(running)


def engine(name: str) -> Path:
    """The folder of an installed part."""
    home = home_of(PARTS[name])
    assert home is not None, "a candidate that is absent is not started"
    return home


def engine_version(name: str) -> str:
    """Of an installed candidate."""
    if name == "portkey":
        package = engine(name) / "node_modules" / "@portkey-ai" / "gateway" / "package.json"
        return str(json.loads(package.read_text())["version"])
    code = "import importlib.metadata; print(importlib.metadata.version('litellm'))"
    return subprocess.run(
        [engine(name) / "bin" / "python", "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def absent(name: str) -> str | None:
    """Why a candidate cannot take part; None when it can."""
    part = PARTS.get(name)
    if part is None or home_of(part) is not None:
        return None
    return f"not installed: python tests/engines/install.py {part}"


PARTS = {"litellm": "litellm-proxy", "portkey": "portkey"}
"""Candidates that `tests/engines/install.py` installs."""
CANDIDATES: Mapping[str, Callable[[str, Ground], AbstractContextManager[Running]]] = {
    "direct": _direct,
    "nginx": nginx,
    "lengthwise": lengthwise,
    "lengthwise-bare": partial(lengthwise, observing=False),
    "aiohttp": aiohttp,
    "litellm": litellm,
    "portkey": portkey,
    "nginx-tls": partial(nginx, tls=True),
    "lengthwise-tls": partial(lengthwise, tls=True),
    "lengthwise-50": partial(lengthwise, rules=50),
    "nginx-2": partial(nginx, workers=2),
    "lengthwise-2": partial(lengthwise, workers=2),
    "lengthwise-shedding": partial(lengthwise, in_flight=IN_FLIGHT),
}
