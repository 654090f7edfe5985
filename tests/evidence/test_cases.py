"""Cases partition; odd exchanges stay where they belong."""

import numpy as np
import pytest

from proxy.evidence.cases import cases_of, is_single, stays_in_laws
from tests.support.exchanges import exchanges


@pytest.mark.parametrize(
    ("changes", "case"),
    [
        ({"finish": "length", "cut": 1}, "cut"),
        ({"finish": "length", "cut": None}, "cut"),
        ({"finish": "stop", "cut": 1, "choices": 2}, "cut"),
        ({"finish": "length", "cut": 1, "forwarded_max_tokens": None}, "cut"),
        ({"finish": "stop"}, "natural"),
        ({"finish": "tool_calls"}, "natural"),
        ({"finish": "stop", "forwarded_max_tokens": None}, "unlimited"),
        ({"finish": "content_filter"}, "unknown"),
        ({"finish": "other"}, "unknown"),
        ({"finish": None, "cut": None}, "unknown"),
        ({"finish": "length", "cut": 1, "end": "broken"}, "unknown"),
        ({"finish": "stop", "end": "client_disconnect"}, "unknown"),
        ({"finish": "stop", "status": 500}, "unknown"),
        ({"finish": "stop", "status": None}, "unknown"),
    ],
)
def test_each_exchange_is_in_one_case(changes: dict[str, object], case: str) -> None:
    """That one and no other."""
    cases = cases_of(exchanges(changes))
    found = {name: getattr(cases, name).tolist() for name in ("cut", "natural", "unlimited", "unknown")}
    assert found == {name: [name == case] for name in found}


def test_an_answer_of_several_choices_is_not_single() -> None:
    """One that did not say how many asked for one."""
    rows = exchanges({"choices": 1}, {"choices": 2}, {"choices": None})
    assert is_single(rows).tolist() == [True, False, True]


def test_a_client_that_blocked_stays_out_of_laws() -> None:
    """Above 1% of e2e; what is unknown is no block."""
    rows = exchanges(
        {"e2e_s": 2.0, "client_blocked_s": 0.02},
        {"e2e_s": 2.0, "client_blocked_s": 0.03},
        {"e2e_s": 2.0, "client_blocked_s": None},
        {"e2e_s": None, "client_blocked_s": 0.03},
    )
    assert np.array_equal(stays_in_laws(rows), [True, False, True, True])
