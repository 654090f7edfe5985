"""`make bench`: what the relay costs beside nginx, on this machine, in this run.

Direct, nginx and Lengthwise answer the same load in short rounds, in shuffled order; a ratio is taken inside a round, so that a
slow minute of the machine hits both sides of it. CPU is that of the one process that relays (schedstat, pinned to core 0).
Everything else shares core 1: recorder and load then compete, so the rate (not the CPU) of Lengthwise with telemetry on is
lower here than with a third core. Latency scenarios run before the saturating ones, and the recorder is left to catch up.
Needs Linux with two cores, cc and nginx.
"""

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.bench import processes
from tests.bench.candidates import (
    BUILD,
    Running,
    compile_parts,
    on_other_core,
    start_lengthwise,
    start_nginx,
    start_upstream,
)
from tests.bench.figures import Round, Sample, Spread, ratios, spreads, steady, table

CANDIDATES = ("direct", "nginx", "lengthwise", "lengthwise-bare")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load."""

    name: str
    unit: str
    """What CPU is divided by: request or chunk."""
    connections: int
    streamed: bool
    chunks: int = 0
    interval_us: int = 0
    ttft_us: int = 0
    stagger_us: int = 0
    gap_us: int = 0
    """From request to request of a connection; 0 for the next one at once."""

    @property
    def paced(self) -> bool:
        """Latency, and not saturation, is measured: every candidate has the same rate."""
        return self.interval_us > 0 or self.gap_us > 0


SCENARIOS = (
    Scenario("paced20", "chunk", 20, streamed=True, chunks=100, interval_us=10_000, ttft_us=20_000, stagger_us=500),
    Scenario("paced100", "chunk", 100, streamed=True, chunks=100, interval_us=10_000, ttft_us=20_000, stagger_us=100),
    Scenario("plain2k", "request", 20, streamed=False, stagger_us=500, gap_us=10_000),
    Scenario("burst", "chunk", 16, streamed=True, chunks=100),
    Scenario("plain", "request", 64, streamed=False),
)
HOLD = Scenario("hold", "chunk", 500, streamed=True, chunks=10, interval_us=200_000, stagger_us=400)
"""Open streams that do little: what they cost in memory."""

CALIBRATION_RPS = 60_000
"""Direct must do this many plain requests, else the harness is what gets measured."""


@contextmanager
def load(scenario: Scenario, candidate: Running, seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """A load generator whose connections are open and warm; it starts on `go`."""
    command: list[str | Path] = [
        BUILD / "load",
        f"port={candidate.port}",
        f"connections={scenario.connections}",
        f"seconds={seconds}",
        f"stream={int(scenario.streamed)}",
        f"chunks={scenario.chunks}",
        f"interval_us={scenario.interval_us}",
        f"ttft_us={scenario.ttft_us}",
        f"stagger_us={scenario.stagger_us}",
        f"gap_us={scenario.gap_us}",
    ]
    with subprocess.Popen(on_other_core(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        if process.stdout is None or process.stdout.readline() != b"ready\n":
            raise SystemExit(f"bench: load on {candidate.name} did not get ready")
        time.sleep(0.05)
        yield process


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


def measure(scenario: Scenario, candidate: Running, seconds: float) -> Sample:
    """Put one load on one candidate and return what it cost and how long things took."""
    with load(scenario, candidate, seconds) as process:
        recorder_ns = processes.cpu_ns(candidate.recorder) if candidate.recorder else 0
        before_ns = processes.cpu_ns(candidate.measured) if candidate.measured else 0
        go(process)
        result = outcome(process, candidate)
        time.sleep(0.05)  # what the relay does after the last byte belongs to the request too
        after_ns = processes.cpu_ns(candidate.measured) if candidate.measured else 0
    candidate.settle()
    units = result["chunks"] if scenario.streamed else result["requests"]
    sample = {
        "per_s": units / result["wall_s"],
        "errors": float(result["errors"]),
        "usage_events": float(result["usage_events"]),
        "requests": float(result["requests"]),
    }
    if candidate.measured:
        sample["cpu_us"] = (after_ns - before_ns) / 1e3 / units
        sample["rss_kib"] = float(processes.rss_kib(candidate.measured))
    if candidate.recorder:
        spent_ns = processes.cpu_ns(candidate.recorder) - recorder_ns
        sample["recorder_us_per_request"] = spent_ns / 1e3 / result["requests"]
    for key in ("e2e", "ttft", "delay"):
        if result[f"{key}_ns"]:
            sample |= {f"{key}_{p}_us": result[f"{key}_ns"][p] / 1e3 for p in ("p50", "p99")}
    return sample


def stream_kib(candidate: Running) -> float:
    """Resident memory that each of HOLD's streams adds to a fresh process."""
    if candidate.measured is None:
        return 0.0
    before = processes.rss_kib(candidate.measured)
    with load(HOLD, candidate, 0.5) as process:
        go(process)
        time.sleep(HOLD.chunks * HOLD.interval_us / 2e6)
        during = processes.rss_kib(candidate.measured)
        outcome(process, candidate)
    candidate.settle()
    return (during - before) / HOLD.connections


