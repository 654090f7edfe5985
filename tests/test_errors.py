"""Every refusal has one answer, and it says whether a repetition can help."""

from http import HTTPStatus

import pytest

from proxy.errors import REFUSALS, LengthwiseError, Mistake, Refusal, RefusalError, SettingsError


def test_should_not_retry_goes_with_our_4xx_and_the_first_byte_timeout_only():
    """The contract of `x-should-retry: false`."""
    final = {name for name, refusal in REFUSALS.items() if refusal.final}
    assert final == {name for name, refusal in REFUSALS.items() if 400 <= refusal.status < 500} | {
        "upstream_first_byte_timeout"
    }


def test_a_refusal_is_an_error_of_http():
    """4xx and 5xx, in words that go into a header."""
    assert {refusal.status // 100 for refusal in REFUSALS.values()} == {4, 5}
    assert all(name.replace("_", "").isalpha() and name == name.lower() for name in REFUSALS)


def test_the_reason_is_the_phrase_of_the_status():
    """As RFC 9110 registers it; the standard library still says the older words for 413."""
    phrases = {refusal.status: refusal.reason for refusal in REFUSALS.values()}
    assert phrases.pop(413) == b"Content Too Large"
    assert phrases == {status: HTTPStatus(status).phrase.encode() for status in phrases}


def test_a_refusal_knows_its_answer():
    """Type, message and what belongs to the type."""
    error = RefusalError("overloaded", "in_flight is reached")
    assert (error.error_type, error.message, str(error)) == (
        "overloaded",
        "in_flight is reached",
        "in_flight is reached",
    )
    assert error.refusal == Refusal(503, b"Service Unavailable", "server_error", final=False)
    with pytest.raises(KeyError):
        _ = RefusalError("no_such_type", "x").refusal


def test_a_settings_error_says_every_mistake():
    """One line each, with its key path."""
    mistakes = [Mistake("listen", "expected host:port, got 5"), Mistake("upstreams[0].url", "is missing")]
    error = SettingsError(mistakes)
    assert error.mistakes == mistakes
    assert str(error) == "listen: expected host:port, got 5\nupstreams[0].url: is missing"
    assert isinstance(error, LengthwiseError)
