"""`make bench`: what the relay costs beside others, on this machine, in this run.

All candidates of a trial (see `trials`) are measured in short rounds, in shuffled order; a ratio or a difference is taken inside a round, so
that a slow minute of the machine hits both sides of it. CPU is that of the relaying processes alone (schedstat, pinned to the first core).
Everything else shares the other cores: where there is only one, recorder and load compete, so the rate (not the CPU) of Lengthwise with
telemetry on is lower than with a third core. Needs Linux with two cores, cc, nginx and openssl; LiteLLM and Portkey take part where
`tests/engines/install.py` has installed them.
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
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.bench import chart, processes, targets
from tests.bench.candidates import CANDIDATES, OTHER_CORES, Ground, absent, compile_parts, engine_version, ground
from tests.bench.figures import Round, Sample, Spreads, compared, rows, spreads, steady, table
from tests.bench.loads import lost
from tests.bench.trials import COLUMNS, SLOW, TRIALS, Trial

CALIBRATION_RPS = 60_000
"""Direct must do this many plain requests, else the harness is what gets measured."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a trial found."""

    trial: Trial
    rounds: Sequence[Round]
    kept: Sequence[Round]
    spreads: Spreads

    @classmethod
    def of(cls, trial: Trial, rounds: Sequence[Round]) -> "Found":
        """From the raw rounds."""
        kept = steady(rounds, [("direct", "per_s"), (trial.yardstick, "cpu_us")])
        return cls(trial, rounds, kept, spreads(compared(kept, dict.fromkeys((trial.yardstick, "direct")))))

    def __str__(self) -> str:
        doubt = "" if len(self.kept) * 2 >= len(self.rounds) else "  (the machine was too unsteady: do not use)"
        cost = f"; CPU of a {self.trial.unit}" if any("cpu_us" in figures for figures in self.spreads.values()) else ""
        title = (
            f"{self.trial.name}: {self.trial.says}{cost}; {len(self.kept)} of {len(self.rounds)} rounds count{doubt}"
        )
        return f"{title}\n{table(rows(self.spreads, COLUMNS, self.trial.yardstick))}" if self.kept else title

    def data(self) -> dict[str, Any]:
        """For the JSON file."""
        return {
            "says": self.trial.says,
            "rounds": len(self.rounds),
            "kept": len(self.kept),
            "figures": {name: {k: asdict(v) for k, v in found.items()} for name, found in self.spreads.items()},
            "raw": self.rounds,
        }


