"""What the recorder costs, alone: records over its socket, with every sink on, and what of it each sink is.

Run by `python -m tests.bench.recorder`. `saturated`: as many as it takes, never more unacknowledged than a worker holds. `paced`: 2,000
a second; sustained means that the most unacknowledged stays small and that no span is dropped. The recorder runs on core 0, the feeder
and the OTLP sink on core 1. CPU is that of all the recorder's threads. Needs Linux with two cores and cc.
"""

import argparse
import os
import random
import socket
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson

from proxy.record import Action, Decision, ExchangeRecord, ShadowDecision, to_line
from tests.bench import processes
from tests.bench.candidates import MEASURED_CORES, OTHER_CORES, compile_parts, upstream
from tests.support.recorder import RecorderHost, Worker
from tests.support.records import at, make_record

HELD_RECORDS, BATCH_RECORDS, FLUSH_S = 8192, 40, 0.02
"""As a worker does: what it holds, what gathers between two flushes at 2,000 a second."""
SINKS: dict[str, dict[str, Any]] = {
    "everything": {},
    "without OTLP": {"traces": "none", "metrics": "none"},
    "ledger alone": {"traces": "none", "metrics": "none", "prometheus": False},
}


def exchanges(count: int) -> list[ExchangeRecord]:
    """Streamed chats of five models, a third of them capped, a third judged by a shadow rule; each with ids of its own."""
    draw = random.Random(1)
    found = []
    for number in range(count):
        decision = [
            Decision(forwarded_max_tokens=512, limit_field="max_tokens"),
            Decision(Action.CAPPED, "cap", 256, "max_tokens"),
            Decision(
                forwarded_max_tokens=512,
                limit_field="max_tokens",
                shadow=(ShadowDecision("shadow", Action.CAPPED, 256),),
            ),
        ][number % 3]
        ttft_ms = draw.uniform(200, 400)
        found.append(
            make_record(
                id=f"lw_{draw.getrandbits(96):024x}",
                trace_id=f"{draw.getrandbits(128):032x}",
                server_span_id=f"{draw.getrandbits(64):016x}",
                client_span_id=f"{draw.getrandbits(64):016x}",
                request={"model": f"gpt-{number % 5}"},
                decision=decision,
                response={
                    "response_id": f"chatcmpl-{draw.getrandbits(96):024x}",
                    "response_model": f"gpt-{number % 5}-2026-01-01",
                    "first_token_ns": at(ttft_ms),
                    "checkpoints": tuple((64 * (n + 1), at(ttft_ms + 100 * n)) for n in range(8)),
                },
            )
        )
    return found


class Feeder:
    """A worker's end that numbers and sends, and reads acknowledgements as they come."""

    def __init__(self, worker: Worker) -> None:
        self._socket: socket.socket = worker.socket
        self._rest = b""
        self.sent = self.acknowledged = self.most_held = 0

    def send(self, lines: list[bytes]) -> None:
        """Send a batch; waits only for room in the socket."""
        numbered = []
        for line in lines:
            self.sent += 1
            numbered.append(b'{"seq":%d,"record":%b}\n' % (self.sent, line))
        self._socket.setblocking(True)
        self._socket.sendall(b"".join(numbered))
        self.most_held = max(self.most_held, self.sent - self.acknowledged)

    def read(self, *, wait: bool) -> None:
        """Take the acknowledgements that came; `wait` for one at least."""
        self._socket.setblocking(wait)
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:  # acknowledgements, and what the recorder teaches workers
            self.acknowledged = orjson.loads(line).get("ack", self.acknowledged)

    def finish(self) -> None:
        """Wait until all is acknowledged."""
        while self.acknowledged < self.sent:
            self.read(wait=True)


def feed(feeder: Feeder, lines: list[bytes], per_s: float | None) -> None:
    """All lines, as fast as they are taken or at a rate."""
    started_s = time.monotonic()
    for begin in range(0, len(lines), BATCH_RECORDS):
        if per_s is not None:
            time.sleep(max(started_s + begin / per_s - time.monotonic(), 0))
        feeder.send(lines[begin : begin + BATCH_RECORDS])
        feeder.read(wait=False)
        while feeder.sent - feeder.acknowledged > HELD_RECORDS - BATCH_RECORDS:
            feeder.read(wait=True)
    feeder.finish()


def measure(folder: Path, telemetry: dict[str, Any], sink: int, count: int, per_s: float | None) -> str:
    """One run; its row."""
    folder.mkdir()
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{sink}", "OTEL_METRIC_EXPORT_INTERVAL": "10000"}
    lines = [to_line(record) for record in exchanges(count)]
    with RecorderHost(folder, telemetry=telemetry, environ=environ) as host:
        host.start()
        assert host.process is not None
        pid = host.process.pid
        processes.pin(pid, MEASURED_CORES)
        with closing(host.worker()) as worker:
            feeder = Feeder(worker)
            feed(feeder, lines[:1000], None)
            before_ns, started_s = processes.cpu_ns(pid), time.monotonic()
            feeder.most_held = 0
            feed(feeder, lines[1000:], per_s)
            took_s = time.monotonic() - started_s
            measured = count - 1000
            waited_s = time.monotonic() + 20
            while time.monotonic() < waited_s and not _exported(host.status(), count):
                time.sleep(0.2)
            spent_us = (processes.cpu_ns(pid) - before_ns) / 1e3 / measured
            state = host.status()
        traces = state["export"].get("traces", {"exported": 0, "dropped": 0, "failed": 0})
        rss_mib = processes.rss_kib(pid) / 1024
    return (
        f"{measured / took_s:9,.0f} {spent_us:9.0f} {feeder.most_held:9d} {state['ledger']['written']:9d} "
        f"{traces['exported']:9d} {traces['dropped'] + traces['failed']:9d} {rss_mib:8.0f}"
    )


def _exported(status: dict[str, Any], count: int) -> bool:
    traces = status["export"].get("traces")
    return traces is None or traces["exported"] + traces["dropped"] + traces["failed"] >= 2 * count


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.recorder", description=__doc__)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    compile_parts()
    os.sched_setaffinity(0, OTHER_CORES)
    with tempfile.TemporaryDirectory() as name, upstream(Path(name), "sink") as sink:
        folder = Path(name)
        columns = "    per_s  us/record  most_held      rows     spans     lost  RSS MiB"
        print(f"{'':24}{columns}")
        for number in range(arguments.rounds):
            for sinks, telemetry in SINKS.items():
                row = measure(folder / f"{number}{sinks}", telemetry, sink.port, arguments.records, None)
                print(f"{sinks + ', saturated':24}{row}", flush=True)
            row = measure(folder / f"{number}paced", {}, sink.port, arguments.records, 2000)
            print(f"{'everything, paced':24}{row}", flush=True)


if __name__ == "__main__":
    main()
