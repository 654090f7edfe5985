"""What a running process costs, read from /proc: CPU of all its threads, memory, and where it may run (Linux)."""

import os
from collections.abc import Iterable
from pathlib import Path


def cpu_ns(pid: int) -> int:
    """CPU time of all living threads of `pid`. Finer than utime + stime, which count ticks of 10 ms."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def rss_kib(pid: int) -> int:
    """Resident memory."""
    return next(
        int(line.split()[1]) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line[:6] == "VmRSS:"
    )


def family_rss_kib(pid: int) -> int:
    """Resident memory of a process and all its descendants; what they share counts for each."""
    return sum(rss_kib(each) for each in (pid, *descendants(pid)))


def descriptors(pid: int) -> set[int]:
    """Numbers of the open files and sockets."""
    return {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}


def descendants(pid: int) -> list[int]:
    """Children of `pid` and their children, in the order in which they were made."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *descendants(child)]
    return found


def all_named(pid: int, words: str) -> list[int]:
    """The descendants of `pid` whose command line contains `words`."""
    found = []
    for child in descendants(pid):
        try:
            line = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if words in line:
            found.append(child)
    return found


def named(pid: int, words: str) -> int | None:
    """The first of `all_named`; None when there is none yet."""
    return next(iter(all_named(pid, words)), None)


def pin(pid: int, cores: Iterable[int]) -> None:
    """Let every thread of `pid` run on these cores only."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


def ticks() -> tuple[int, int]:
    """(ticks that the hypervisor took, all ticks) since boot, over all cores."""
    counts = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return counts[7], sum(counts)