def run_trial(trial: Trial, names: Sequence[str], on: Ground, rounds: int, seconds: float) -> list[Round]:
    """All rounds of a trial; slow candidates take part in every third."""
    found = []
    with ExitStack() as stack:
        running = {} if trial.fresh else {name: stack.enter_context(CANDIDATES[name](name, on)) for name in names}
        for number in range(rounds):
            one: dict[str, Sample] = {}
            for name in random.sample(names, len(names)):
                if name in SLOW and number % 3:
                    continue
                with ExitStack() as mine:
                    candidate = mine.enter_context(CANDIDATES[name](name, on)) if trial.fresh else running[name]
                    before = candidate.status()
                    sample = trial.measure(candidate, on, seconds)
                    one[name] = {**sample, **lost(before, candidate.status())}
            found.append({name: one[name] for name in names if name in one})
    return found


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, and write the files."""
    compile_parts()
    os.sched_setaffinity(0, OTHER_CORES)
    wanted = set(arguments.only or CANDIDATES) - (set(SLOW) if arguments.quick and not arguments.only else set())
    skipped = {name: reason for name in CANDIDATES if name in wanted and (reason := absent(name))}
    began_s, load, stolen_before = time.monotonic(), os.getloadavg()[0], processes.ticks()
    found = []
    with tempfile.TemporaryDirectory(prefix="lengthwise-bench-") as folder, ground(Path(folder)) as on:
        for trial in TRIALS:
            names = [name for name in trial.candidates if name in wanted and name not in skipped]
            if not names or (arguments.trial and trial.name not in arguments.trial):
                continue
            started_s = time.monotonic()
            rounds = max(round(arguments.rounds * trial.rounds_share), 1)
            found.append(Found.of(trial, run_trial(trial, names, on, rounds, arguments.seconds)))
            print(f"{found[-1]}\n", flush=True)
            print(f"({trial.name} took {time.monotonic() - started_s:.0f} s)", file=sys.stderr, flush=True)
    stolen, ticks = (after - before for after, before in zip(processes.ticks(), stolen_before, strict=True))
    facts: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, kernel {platform.release()}, Python {platform.python_version()}",
        "load before": round(load, 2),
        "stolen by other machines": f"{stolen / max(ticks, 1):.2%}",
        "took": f"{time.monotonic() - began_s:.0f} s",
        "versions": ", ".join(f"{name} {version}" for name, version in versions(wanted - set(skipped)).items()),
    } | {f"{name} skipped": reason for name, reason in skipped.items()}
    measured = {one.trial.name: one.spreads for one in found}
    verdicts = targets.judge(measured)
    print(table([targets.HEAD, *(verdict.row for verdict in verdicts)]))
    print("\n" + "\n".join(f"{name}: {fact}" for name, fact in facts.items()))
    if arguments.json:
        data = {
            "facts": facts,
            "trials": {one.trial.name: one.data() for one in found},
            "targets": [asdict(verdict) | {"met": verdict.met} for verdict in verdicts],
        }
        arguments.json.write_text(json.dumps(data, indent=1))
    if arguments.svg:
        arguments.svg.write_text(chart.svg(measured, verdicts, facts["machine"]))
    trouble = [line for one in found for line in wrong(one)]
    print("\n" + ("\n".join(trouble) or "no wrong answers"))
    return 1 if trouble else 0


def wrong(found: Found) -> list[str]:
    """What must not be: wrong answers, the extra usage event at the client, a harness too slow to measure with."""
    lines = []
    for name, spread in found.spreads.items():
        if name not in SLOW and "errors" in spread and spread["errors"].high:
            lines.append(f"{found.trial.name}: {name} gave up to {spread['errors'].high:.0f} wrong answers in a round")
        if name not in SLOW and "usage_events" in spread and spread["usage_events"].high:
            lines.append(f"{found.trial.name}: {name} let the extra usage event through")
    direct = found.spreads.get("direct", {}).get("per_s")
    if found.trial.name == "plain" and direct is not None and direct.median < CALIBRATION_RPS:
        lines.append(f"calibration: direct does less than {CALIBRATION_RPS} requests/s")
    return lines


def versions(wanted: Collection[str]) -> dict[str, str]:
    """Of what was measured and of what it stands on."""
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr
    found = {"nginx": nginx.rsplit("/", 1)[-1].strip()}
    for name in ("httptools", "orjson", "uvloop", "opentelemetry-sdk", "aiohttp"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found | {name: engine_version(name) for name in SLOW if name in wanted}


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement, about")
    parser.add_argument("--quick", action="store_true", help="1 round of 0.3 s: does it run, not what does it cost")
    parser.add_argument("--only", action="append", choices=list(CANDIDATES), help="candidate; repeatable")
    parser.add_argument("--trial", action="append", choices=[trial.name for trial in TRIALS], help="repeatable")
    parser.add_argument("--json", type=Path, help="write everything, raw rounds included, to this file")
    parser.add_argument("--svg", type=Path, help="write the ratios and the targets as a picture to this file")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 0.3
    if sys.platform != "linux" or not OTHER_CORES:
        parser.error("needs Linux and two cores")
    missing = [tool for tool in ("cc", "nginx", "openssl", "taskset") if not shutil.which(tool)]
    if missing:
        parser.error(f"not installed: {', '.join(missing)}")
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