def start(names: Sequence[str], folder: Path, stack: ExitStack) -> list[Running]:
    """Start the candidates; they stop when `stack` closes."""
    upstream = start_upstream(folder)
    stack.callback(upstream.stop)
    sink = start_upstream(folder, "sink")
    stack.callback(sink.stop)
    running = []
    for name in names:
        if name == "direct":
            candidate = upstream
        elif name == "nginx":
            candidate = start_nginx(folder, upstream.port)
        else:
            candidate = start_lengthwise(folder, upstream.port, sink.port, full=name == "lengthwise")
        if candidate is not upstream:
            stack.callback(candidate.stop)
        running.append(candidate)
    return running


def describe(name: str, spread: dict[str, Spread], ratio: Spread | None) -> list[str]:
    """One row of a scenario's table."""

    def middle(figure: str, digits: int = 0) -> str:
        return f"{spread[figure].median:,.{digits}f}" if figure in spread else "-"

    cpu = spread.get("cpu_us")
    return [
        name,
        f"{cpu.median:.2f}" if cpu else "-",
        f"{cpu.low:.2f}" if cpu else "-",
        f"{ratio.q1:.2f}/{ratio.median:.2f}/{ratio.q3:.2f}" if ratio else "-",
        middle("per_s"),
        *(f"{middle(f'{key}_p50_us')}/{middle(f'{key}_p99_us')}" for key in ("e2e", "ttft", "delay")),
        middle("added_ttft_p50_us") + "/" + middle("added_ttft_p99_us"),
        middle("recorder_us_per_request"),
        middle("rss_kib"),
        f"{spread['errors'].q3:.0f}",
    ]


def added_ttft(rounds: Sequence[Round]) -> list[Round]:
    """The rounds with each candidate's time to the first content event over direct's of the same round."""
    return [
        {
            name: {
                **sample,
                **{
                    f"added_ttft_{p}_us": sample[f"ttft_{p}_us"] - r["direct"][f"ttft_{p}_us"]
                    for p in ("p50", "p99")
                    if name != "direct" and "direct" in r and f"ttft_{p}_us" in sample
                },
            }
            for name, sample in r.items()
        }
        for r in rounds
    ]


