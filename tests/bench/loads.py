"""Loads that are put on a candidate by the C load generator, and what the candidate costs meanwhile."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.bench import processes
from tests.bench.candidates import BUILD, Running
from tests.bench.figures import Sample

RECORDED = 500
"""Below so many exchanges, the recorder's CPU is that of its clocks and not of its records."""


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of load; its connections send one request after the other."""

    connections: int
    streamed: bool = False
    chunks: int = 0
    interval_us: int = 0
    """Between the chunks of a stream; 0 for all in one write of the upstream."""
    ttft_us: int = 0
    """The upstream's own, also before an answer that is not streamed."""
    stagger_us: int = 0
    """From the first request of a connection to that of the next."""
    gap_us: int = 0
    """From request to request of a connection; 0 for the next one at once."""

    @property
    def times(self) -> tuple[str, ...]:
        """What is timed: nothing of a load that saturates, whose times are those of its own queue."""
        if self.streamed:
            return ("ttft", "delay", "jitter") if self.interval_us else ()
        return ("e2e", "shed") if self.gap_us else ()


@contextmanager
def ready(load: Load, candidate: Running, seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """A load generator whose connections are open and warm; it starts on `go`, and is killed when it still runs at the end."""
    command = [
        str(BUILD / "load"),
        f"port={candidate.port}",
        f"connections={load.connections}",
        f"seconds={seconds}",
        f"stream={int(load.streamed)}",
        f"chunks={load.chunks}",
        f"interval_us={load.interval_us}",
        f"ttft_us={load.ttft_us}",
        f"stagger_us={load.stagger_us}",
        f"gap_us={load.gap_us}",
        *(f"header={line}" for line in candidate.headers),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        if process.stdout is None or process.stdout.readline() != b"ready\n":
            raise SystemExit(f"bench: load on {candidate.name} did not get ready")
        time.sleep(0.05)
        try:
            yield process
        finally:
            process.kill()


def go(process: subprocess.Popen[bytes]) -> None:
    """Start a load that is ready."""
    if process.stdin is not None:
        process.stdin.write(b"go\n")
        process.stdin.close()


def outcome(process: subprocess.Popen[bytes], candidate: Running) -> dict[str, Any]:
    """What a load printed at its end."""
    text = process.stdout.read() if process.stdout is not None else b""
    if not text:
        raise SystemExit(f"bench: the load on {candidate.name} broke off")
    result: dict[str, Any] = json.loads(text)
    return result


def put(load: Load, candidate: Running, seconds: float) -> Sample:
    """Put a load on a candidate: what it cost, and how long things took."""
    with ready(load, candidate, seconds) as process:
        recorder_ns = processes.cpu_ns(candidate.recorder) if candidate.recorder else 0
        before_ns = [processes.cpu_ns(pid) for pid in candidate.measured]
        go(process)
        result = outcome(process, candidate)
        time.sleep(0.05)  # what the relay does after the last byte belongs to the request too
        spent_ns = [processes.cpu_ns(pid) - ns for pid, ns in zip(candidate.measured, before_ns, strict=True)]
    candidate.settle()
    answers = result["requests"] + result["sheds"]
    units = result["chunks"] if load.streamed else answers
    sample = {name: float(result[name]) for name in ("requests", "sheds", "errors", "usage_events")}
    sample["requests_per_s"] = result["requests"] / result["wall_s"]
    sample["per_s"] = units / result["wall_s"]
    if candidate.measured and units:
        sample["cpu_us"] = sum(spent_ns) / 1e3 / units
        sample["rss_mib"] = candidate.rss_kib() / 1024
    if len(candidate.measured) > 1:
        sample["busiest_pct"] = 100 * max(spent_ns) / sum(spent_ns)
    if candidate.recorder and answers >= RECORDED:
        sample["recorder_us"] = (processes.cpu_ns(candidate.recorder) - recorder_ns) / 1e3 / answers
    for name in load.times:
        if result[f"{name}_ns"]:
            sample |= {f"{name}_{p}_us": result[f"{name}_ns"][p] / 1e3 for p in ("p50", "p99")}
    return sample


def lost(before: dict[str, Any], after: dict[str, Any]) -> Sample:
    """Shares of the exchanges between two looks whose records the worker dropped, and of the spans that were not exported."""
    if not after or after["exchanges"] == before["exchanges"]:
        return {}
    exchanges = after["exchanges"] - before["exchanges"]
    found = {"dropped_pct": 100 * (after["drops"]["records"] - before["drops"]["records"]) / exchanges}
    if "traces" in after["export"]:
        fate = [
            after["export"]["traces"][name] - before["export"]["traces"][name]
            for name in ("exported", "dropped", "failed")
        ]
        if sum(fate):
            found["spans_lost_pct"] = 100 * (fate[1] + fate[2]) / sum(fate)
    return found
