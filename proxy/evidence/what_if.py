"""What a cap would have done to the traffic that was: min(limit, cap) on each exchange, nothing fitted.

Layer: evidence. The tokens saved and the answers newly cut are counts. The time saved is the time that passed between the
cap's token and the last one, read from the exchange's own checkpoints and linear between them; without checkpoints the
line goes from the first token to the last, which is the exchange's own tpot. A time that was not observed (an answer that
was not streamed) is not guessed: it is left out of the total, and that answer keeps its e2e.

Tokens that the stream did not show (hidden reasoning) were generated before its first: a cap that falls among them
saves at least all that was streamed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from proxy.evidence.blocks import Interval, blocks_of, exact_sum, quantile, total_interval
from proxy.evidence.cases import cases_of, is_single
from proxy.evidence.sources.exchanges import Exchanges, Floats, Ints, Mask
from proxy.record import OPAQUE

__all__ = ["CapOutcome", "what_if"]


@dataclass(frozen=True, slots=True)
class CapOutcome:
    """What one cap would have done to the complete exchanges of a group."""

    cap_tokens: int
    complete: int
    """Complete exchanges of the group."""
    governed: int
    """Those without a limit, or with a larger one, of endpoints on which a cap can act."""
    longer: int
    """Those that were longer than the cap."""
    timed: int
    """Of the longer ones, those whose saving is known."""
    newly_cut: int
    """Of the longer ones, those that the model had ended."""
    tokens_saved: int
    latency_saved_s: float | None
    """Over the `timed` ones; 0 when none was longer, None when some were and no time is known."""
    latency_saved_ci95: Interval | None
    e2e_p95_before_s: float | None
    e2e_p95_after_s: float | None
    """An answer whose saving is unknown counts with the time it took."""

    @property
    def newly_cut_share(self) -> float | None:
        """Of the complete exchanges, which are what a rule for the group would decide; None when there are none."""
        return self.newly_cut / self.complete if self.complete else None


def what_if(exchanges: Exchanges, caps_tokens: Sequence[int]) -> tuple[CapOutcome, ...]:
    """The outcome of each cap."""
    rows, complete = exchanges, exchanges.complete
    sized = complete & is_single(rows) & ~np.isnan(rows.output_tokens)
    judged = complete & ~rows.dialect.among(OPAQUE)
    ended = cases_of(rows).ended_by_model
    timelines = _Timelines(rows)
    blocks = blocks_of(rows.started_at[sized])
    before = quantile(rows.e2e_s[complete], 0.95)
    outcomes = []
    for cap in caps_tokens:
        longer = sized & (rows.output_tokens > cap)
        saved_s = timelines.after(cap, longer)
        timed = ~np.isnan(saved_s)
        known_s = np.where(timed, saved_s, 0.0)
        is_known = bool(timed[longer].any()) or not longer.any()
        outcomes.append(
            CapOutcome(
                cap_tokens=cap,
                complete=int(complete.sum()),
                governed=int(
                    (judged & (np.isnan(rows.forwarded_max_tokens) | (rows.forwarded_max_tokens > cap))).sum()
                ),
                longer=int(longer.sum()),
                timed=int(timed.sum()),
                newly_cut=int((longer & ended).sum()),
                tokens_saved=int((rows.output_tokens[longer] - cap).sum()),
                latency_saved_s=exact_sum(known_s[timed]) if is_known else None,
                latency_saved_ci95=total_interval(known_s[sized], blocks) if is_known else None,
                e2e_p95_before_s=before,
                e2e_p95_after_s=quantile((rows.e2e_s - known_s)[complete], 0.95),
            )
        )
    return tuple(outcomes)


class _Timelines:
    """Each row's tokens over time: its first token, its checkpoints, its last token."""

    def __init__(self, rows: Exchanges) -> None:
        self._rows = rows
        self._has_line: Mask = (rows.decoded_tokens >= 2) & ~np.isnan(rows.last_token_s - rows.ttft_s)
        # All rows lie one behind the other on one axis, so that one search serves them all. Of long answers there are
        # tens of millions of checkpoints: none is copied.
        points = rows.checkpoints
        self._span = 1 + max(
            float(points.tokens.max(initial=1)), float(rows.decoded_tokens[self._has_line].max(initial=1))
        )
        self._at = np.repeat(np.arange(len(rows)) * self._span, np.diff(points.starts))
        self._at += points.tokens

    def after(self, cap_tokens: int, longer: Mask) -> Floats:
        """Seconds from the cap's token to the last one for the `longer` rows; NaN where unknown and for the others."""
        rows = self._rows
        saved_s = np.full(len(rows), np.nan)
        lined = np.flatnonzero(longer & self._has_line)
        if lined.size:
            hidden = rows.output_tokens[lined] - rows.decoded_tokens[lined]
            position = np.clip(cap_tokens - hidden, 1, rows.decoded_tokens[lined])
            saved_s[lined] = rows.last_token_s[lined] - self._reached_s(lined, position)
        paced = longer & ~self._has_line & ~np.isnan(rows.tpot_s)
        saved_s[paced] = rows.tpot_s[paced] * (rows.output_tokens[paced] - cap_tokens)
        return saved_s

    def _reached_s(self, lined: Ints, position: Floats) -> Floats:
        """When each of these rows was at its position: linear between the checkpoints beside it, or the first or last token."""
        rows, points = self._rows, self._rows.checkpoints
        last = rows.decoded_tokens[lined]
        from_tokens, from_s = np.ones(len(lined)), rows.ttft_s[lined]
        to_tokens, to_s = last.copy(), rows.last_token_s[lined]
        behind = np.searchsorted(self._at, lined * self._span + position, side="right")
        known = np.flatnonzero(behind > points.starts[lined])
        known = known[(points.tokens[behind[known] - 1] > 1) & (points.tokens[behind[known] - 1] < last[known])]
        from_tokens[known], from_s[known] = points.tokens[behind[known] - 1], points.elapsed_s[behind[known] - 1]
        known = np.flatnonzero(behind < points.starts[lined + 1])
        known = known[points.tokens[behind[known]] < last[known]]
        to_tokens[known], to_s[known] = points.tokens[behind[known]], points.elapsed_s[behind[known]]
        reached_s: Floats = from_s + (to_s - from_s) * (position - from_tokens) / (to_tokens - from_tokens)
        return reached_s
