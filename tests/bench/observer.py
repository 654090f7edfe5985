"""Cost of reading a stream, without sockets: us per event of the observer and of the cutter, beside parsing alone.

Run by `python -m tests.bench.observer`. `paced`: one event in each read, as a provider streams. `burst`: reads of 64 KiB.
Minimum of the repetitions, because noise only adds.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

import orjson

from proxy.observe.observer import Observer
from proxy.wire.dialects import match
from proxy.wire.sse import EventSplitter, UsageCutter

EVENTS, REPETITIONS, READ_BYTES = 2_000, 15, 65_536
EVENT_BYTES, BODY_BYTES = 1_048_576, 33_554_432


def event(delta: dict[str, str], finish: str | None = None) -> bytes:
    """One chunk event of about 300 bytes."""
    data = {
        "id": "chatcmpl-bench0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "bench",
        "system_fingerprint": "fp_bench",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
    }
    return b"data: " + orjson.dumps(data) + b"\n\n"


def stream() -> list[bytes]:
    """The events of one answer."""
    usage = (
        b'data: {"id":"chatcmpl-bench","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":%d}}\n\n' % EVENTS
    )
    content = [event({"content": f"@{i:019d} {'x' * 40}"}) for i in range(EVENTS)]
    return [event({"role": "assistant", "content": ""}), *content, event({}, "stop"), usage, b"data: [DONE]\n\n"]


def best_us(work: Callable[[], object], events: int) -> float:
    """Shortest time of `work` over its number of events."""
    times = []
    for _ in range(REPETITIONS):
        start = time.perf_counter_ns()
        work()
        times.append(time.perf_counter_ns() - start)
    return min(times) / 1e3 / events


def main() -> None:
    """Print the figures."""
    events = stream()
    whole = b"".join(events)
    burst = [whole[at : at + READ_BYTES] for at in range(0, len(whole), READ_BYTES)]
    dialect = match(b"/v1/chat/completions")
    if dialect is None:
        raise SystemExit("chat completions is no dialect")

    def observe(reads: Sequence[bytes]) -> None:
        observer = Observer(
            dialect, event_stream=True, content_encoding="", event_bytes=EVENT_BYTES, body_bytes=BODY_BYTES
        )
        for at_ns, data in enumerate(reads):
            observer.feed(data, at_ns)
        facts = observer.finish(len(reads))
        if facts.degraded or facts.generated_events != EVENTS:
            raise SystemExit(f"the observer read {facts.generated_events} of {EVENTS} events: {facts.degraded}")

    def split(reads: Sequence[bytes]) -> None:
        splitter = EventSplitter(EVENT_BYTES)
        for data in reads:
            splitter.feed(data)

    def cut(reads: Sequence[bytes]) -> None:
        cutter = UsageCutter(dialect.is_extra_usage, EVENT_BYTES)
        kept = sum(len(cutter.feed(data)) for data in reads) + len(cutter.finish())
        if kept != len(whole) - len(events[-2]):
            raise SystemExit("the cutter did not cut the usage event alone")

    payloads = [data[6:-2] for data in events[:-1]]
    print(f"{len(whole) / len(events):.0f} bytes per event; us per event, best of {REPETITIONS}")
    print(f"{'orjson.loads alone':20} {best_us(lambda: [orjson.loads(data) for data in payloads], len(events)):8.3f}")
    works: tuple[tuple[str, Callable[[Sequence[bytes]], None]], ...] = (
        ("splitter", split),
        ("cutter", cut),
        ("observer", observe),
    )
    for name, work in works:
        for pace, reads in (("paced", events), ("burst", burst)):
            print(f"{name + ' ' + pace:20} {best_us(partial(work, reads), len(events)):8.3f}")


if __name__ == "__main__":
    main()
