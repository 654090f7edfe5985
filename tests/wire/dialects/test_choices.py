"""Of answers made of choices, the event that exists only because we asked is told from all others, and what is kept is bounded."""

import pytest

from proxy.wire.dialects.base import Reading
from proxy.wire.dialects.choices import is_extra_usage, read_event


@pytest.mark.parametrize(
    ("data", "extra"),
    [
        (b'{"choices":[],"usage":{"completion_tokens":5}}', True),
        (b'{"choices" : [ ] ,"usage":{}}', True),
        (b'{"choices":[],"usage":{"completion_tokens":5},"prompt_filter_results":[],"x_groq":{"id":"a"}}', True),
        (b'{"choices":[],"usage":null}', False),
        (b'{"choices":[]}', False),
        (b'{"usage":{"completion_tokens":5}}', False),
        (b'{"choices":[],"usage":{"completion_tokens":5},"prompt_filter_results":[{}]}', False),
        (b'{"choices":[],"usage":{"completion_tokens":5},"moderation":{"flagged":false}}', False),
        (b'{"choices":[],"usage":{"completion_tokens":5},"error":{"code":1}}', False),
        (b'{"choices":[{"delta":{"content":"\\"choices\\":[]"}}],"usage":{"completion_tokens":5}}', False),
        (b'{"a":{"choices":[]},"usage":{}}', False),
        (b'{"choices":[],"usage":{"completion_tokens":5}', False),
        (b'[{"choices":[],"usage":{}}]', False),
        (b"[DONE]", False),
        (b"", False),
    ],
)
def test_the_extra_event_is_told_from_all_others(data, extra):
    """No choices and a usage object, and nothing of value beside them."""
    assert is_extra_usage(data) is extra


def test_what_is_kept_of_many_choices_is_bounded():
    """A stream of ever new indexes keeps 1024."""
    reading = Reading()
    for index in range(5000):
        read_event((None, b'{"choices":[{"index":%d,"delta":{}}]}' % index), reading)
        read_event((None, b'{"choices":[{"index":%d,"finish_reason":"stop"}]}' % (index + 10_000)), reading)
    assert len(reading.open_choices) <= 1024
    assert len(reading.finish_reasons) <= 1024
