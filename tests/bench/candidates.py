"""The things that are compared, each started with its own files in a temporary folder and pinned: direct, nginx, Lengthwise.

The process whose CPU is counted runs on core 0 alone; everything else (upstream, load, recorder, supervisor, OTLP sink) on core 1.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import processes

MEASURED_CORE, OTHER_CORE = 0, 1
HERE = Path(__file__).parent
BUILD = HERE / "build"

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log warn; {user}
worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 75s;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi; client_body_buffer_size 64k;
  upstream provider {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""

FULL = """
listen: 127.0.0.1:{port}
admin: 127.0.0.1:{admin}
workers: 1
upstreams: [{{name: bench, url: "http://127.0.0.1:{upstream}", provider: openai, usage: inject}}]
policies: policies.yaml
telemetry: {{traces: otlp, metrics: otlp, prometheus: true}}
ledger: {{path: lengthwise.sqlite}}
"""

BARE = """
listen: 127.0.0.1:{port}
admin: 127.0.0.1:{admin}
workers: 1
upstreams: [{{name: bench, url: "http://127.0.0.1:{upstream}", provider: openai, usage: observe}}]
telemetry: {{traces: none, metrics: none, prometheus: false}}
ledger: {{path: null}}
"""


@dataclass(slots=True)
class Running:
    """A candidate that answers."""

    name: str
    port: int
    measured: int | None = None
    """Process whose CPU counts; None for direct."""
    recorder: int | None = None
    admin: int | None = None
    """Admin port; None when it has none."""
    first_answer_s: float = 0.0
    """From the start of the process to the first whole answer."""
    stop: Callable[[], None] = lambda: None

    def metric(self, name: str) -> float:
        """Sum of all series of a Prometheus counter; 0 when it has none yet or there is no admin port."""
        if self.admin is None:
            return 0.0
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)", text, re.MULTILINE))

    def settle(self) -> None:
        """Wait until the recorder has worked off what the last measurement left, 20 s at most."""
        if self.recorder is None:
            return
        time.sleep(1.1)  # the worker sends its totals, drops among them, once a second
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            before = processes.cpu_ns(self.recorder)
            time.sleep(0.25)
            if processes.cpu_ns(self.recorder) - before < 0.25e9 * 0.05:
                return


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


def on_other_core(command: Sequence[str | Path]) -> list[str | Path]:
    """`command`, confined from its start to the core that is not measured; its children inherit that."""
    return ["taskset", "-c", str(OTHER_CORE), *command]


def _start(command: Sequence[str | Path], log: Path, **options: Any) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(on_other_core(command), stdout=out, stderr=out, stdin=subprocess.DEVNULL, **options)


def _stopper(process: subprocess.Popen[bytes]) -> Callable[[], None]:
    def stop() -> None:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    return stop


def _first_answer(process: subprocess.Popen[bytes], port: int, log: Path) -> float:
    started, deadline = time.monotonic(), time.monotonic() + 20
    body = json.dumps({"model": "bench-1-0-0", "messages": []}).encode()
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", body, method="POST")
            with urllib.request.urlopen(request, timeout=5) as answer:
                answer.read()
            return time.monotonic() - started
        except OSError:
            time.sleep(0.005)
    process.kill()
    raise SystemExit(f"bench: no answer on port {port}:\n{log.read_text()[-4000:]}")


def _pinned(process: subprocess.Popen[bytes], words: str) -> int:
    worker = processes.named(process.pid, words)
    if worker is None:
        process.kill()
        raise SystemExit(f"bench: no process named {words!r}")
    processes.pin(worker, MEASURED_CORE)
    return worker


def start_upstream(folder: Path, name: str = "upstream") -> Running:
    """Start a fake provider; also the OTLP sink (`name`), which takes every POST."""
    port = free_port()
    process = _start([BUILD / "upstream", str(port)], folder / f"{name}.log")
    running = Running("direct", port, stop=_stopper(process))
    running.first_answer_s = _first_answer(process, port, folder / f"{name}.log")
    return running


def start_nginx(folder: Path, upstream: int) -> Running:
    """Start nginx with one worker, unbuffered, keep-alive on both sides."""
    port, log = free_port(), folder / "nginx.log"
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, upstream=upstream, user=user))
    process = _start(["nginx", "-c", folder / "nginx.conf", "-e", folder / "error.log", "-p", folder], log)
    first = _first_answer(process, port, folder / "error.log")
    worker = _pinned(process, "worker process")
    return Running("nginx", port, worker, first_answer_s=first, stop=_stopper(process))


def start_lengthwise(folder: Path, upstream: int, sink: int, *, full: bool) -> Running:
    """Start Lengthwise: `full` with every sink, injected usage and ten rules of which the last caps; else without any."""
    name = "lengthwise" if full else "lengthwise-bare"
    folder = folder / name
    folder.mkdir()
    port, admin = free_port(), free_port()
    config = folder / "lengthwise.yaml"
    config.write_text((FULL if full else BARE).format(port=port, admin=admin, upstream=upstream))
    if full:
        patterns = [*(f"other-{i}-*" for i in range(9)), "bench-*"]
        rules = [
            {"name": f"rule-{i}", "match": {"model": [pattern]}, "do": "cap", "max_tokens": 256, "mode": "enforce"}
            for i, pattern in enumerate(patterns)
        ]
        (folder / "policies.yaml").write_text(json.dumps({"version": 1, "rules": rules}))
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "LENGTHWISE_"))}
    environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{sink}"
    environ["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf"
    command = [sys.executable, "-m", "proxy.cli", "serve", "--config", str(config)]
    process = _start(command, folder / "log", env=environ, cwd=HERE.parent.parent)
    first = _first_answer(process, port, folder / "log")
    worker = _pinned(process, "proxy.relay")
    recorder = processes.named(process.pid, "proxy.recorder")
    return Running(name, port, worker, recorder, admin if full else None, first, _stopper(process))
