"""What finished exchanges teach the workers: the laws by which deadlines become limits, and which rules are disarmed.

Layer: recorder. Bounded: the last exchanges of so many models, the last answers of each rule. Workers hear it each second, and at once when
a rule is disarmed or armed. What a dead recorder knew of rules is read again from the ledger, and without one taken from the workers.

Source: ARCHITECTURE.md 7 "Policies".
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from proxy.policy.disarm import Answer, Window, cut_by_rule
from proxy.policy.live import Law, Live, quantile
from proxy.policy.rules import PolicySet
from proxy.record import End, ExchangeRecord

__all__ = ["Learned", "LearnedPolicy"]

_EXCHANGES: Final = 512
"""Streamed exchanges that a law is made of at most."""
_LEAST_EXCHANGES: Final = 50
_RECENT_S: Final = 600.0
_MODELS: Final = 256
_SHOWN_QUANTILES: Final = (0.5, 0.95)
_BLOCKED_SHARE: Final = 0.01
"""An exchange whose client blocked for more of its time says nothing of the upstream."""

log = logging.getLogger(__name__)

Answers = Callable[[str, float, int], Sequence[Answer]]
"""(rule, since in unix seconds, how many) to the last answers that a ledger has of the rule, oldest first."""


@dataclass(frozen=True, slots=True)
class LearnedPolicy:
    """The rules, and since when each is as it is."""

    policies: PolicySet
    since_unix_s: Mapping[str, float]

    @classmethod
    def read(cls, parse: Callable[[object], PolicySet], message: Mapping[str, Any]) -> "LearnedPolicy":
        """Read the supervisor's message of `policy` and `rules`.

        Raises:
            LookupError, SettingsError: it is something else.
        """
        since = {rule["name"]: float(rule["since"]) for rule in message["policy"]["rules"]}
        return cls(parse(message["rules"]), since)


class Learned:
    """Laws and windows of one recorder's life."""

    def __init__(self, policy: LearnedPolicy, answers: Answers) -> None:
        """`answers` reads the ledger; it gives nothing where there is none."""
        self._answers = answers
        self._times: OrderedDict[tuple[str, str | None], deque[tuple[float, float, float]]] = OrderedDict()
        """(started, ttft, tpot) in seconds by upstream and model."""
        self._windows: dict[str, Window] = {}
        self._policy = policy
        self._watch(policy.policies, policy.policies)

    def take(self, policy: LearnedPolicy) -> None:
        """Rules were reloaded: those that changed begin anew."""
        before, self._policy = self._policy, policy
        self._watch(policy.policies, before.policies)

    def _watch(self, policies: PolicySet, before: PolicySet) -> None:
        same = set(before.rules)
        windows: dict[str, Window] = {}
        for rule in policies.rules:
            if rule.disarm is None or not rule.enforces:
                continue
            known = self._windows.get(rule.name) if rule in same else None
            if known is None:
                since_unix_s = self._policy.since_unix_s.get(rule.name, 0.0)
                known = Window.rebuilt(
                    rule.disarm, rule.name, self._answers(rule.name, since_unix_s, rule.disarm.of_last)
                )
                if not known.armed:
                    log.warning("rule %s is disarmed, as the ledger has it: %s", rule.name, _account(known))
            windows[rule.name] = known
        self._windows = windows

    def adopt(self, disarmed: Iterable[str]) -> None:
        """A worker knows of rules that were disarmed before this recorder began; where no ledger tells more, that stands."""
        for name in disarmed:
            window = self._windows.get(name)
            if window is not None and not len(window):
                window.armed = False

    def observe(self, records: Iterable[ExchangeRecord]) -> bool:
        """Learn from finished exchanges; True when a rule was disarmed or armed."""
        changed = False
        for record in records:
            self._time(record)
            answer = Answer.of(record) if self._windows else None
            if answer is None:
                continue
            for name, window in self._windows.items():
                cut = cut_by_rule(answer, name)
                if cut is not None and window.add(cut):
                    changed = True
                    if window.armed:
                        log.warning("rule %s is armed again: %s", name, _account(window))
                    else:
                        log.warning("rule %s is disarmed and acts as shadow: %s", name, _account(window))
        return changed

    def _time(self, record: ExchangeRecord) -> None:
        ttft_s, tpot_s, e2e_s, upstream = record.ttft_s, record.tpot_s, record.e2e_s, record.upstream
        if ttft_s is None or tpot_s is None or e2e_s is None or upstream is None or record.end is not End.COMPLETE:
            return
        if record.status is None or not 200 <= record.status < 300 or record.client_blocked_s > _BLOCKED_SHARE * e2e_s:
            return
        key = (upstream, record.request.model)
        times = self._times.get(key)
        if times is None:
            times = self._times[key] = deque(maxlen=_EXCHANGES)
            if len(self._times) > _MODELS:
                self._times.popitem(last=False)
        self._times.move_to_end(key)
        times.append((record.started_at_s, ttft_s, tpot_s))

    def live(self, now_unix_s: float) -> Live:
        """What workers are told."""
        quantiles = {rule.quantile for rule in self._policy.policies.rules if rule.has_deadline}
        laws = {(*key, each): law for key, _, found in self._laws(quantiles, now_unix_s) for each, law in found.items()}
        return Live(laws, frozenset(name for name, window in self._windows.items() if not window.armed))

    def line(self, now_unix_s: float) -> bytes:
        """The same as a line of the intake."""
        return orjson.dumps({"live": self.live(now_unix_s).to_json()}) + b"\n"

    def laws_status(self, now_unix_s: float) -> list[dict[str, Any]]:
        """The laws as `/status` shows them."""
        return [
            {
                "upstream": upstream,
                "model": model,
                "exchanges": count,
                **{f"ttft_p{round(each * 100)}_s": law.ttft_s for each, law in found.items()},
                **{f"tpot_p{round(each * 100)}_s": law.tpot_s for each, law in found.items()},
            }
            for (upstream, model), count, found in self._laws(_SHOWN_QUANTILES, now_unix_s)
        ]

    def rules_status(self) -> dict[str, dict[str, Any]]:
        """Whether each enforcing rule is armed; of those that may disarm also their last answers."""
        states: dict[str, dict[str, Any]] = {name: {"armed": armed} for name, armed in self.armed()}
        for name, window in self._windows.items():
            states[name] |= {
                "answers": len(window),
                "cut": window.cut,
                "budget": window.disarm.budget,
                "of_last": window.disarm.of_last,
            }
        return states

    def armed(self) -> list[tuple[str, bool]]:
        """Every enforcing rule, and whether it is armed. Read by the metric reader's thread."""
        windows = self._windows
        return [
            (rule.name, rule.name not in windows or windows[rule.name].armed)
            for rule in self._policy.policies.rules
            if rule.enforces
        ]

    def _laws(
        self, quantiles: Iterable[float], now_unix_s: float
    ) -> Iterable[tuple[tuple[str, str | None], int, dict[float, Law]]]:
        """(upstream and model, how many exchanges, law by quantile) of every model with enough recent ones."""
        wanted = sorted(quantiles)
        for key, times in self._times.items() if wanted else ():
            recent = [each for each in times if each[0] > now_unix_s - _RECENT_S]
            if len(recent) < _LEAST_EXCHANGES:
                continue
            ttft_s, tpot_s = sorted(each[1] for each in recent), sorted(each[2] for each in recent)
            yield key, len(recent), {each: Law(quantile(ttft_s, each), quantile(tpot_s, each)) for each in wanted}


def _account(window: Window) -> str:
    return f"{window.cut} of its last {len(window)} answers cut, {window.disarm.budget:g} of {window.disarm.of_last} allowed"
