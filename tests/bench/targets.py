"""What Lengthwise is held to, with everything on, and whether a run met it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench.figures import Spread, Spreads, short


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on the median of a figure over the rounds that count."""

    says: str
    trial: str
    figure: str
    """`A/B` is the ratio to B's in the same round, `A-B` the difference."""
    bound: float
    unit: str = ""
    scale: float = 1.0
    """From the figure's unit to `unit`."""
    candidate: str = "lengthwise"
    at_least: bool = False


TARGETS = (
    Target("CPU of a request", "plain", "cpu_us/nginx", 1.8, "x nginx"),
    Target("CPU of a paced chunk, 20 streams", "paced20", "cpu_us/nginx", 1.4, "x nginx"),
    Target("CPU of a paced chunk, 100 streams", "paced100", "cpu_us/nginx", 1.4, "x nginx"),
    Target("TTFT over nginx p50, 20 streams", "paced20", "ttft_p50_us-nginx", 0.15, "ms", 1e-3),
    Target("TTFT over nginx p50, 100 streams", "paced100", "ttft_p50_us-nginx", 0.15, "ms", 1e-3),
    Target("chunk delay p50, 20 streams", "paced20", "delay_p50_us/nginx", 1.15, "x nginx"),
    Target("chunk delay p50, 100 streams", "paced100", "delay_p50_us/nginx", 1.15, "x nginx"),
    Target("chunk delay p99, 20 streams", "paced20", "delay_p99_us/nginx", 1.5, "x nginx"),
    Target("chunk delay p99, 100 streams", "paced100", "delay_p99_us/nginx", 1.5, "x nginx"),
    Target("memory of an open stream, 500", "fresh", "stream_500_kib", 10, "KiB"),
    Target("memory of an open stream, 2,000", "fresh", "stream_2000_kib", 10, "KiB"),
    Target("recorder, CPU of an exchange", "plain2k", "recorder_us", 350, "us"),
    Target("start to first answer", "fresh", "first_answer_s", 0.4, "s"),
    Target("departure seen upstream p99", "leaving", "leave_p99_us", 10, "ms", 1e-3),
    Target("shed p99 at 3x capacity", "overload", "shed_p99_us", 50, "ms", 1e-3, "lengthwise-shedding"),
    Target(
        "goodput at 3x capacity", "overload", "goodput_3x_pct", 90, "% of peak", 1, "lengthwise-shedding", at_least=True
    ),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what was measured."""

    target: Target
    measured: Spread | None
    """In the target's unit; None when the run did not measure it."""

    @property
    def met(self) -> bool | None:
        """None when it was not measured."""
        if self.measured is None:
            return None
        if self.target.at_least:
            return self.measured.median >= self.target.bound
        return self.measured.median <= self.target.bound

    @property
    def share(self) -> float | None:
        """How much of what the target allows was used: at most 1 where it is met; None as `met`, and for nothing used at all."""
        if self.measured is None or self.measured.median <= 0:
            return None
        used = self.measured.median / self.target.bound
        return 1 / used if self.target.at_least else used

    @property
    def row(self) -> list[str]:
        """For the table."""
        bound = f"{'>=' if self.target.at_least else '<='} {short(self.target.bound)} {self.target.unit}"
        if self.measured is None:
            return [self.target.says, bound, "-", "-", "not measured"]
        spread = self.measured
        return [
            self.target.says,
            bound,
            short(spread.median),
            f"{short(spread.q1)} to {short(spread.q3)}",
            "met" if self.met else "MISSED",
        ]


HEAD = ["", "target", "measured", "q1 to q3", ""]


def judge(measured: Mapping[str, Spreads], targets: Sequence[Target] = TARGETS) -> list[Verdict]:
    """Every target of the trials that were run."""
    return [
        Verdict(
            target, _scaled(measured.get(target.trial, {}).get(target.candidate, {}).get(target.figure), target.scale)
        )
        for target in targets
        if target.trial in measured
    ]


def _scaled(spread: Spread | None, scale: float) -> Spread | None:
    if spread is None:
        return None
    return Spread(*(value * scale for value in (spread.low, spread.q1, spread.median, spread.q3, spread.high)))
