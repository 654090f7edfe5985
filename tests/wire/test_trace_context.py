"""Trace contexts as they come in and go out (W3C Trace Context)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.trace_context import TraceContext, continue_trace

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{PARENT}-01".encode()
BITS = 0x11112222333344445555666677778888_99990000AAAABBBB_CCCCDDDDEEEEFFFF
NEW = TraceContext("11112222333344445555666677778888", None, "ccccddddeeeeffff", "99990000aaaabbbb", True, None)
CONTINUED = NEW._replace(trace_id=TRACE, parent_span_id=PARENT)


def test_a_valid_context_is_continued():
    """The client's trace and span, its tracestate, two span ids of our own; the client decides about sampling."""
    context = continue_trace(VALID, b"vendor=x,other=y", BITS, 0.0)
    assert context == CONTINUED._replace(trace_state="vendor=x,other=y")
    assert context.traceparent == f"00-{TRACE}-99990000aaaabbbb-01".encode()


@pytest.mark.parametrize(
    ("flags", "sampled"), [(b"00", False), (b"01", True), (b"03", True), (b"02", False), (b"ff", True)]
)
def test_the_clients_sampled_flag_decides(flags: bytes, sampled: bool):
    """Only its lowest bit means something, and only that is sent on."""
    context = continue_trace(VALID[:-2] + flags, None, BITS, 1.0)
    assert context == CONTINUED._replace(sampled=sampled)
    assert context.traceparent[-3:] == (b"-01" if sampled else b"-00")


@pytest.mark.parametrize("value", [VALID, b" " + VALID + b"\t", b"cc" + VALID[2:], b"01" + VALID[2:] + b"-more"])
def test_spellings_that_are_valid(value: bytes):
    """White space around it, versions to come, and what those may append (2.2.2, 4.3)."""
    assert continue_trace(value, None, BITS, 1.0) == CONTINUED


@pytest.mark.parametrize(
    "value",
    [
        *(None, b"", b"nonsense", VALID.upper(), VALID[:-1], VALID + b"0", VALID + b"-more", b"ff" + VALID[2:]),
        *(VALID.replace(TRACE.encode(), b"0" * 32), VALID.replace(PARENT.encode(), b"0" * 16)),
        *(VALID.replace(b"-", b"_"), VALID + b"," + VALID, b"01" + VALID[2:] + b"x", VALID.replace(b"4b", b"\xff\xff")),
    ],
)
def test_an_invalid_context_begins_a_new_trace(value: bytes | None):
    """Its tracestate goes with it (3.3.1.1)."""
    assert continue_trace(value, b"vendor=x", BITS, 1.0) == NEW


@pytest.mark.parametrize(("state", "kept"), [(b"a=b", "a=b"), (b"", None), (b"x" * 512, "x" * 512), (b"x" * 513, None)])
def test_a_tracestate_is_kept_whole_or_not_at_all(state: bytes, kept: str | None):
    """Up to 512 bytes."""
    assert continue_trace(VALID, state, BITS, 1.0).trace_state == kept


@given(st.integers(0, 2**256 - 1), st.floats(0, 1))
def test_a_new_trace_has_ids_that_are_valid_and_is_sampled_by_its_id(bits: int, ratio: float):
    """No id is zero; every process with the same ratio decides alike; what it sends it would accept."""
    context = continue_trace(None, None, bits, ratio)
    assert len(context.trace_id) == 32
    assert len(context.server_span_id) == len(context.client_span_id) == 16
    assert {int(context.trace_id, 16), int(context.server_span_id, 16), int(context.client_span_id, 16)}.isdisjoint({0})
    assert context.sampled == (int(context.trace_id[16:], 16) < ratio * 2**64)
    again = continue_trace(context.traceparent, None, BITS, 1.0)
    assert (again.trace_id, again.parent_span_id, again.sampled) == (
        context.trace_id,
        context.client_span_id,
        context.sampled,
    )


@pytest.mark.parametrize(("ratio", "sampled"), [(0.0, False), (1.0, True)])
@pytest.mark.parametrize("low", [0, 2**64 - 1])
def test_a_ratio_of_zero_is_none_and_of_one_is_all(ratio: float, sampled: bool, low: int):
    """At both ends of the ids."""
    bits = (1 << 255) | (low << 128)
    assert continue_trace(None, None, bits, ratio).sampled == sampled
