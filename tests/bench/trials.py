"""What is measured: each trial puts its candidates through the same thing, round after round. Latency first, saturation last."""

import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.bench import processes
from tests.bench.candidates import IN_FLIGHT, TOKEN, Ground, Running, get
from tests.bench.figures import Column, Sample, percentile
from tests.bench.loads import Load, go, put, ready

MAIN = ("direct", "nginx", "lengthwise", "lengthwise-bare", "aiohttp")
FOUR = tuple(name for name in MAIN if name != "lengthwise-bare")
"""Where it makes no difference what is observed."""
SLOW = ("litellm", "portkey")
"""Take part in every third round, for they take long."""

LIGHT = Load(4, streamed=True, chunks=50, interval_us=20_000, ttft_us=20_000, stagger_us=5000)
PACED_20 = Load(20, streamed=True, chunks=100, interval_us=10_000, ttft_us=20_000, stagger_us=5500)
PACED_100 = Load(100, streamed=True, chunks=100, interval_us=10_000, ttft_us=20_000, stagger_us=1100)
"""Streams begin so far apart that a request seldom waits for another; their chunks still fall evenly into the 10 ms."""
BURST = Load(16, streamed=True, chunks=100)
PLAIN = Load(64)
PLAIN_2K = Load(20, stagger_us=500, gap_us=10_000)

OPEN_STREAMS = (500, 2000)
OPEN_S = 15.0
"""Within which so many streams must be open."""
STALLED, STALLED_CHUNKS = 10, 40_000
"""Clients that do not read an answer of 12 MB: the kernel holds some 4 on either side of a relay."""
LEAVE_S = 3.0
"""A departure that the upstream has not seen by then is one that it does not see."""
SERVICE_US = 20_000
"""The upstream's time for an answer while Lengthwise sheds: it lets in IN_FLIGHT of them, which is its capacity."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One thing that is measured."""

    name: str
    says: str
    measure: Callable[[Running, Ground, float], Sample]
    """Of a candidate, for about so many seconds."""
    candidates: Sequence[str]
    yardstick: str = "nginx"
    unit: str = "request"
    """What CPU is divided by."""
    rounds_share: float = 1.0
    """Of the rounds that were asked for."""
    fresh: bool = False
    """Each candidate is started anew for each measurement."""


def under(load: Load) -> Callable[[Running, Ground, float], Sample]:
    """A trial's measure that puts a load on the candidate."""
    return lambda candidate, _ground, seconds: put(load, candidate, seconds)


def _ask(candidate: Running, model: str, *, stream: bool = True) -> socket.socket:
    """A client that has asked."""
    said = ',"stream":true' if stream else ""
    body = f'{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}]{said}}}'
    lines = (
        "POST /v1/chat/completions HTTP/1.1",
        f"Host: 127.0.0.1:{candidate.port}",
        "Content-Type: application/json",
        f"Authorization: Bearer {TOKEN}",
        *candidate.headers,
        f"Content-Length: {len(body)}",
    )
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    sock.settimeout(10)
    sock.connect(("127.0.0.1", candidate.port))
    sock.sendall("\r\n".join((*lines, "", body)).encode())
    return sock


def open_streams(candidate: Running, ground: Ground, _seconds: float) -> Sample:
    """Start-up, and the memory of a fresh process with streams open: how many there are, the upstream says."""
    sample = {"first_answer_s": candidate.first_answer_s}
    before_kib = candidate.rss_kib()
    sample |= {"idle_mib": before_kib / 1024, "family_mib": processes.family_rss_kib(candidate.pid) / 1024}
    for count in OPEN_STREAMS:
        load = Load(count, streamed=True, chunks=100, interval_us=2_000_000, stagger_us=400)
        with ready(load, candidate, 1) as process:
            go(process)
            if _until_open(ground, count, OPEN_S):
                time.sleep(0.5)  # their first chunks pass
                during_kib = candidate.rss_kib()
                sample[f"stream_{count}_kib"] = (during_kib - before_kib) / count
        candidate.settle()
        if not _until_open(ground, 0, LEAVE_S):
            break  # what it still holds would count for the next
    return sample


def _until_open(ground: Ground, count: int, seconds: float) -> bool:
    """True when the upstream has exactly so many answers under way within that time."""
    late_s = time.monotonic() + seconds
    while get(ground.direct.port, "/state")["open"] != count:
        if time.monotonic() > late_s:
            return False
        time.sleep(0.01)
    return True