def report(scenario: Scenario, rounds: Sequence[Round]) -> tuple[str, dict[str, Any]]:
    """Table and JSON form of one scenario."""
    guards = [("direct", "per_s"), ("nginx", "cpu_us")]
    kept = steady(added_ttft(rounds), guards)
    doubt = "" if len(kept) * 2 >= len(rounds) else "  (the machine was too unsteady: do not use)"
    title = f"{scenario.name}: {len(kept)} of {len(rounds)} rounds count{doubt}"
    if not kept:
        return title, {"rounds": len(rounds), "kept": 0, "raw": rounds}
    spread, ratio = spreads(kept), ratios(kept, "cpu_us", "nginx")
    delay = ratios(kept, "delay_p50_us" if scenario.streamed else "e2e_p50_us", "nginx") if scenario.paced else {}
    head = [
        scenario.name,
        f"us/{scenario.unit}",
        "min",
        "x nginx q1/med/q3",
        f"{scenario.unit}s/s",
        "e2e us 50/99",
        "ttft us 50/99",
        "delay us 50/99",
        "ttft+ us 50/99",
        "rec us/req",
        "rss KiB",
        "errors",
    ]
    text = table(head, [describe(name, figures, ratio.get(name)) for name, figures in spread.items()])
    data = {
        "rounds": len(rounds),
        "kept": len(kept),
        "figures": {name: {k: asdict(v) for k, v in figures.items()} for name, figures in spread.items()},
        "cpu_ratio_to_nginx": {name: asdict(value) for name, value in ratio.items()},
        "latency_p50_ratio_to_nginx": {name: asdict(value) for name, value in delay.items()},
        "raw": rounds,
    }
    return f"{title}\n{text}", data


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, and write the JSON file."""
    chosen = [name for name in CANDIDATES if not arguments.only or name in arguments.only]
    scenarios = [s for s in SCENARIOS if not arguments.scenario or s.name in arguments.scenario]
    compile_parts()
    measured: dict[str, list[dict[str, Sample]]] = {s.name: [] for s in scenarios}
    stolen_before, ticks_before = processes.ticks()
    dropped: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lengthwise-bench-")))
        running = start(chosen, folder, stack)
        idle_kib = {c.name: processes.rss_kib(c.measured) for c in running if c.measured}
        held_kib = {c.name: round(stream_kib(c), 1) for c in running if c.measured}
        for number in range(arguments.rounds):
            for scenario in scenarios:  # latency first, saturation last
                one: dict[str, Sample] = {}
                for candidate in random.sample(running, len(running)):
                    drops = candidate.metric("lengthwise_records_dropped_total")
                    one[candidate.name] = measure(scenario, candidate, arguments.seconds)
                    if candidate.admin:
                        share = dropped.setdefault(scenario.name, {"records": 0.0, "dropped": 0.0})
                        share["records"] += one[candidate.name]["requests"] + scenario.connections
                        share["dropped"] += candidate.metric("lengthwise_records_dropped_total") - drops
                measured[scenario.name].append({name: one[name] for name in chosen})
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
    stolen, ticks = processes.ticks()
    reports = {s.name: report(s, measured[s.name]) for s in scenarios}
    facts: dict[str, object] = {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "load_before": round(arguments.load_before, 2),
        "stolen_share": round((stolen - stolen_before) / max(ticks - ticks_before, 1), 4),
        "nginx": subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr.strip(),
        "first_answer_s": {c.name: round(c.first_answer_s, 3) for c in running},
        "rss_idle_kib": idle_kib,
        "rss_kib_per_open_stream": held_kib,
        "records_dropped": dropped,
    } | {name: _version(name) for name in ("httptools", "orjson", "uvloop", "opentelemetry-sdk")}
    print("\n".join(f"{key}: {value}" for key, value in facts.items()))
    for text, _ in reports.values():
        print("\n" + text)
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"facts": facts, "scenarios": {k: v[1] for k, v in reports.items()}}, indent=1)
        )
    return _verdict({name: data for name, (_, data) in reports.items()})


def _verdict(reports: dict[str, dict[str, Any]]) -> int:
    trouble = []
    for scenario, data in reports.items():
        figures = data.get("figures", {})
        for name, spread in figures.items():
            if spread["errors"]["q3"]:
                trouble.append(f"{scenario}: {name} gave wrong answers")
            if spread["usage_events"]["q3"]:
                trouble.append(f"{scenario}: {name} let the extra usage event through")
        if scenario == "plain" and "direct" in figures and figures["direct"]["per_s"]["median"] < CALIBRATION_RPS:
            trouble.append(f"calibration: direct does less than {CALIBRATION_RPS} requests/s")
    print("\n" + ("\n".join(trouble) or "no wrong answers"))
    return 1 if trouble else 0


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument(
        "--quick", action="store_true", help="3 rounds of half a second: does it run, not what does it cost"
    )
    parser.add_argument("--only", action="append", choices=CANDIDATES, help="repeatable")
    parser.add_argument("--scenario", action="append", choices=[s.name for s in SCENARIOS], help="repeatable")
    parser.add_argument("--json", type=Path, help="write everything, raw rounds included, to this file")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 3, 0.5
    if sys.platform != "linux" or (os.cpu_count() or 1) < 2:
        parser.error("needs Linux and two cores")
    missing = [tool for tool in ("cc", "nginx", "taskset") if not shutil.which(tool)]
    if missing:
        parser.error(f"not installed: {', '.join(missing)}")
    arguments.load_before = os.getloadavg()[0]
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
