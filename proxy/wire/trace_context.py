"""W3C trace context: what comes in, and what goes out.

Layer: wire, sans-io. Random bits come from the caller.
Source: W3C Trace Context, Level 1, 3.2 (traceparent) and 3.3 (tracestate).
"""

import re
from typing import NamedTuple

__all__ = ["TraceContext", "continue_trace"]

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_TRACE_STATE_BYTES = 512  # 3.3.1.5: vendors should propagate at least 512 characters; more is cut off whole


class TraceContext(NamedTuple):
    """The ids of one exchange, decided before its first byte goes upstream."""

    trace_id: str
    parent_span_id: str | None
    """The client's span; None when this exchange begins the trace."""
    server_span_id: str
    client_span_id: str
    sampled: bool
    trace_state: str | None

    @property
    def traceparent(self) -> bytes:
        """The context that the upstream gets: a child of our CLIENT span."""
        return b"00-%b-%b-%b" % (
            self.trace_id.encode(),
            self.client_span_id.encode(),
            b"01" if self.sampled else b"00",
        )


def continue_trace(
    traceparent: bytes | None, tracestate: bytes | None, random_bits: int, sample_ratio: float
) -> TraceContext:
    """Continue the client's trace, or begin one.

    A valid traceparent decides about sampling; a new trace is sampled by its id, so that every process with the same
    ratio decides alike.

    Args:
        traceparent: Raw header, None when absent; an invalid one begins a new trace.
        tracestate: Raw header; dropped with an invalid traceparent.
        random_bits: 256 random bits.
        sample_ratio: Share of new traces that is sampled, 0 to 1.
    """
    server_span_id = f"{random_bits & 0xFFFF_FFFF_FFFF_FFFF or 1:016x}"
    client_span_id = f"{random_bits >> 64 & 0xFFFF_FFFF_FFFF_FFFF or 1:016x}"
    match = _TRACEPARENT.fullmatch(traceparent.strip()) if traceparent is not None else None
    if match is not None:
        version, trace_id, parent, flags, rest = match.groups()
        zero = trace_id == b"0" * 32 or parent == b"0" * 16
        if version != b"ff" and not zero and (rest is None or version != b"00"):
            state = tracestate.decode("latin-1") if tracestate and len(tracestate) <= _TRACE_STATE_BYTES else None
            return TraceContext(
                trace_id.decode(), parent.decode(), server_span_id, client_span_id, bool(int(flags, 16) & 1), state
            )
    trace_number = random_bits >> 128 or 1
    sampled = (trace_number & 0xFFFF_FFFF_FFFF_FFFF) < sample_ratio * 2**64
    return TraceContext(f"{trace_number:032x}", None, server_span_id, client_span_id, sampled, None)