def leaving(candidate: Running, ground: Ground, seconds: float) -> Sample:
    """From a client's departure to the moment at which the upstream sees it; half before the first byte, half in a stream."""
    took_us: list[float] = []
    unseen = 0
    for number in range(round(100 * seconds)):
        open_before = get(ground.direct.port, "/state")["open"]  # and forgets earlier departures
        if number % 2:
            sock = _ask(candidate, "bench-1000-20000-0")
            while b"@" not in sock.recv(65_536):
                pass
            time.sleep(random.random() * 0.02)  # anywhere between two chunks
        else:
            sock = _ask(candidate, "bench-0-0-10000000", stream=False)
            _until_open(ground, open_before + 1, LEAVE_S)
        left_ns = time.monotonic_ns()
        sock.close()
        late_s = time.monotonic() + LEAVE_S
        while not (seen := get(ground.direct.port, "/state")["left"]) and time.monotonic() < late_s:
            time.sleep(0.0005)
        if seen:
            took_us.append((seen[0] - left_ns) / 1e3)
        else:
            unseen += 1
        if unseen == 3:  # it will not get better
            break
    candidate.settle()
    sample = {"departures": float(len(took_us)), "unseen": float(unseen)}
    if took_us:
        sample |= {"leave_p50_us": percentile(took_us, 0.5), "leave_p99_us": percentile(took_us, 0.99)}
    return sample


@contextmanager
def _stalled_readers(candidate: Running) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(STALLED):
            stack.enter_context(_ask(candidate, f"bench-{STALLED_CHUNKS}-0-0"))
        time.sleep(0.5)
        yield


def stalled(candidate: Running, _ground: Ground, seconds: float) -> Sample:
    """Paced streams beside clients that do not read, and without them just before; what memory one of those takes."""
    alone = put(PACED_20, candidate, seconds)
    before_kib = candidate.rss_kib()
    with _stalled_readers(candidate):
        sample = {**put(PACED_20, candidate, seconds)}
        if candidate.measured:
            grown_kib = candidate.rss_kib() - before_kib
            sample["stalled_kib"] = grown_kib / STALLED
    candidate.settle()
    return sample | {f"alone_{p}_us": alone[f"delay_{p}_us"] for p in ("p50", "p99")}


