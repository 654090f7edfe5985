"""What traffic notices of ten open live pages: `python -m tests.bench.live_page [--rounds 12] [--seconds 4]`.

The same paced streams without pages, without pages once more, and with pages, in shuffled order within each round; figures are compared
inside a round. What the second quiet measurement differs from the first is the noise that the pages' difference is read against. A page
is what its requests are: five questions every two seconds over a kept connection, with the tags of the last answers; windows differ
from page to page, so that answers are shared by few. Nothing is drawn: a browser's CPU is that of another machine.

The worker runs on core 0. Recorder, supervisor and pages share core 1 with what measures, which must not wait for them: they are nice to
it, in all three. Needs Linux with two cores, cc and taskset.
"""

import argparse
import asyncio
import itertools
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aiohttp

from tests.bench import processes
from tests.bench.candidates import OTHER_CORES, Running, compile_parts, ground, lengthwise
from tests.bench.figures import Round, Sample, Spread, compared, spreads, table
from tests.bench.loads import put
from tests.bench.trials import PACED_20

NICE = 19
PAGES = 10
PERIOD_S = 2.0
WINDOWS_S = (60, 300, 900, 3600, 21_600, 86_400)
FIGURES = ("cpu_us", "delay_p50_us", "delay_p99_us", "ttft_p50_us", "ttft_p99_us", "admin_ms_per_s")
QUIET, AGAIN, OPEN = "no page", "no page, again", f"{PAGES} pages"


async def _page(url: str, window_s: int, begin_s: float) -> None:
    """Ask as a page that is seen does, until cancelled."""
    paths = ["state", *(f"{name}?window={window_s}" for name in ("figures", "caps", "points", "exchanges"))]
    tags: dict[str, str] = {}
    await asyncio.sleep(begin_s)
    async with aiohttp.ClientSession() as session:

        async def ask(path: str) -> None:
            known = {"If-None-Match": tags[path]} if path in tags else {}
            async with session.get(f"{url}/api/{path}", headers=known) as answer:
                await answer.read()
                assert answer.status in {200, 304}, answer.status
                tags[path] = answer.headers["ETag"]

        while True:
            await asyncio.gather(*map(ask, paths))
            await asyncio.sleep(PERIOD_S)


async def look(url: str) -> None:
    """All pages, begun one after the other within a period."""
    windows = itertools.islice(itertools.cycle(WINDOWS_S), PAGES)
    await asyncio.gather(*(_page(url, window_s, n * PERIOD_S / PAGES) for n, window_s in enumerate(windows)))


@contextmanager
def pages(url: str) -> Iterator[None]:
    """Ten pages that have asked at least once."""
    command = ["nice", "-n", str(NICE), sys.executable, "-m", "tests.bench.live_page", "--look", url]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(PERIOD_S * 2)
        except subprocess.TimeoutExpired:
            yield
        else:
            raise SystemExit("bench: the pages were refused")
        finally:
            process.kill()


def measured(candidate: Running, seconds: float) -> Sample:
    """One load, and what supervisor and recorder spent meanwhile for each second of it."""
    assert candidate.recorder is not None
    admin = (candidate.pid, candidate.recorder)
    before_ns = sum(map(processes.cpu_ns, admin))
    sample = dict(put(PACED_20, candidate, seconds))
    return sample | {"admin_ms_per_s": (sum(map(processes.cpu_ns, admin)) - before_ns) / 1e6 / seconds}


def run(rounds: int, seconds: float) -> None:
    """Measure and print."""
    compile_parts()
    os.sched_setaffinity(0, OTHER_CORES)
    found: list[Round] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lengthwise-bench-")))
        candidate = stack.enter_context(lengthwise("lengthwise", stack.enter_context(ground(folder))))
        url = f"http://127.0.0.1:{candidate.admin}"
        for pid in (candidate.pid, candidate.recorder or candidate.pid):
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.setpriority(os.PRIO_PROCESS, int(task.name), NICE)
        measured(candidate, seconds)  # a day that is not empty
        for number in range(rounds):
            one: dict[str, Sample] = {}
            for name in random.sample((QUIET, AGAIN, OPEN), 3):
                with pages(url) if name == OPEN else ExitStack():
                    one[name] = measured(candidate, seconds)
            found.append({name: one[name] for name in (QUIET, AGAIN, OPEN)})
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    shown = spreads(compared(found, [QUIET]))
    rows = [
        [
            figure,
            *(f"{shown[name][figure].median:,.2f}" for name in (QUIET, AGAIN, OPEN)),
            *(_ratio(shown[name][f"{figure}/{QUIET}"]) for name in (AGAIN, OPEN)),
        ]
        for figure in FIGURES
    ]
    head = ["median of rounds", QUIET, AGAIN, OPEN, "noise: again / none q1/med/q3", f"{PAGES} / none q1/med/q3"]
    print(table([head, *rows]))
    print(f"wrong answers: {sum(sample['errors'] for each in found for sample in each.values()):.0f}")


def _ratio(spread: Spread) -> str:
    return f"{spread.q1:.2f}/{spread.median:.2f}/{spread.q3:.2f}"


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.live_page", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--look", metavar="URL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.look:
        asyncio.run(look(arguments.look))
    run(arguments.rounds, arguments.seconds)


if __name__ == "__main__":
    main()
