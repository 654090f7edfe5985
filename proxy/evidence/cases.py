"""Which exchange is a case of what: the partition of a group, and who may enter which figure.

Layer: evidence. An answer of several choices has tokens but no length and no pace of its own (its choices ran side by
side), so it is counted as a case and stays out of lengths, laws and what a cap would have done.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from proxy.evidence.sources.exchanges import Exchanges, Mask

__all__ = ["Cases", "cases_of", "is_single", "stays_in_laws"]

_BLOCKED_SHARE: Final = 0.01
"""Of e2e: a client that was slower than this shows its own pace, not the model's."""


@dataclass(frozen=True, slots=True)
class Cases:
    """A partition: each exchange is in exactly one."""

    cut: Mask
    """Whole answers that the limit ended."""
    natural: Mask
    """Whole answers that the model ended, below a limit."""
    unlimited: Mask
    """Whole answers that the model ended, without a limit."""
    unknown: Mask
    """All else: errors, answers that broke off, ends that say nothing about length."""

    @property
    def ended_by_model(self) -> Mask:
        """Natural or unlimited: the answer has its own length."""
        return self.natural | self.unlimited


def cases_of(exchanges: Exchanges) -> Cases:
    """The case of each exchange."""
    complete = exchanges.complete
    cut = complete & (exchanges.finish.among("length") | (exchanges.cut == 1))
    ended = complete & ~cut & exchanges.finish.among("stop", "tool_calls")
    limited = ~np.isnan(exchanges.forwarded_max_tokens)
    return Cases(cut, ended & limited, ended & ~limited, ~(cut | ended))


def is_single(exchanges: Exchanges) -> Mask:
    """Exchanges that asked for one choice; one that did not say asked for one."""
    single: Mask = (exchanges.choices == 1) | np.isnan(exchanges.choices)
    return single


def stays_in_laws(exchanges: Exchanges) -> Mask:
    """Exchanges whose times are the model's: the client was not known to block for more than 1% of e2e."""
    blocked: Mask = exchanges.client_blocked_s > _BLOCKED_SHARE * exchanges.e2e_s
    return ~blocked