def overload(candidate: Running, _ground: Ground, seconds: float) -> Sample:
    """Offered as many as it can take, then one and three times that rate: what is answered of the peak, and how fast the rest is shed."""
    capacity_per_s = IN_FLIGHT * 1_000_000 / SERVICE_US
    full = put(Load(IN_FLIGHT, ttft_us=SERVICE_US), candidate, seconds)
    good_per_s = {0: full["requests_per_s"]}
    sample = {"errors": full["errors"]}
    for times in (1, 3):
        connections = IN_FLIGHT * 5 * times
        gap_us = round(connections * 1e6 / capacity_per_s / times)
        load = Load(connections, ttft_us=SERVICE_US, gap_us=gap_us, stagger_us=gap_us // connections)
        found = put(load, candidate, seconds)
        good_per_s[times] = found["requests_per_s"]
        sample["errors"] += found["errors"]
        sample[f"shed_{times}x_pct"] = 100 * found["sheds"] / (found["requests"] + found["sheds"])
        if times == 3:
            kept = ("cpu_us", "sheds", "shed_p50_us", "shed_p99_us", "e2e_p50_us", "e2e_p99_us", "recorder_us")
            sample |= {name: found[name] for name in kept if name in found}
    sample["peak_per_s"] = max(good_per_s.values())
    return sample | {f"goodput_{times}x_pct": 100 * good_per_s[times] / sample["peak_per_s"] for times in (1, 3)}


TRIALS = (
    Trial(
        "light",
        "4 streams, a chunk each 20 ms",
        under(LIGHT),
        (*MAIN, *SLOW),
        unit="chunk",
    ),
    Trial("paced20", "20 streams, a chunk each 10 ms", under(PACED_20), MAIN, unit="chunk"),
    Trial("paced100", "100 streams, a chunk each 10 ms", under(PACED_100), MAIN, unit="chunk"),
    Trial("plain2k", "2,000 answers a second, not streamed", under(PLAIN_2K), MAIN),
    Trial(
        "tls",
        "100 streams, a chunk each 10 ms, TLS to the upstream",
        under(PACED_100),
        ("nginx-tls", "lengthwise-tls"),
        yardstick="nginx-tls",
        unit="chunk",
    ),
    Trial(
        "stalled",
        f"20 streams, a chunk each 10 ms, beside {STALLED} clients that do not read 12 MB, and just before alone",
        stalled,
        FOUR,
        unit="chunk",
        rounds_share=0.3,
    ),
    Trial(
        "leaving",
        "from a client's departure to the upstream's notice, before the first byte and in a stream",
        leaving,
        (*FOUR, *SLOW),
        rounds_share=0.5,
    ),
    Trial(
        "fresh",
        "start to first answer on all cores; memory of the relaying process (MiB idle, KiB for each open stream)",
        open_streams,
        (*FOUR[1:], *SLOW),
        rounds_share=0.3,
        fresh=True,
    ),
    Trial(
        "overload",
        f"in_flight {IN_FLIGHT}, answers of {SERVICE_US // 1000} ms; CPU, e2e and sheds at three times capacity",
        overload,
        ("lengthwise-shedding",),
        yardstick="lengthwise-shedding",
    ),
    Trial("burst", "16 streams of 100 chunks at once, saturating", under(BURST), (*MAIN, *SLOW), unit="chunk"),
    Trial("plain", "64 connections, not streamed, saturating", under(PLAIN), (*MAIN, *SLOW)),
    Trial(
        "tls-plain",
        "64 connections, not streamed, saturating, TLS to the upstream",
        under(PLAIN),
        ("nginx-tls", "lengthwise-tls"),
        yardstick="nginx-tls",
    ),
    Trial(
        "rules",
        "64 connections, not streamed, saturating: 50 rules beside 10",
        under(PLAIN),
        ("lengthwise", "lengthwise-50"),
        yardstick="lengthwise",
    ),
    Trial(
        "workers",
        "64 connections, not streamed, saturating: two relaying processes on all cores, which load, upstream and recorder share",
        under(PLAIN),
        ("nginx", "nginx-2", "lengthwise", "lengthwise-2"),
        yardstick="lengthwise",
        rounds_share=0.3,
    ),
)

P50_P99 = ("p50", "p99")


def _both(name: str, suffix: str = "") -> tuple[str, ...]:
    return tuple(f"{name}_{p}_us{suffix}" for p in P50_P99)


COLUMNS = (
    Column("CPU us", ("cpu_us",)),
    Column("min", ("cpu_us",), ("low",)),
    Column("x {} q1/med/q3", ("cpu_us/{}",), ("q1", "median", "q3")),
    Column("per s", ("per_s",)),
    Column("busiest %", ("busiest_pct",)),
    Column("e2e us 50/99", _both("e2e")),
    Column("ttft+ us 50/99", _both("ttft", "-direct")),
    Column("delay us 50/99", _both("delay")),
    Column("delay+ us 50/99", _both("delay", "-direct")),
    Column("delay x {} 50/99", _both("delay", "/{}")),
    Column("jitter us 50/99", _both("jitter")),
    Column("alone us 50/99", _both("alone")),
    Column("KiB/stalled", ("stalled_kib",)),
    Column("peak/s", ("peak_per_s",)),
    Column("goodput % 1x/3x", ("goodput_1x_pct", "goodput_3x_pct")),
    Column("shed % 1x/3x", ("shed_1x_pct", "shed_3x_pct")),
    Column("shed us 50/99", _both("shed")),
    Column("left us 50/99", _both("leave")),
    Column("n/round", ("departures",)),
    Column("unseen", ("unseen",)),
    Column("first answer s", ("first_answer_s",)),
    Column("idle MiB", ("idle_mib",)),
    Column("all its MiB", ("family_mib",)),
    *(Column(f"KiB at {count:,}", (f"stream_{count}_kib",)) for count in OPEN_STREAMS),
    Column("recorder us", ("recorder_us",)),
    Column("dropped %", ("dropped_pct",)),
    Column("spans lost %", ("spans_lost_pct",)),
    Column("errors", ("errors",), ("high",)),
)
"""Of every trial's table, as far as it has the figures. CPU is of a `unit`; the recorder's of an exchange; `+` is over direct."""
