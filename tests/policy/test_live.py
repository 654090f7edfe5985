"""Live state of this version."""

import dataclasses

import pytest

from proxy.policy.live import Live


def test_live_is_one_immutable_value() -> None:
    """It is replaced as a whole, never changed under a decision."""
    assert Live() == Live()
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        Live().laws = {}  # type: ignore[attr-defined]
