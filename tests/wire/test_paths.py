"""Every spelling of a dialect's path matches it; a prefix is removed in whole segments."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.dialects import match
from proxy.wire.paths import canonical, is_plain, strip_prefix


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/chat/completions",
        b"/v1/chat/completions?x=/y",
        b"/v1/chat/completions/",
        b"//v1//chat///completions//",
        b"/v1/./chat/completions/.",
        b"/x/../v1/chat/completions",
        b"/../../v1/chat/completions",
        b"/v1/chat%2fcompletions",
        b"/v1/chat%252fcompletions",
        b"/v1/chat%25252fcompletions",
        b"/x/%2e%2E/v1/chat/completions",
        b"/v1/%63hat/completion%73",
        b"/v1\\chat\\completions",
        b"/v1/chat%5ccompletions",
        b"/V1/Chat/COMPLETIONS",
        b"/v1/chat;a=b/completions;c",
        b"/x/..;/v1/chat/completions",
        b"/v1/chat/completions%00",
        b"/v1/chat/completions%20",
        b"/v1/chat/completions%09",
        b"/v1/chat/completions%3fx",
        b"/v1/chat/completions#x",
        b"/v1/chat/completions%23x",
        b"http://host/v1/chat/completions",
    ],
)
def test_no_spelling_of_a_path_escapes_matching(target):
    """Whatever an upstream might read as the chat path ends in the chat path."""
    assert canonical(target).endswith(b"/v1/chat/completions")
    assert match(canonical(target)).name == "chat_completions"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", b"/"),
        (b"", b"/"),
        (b"*", b"/*"),
        (b"/?a", b"/"),
        (b"/..", b"/"),
        (b"/v1/models", b"/v1/models"),
        (b"/v1/chat/completions/chatcmpl-1", b"/v1/chat/completions/chatcmpl-1"),
        (b"/v1/xchat/completions", b"/v1/xchat/completions"),
        (b"/a%zz%4", b"/a%zz%4"),
        (b"/\xff%FF", b"/\xff\xff"),
    ],
)
def test_other_paths_keep_their_segments(target, path):
    """What is no spelling of another path stays what it is."""
    assert canonical(target) == path


@pytest.mark.parametrize("path", [b"/v1/models", b"/v1/chat/completions/id", b"/xcompletions", b"/v1/messages/batches"])
def test_a_path_of_no_dialect_matches_none(path):
    """The suffix is matched in whole segments."""
    assert match(path) is None


@pytest.mark.parametrize(
    ("target", "plain"),
    [
        (b"/v1/chat/completions", True),
        (b"/chat/completions", True),
        (b"/openai/deployments/gpt-4o.mini_1/chat/completions?api-version=2024-10-21&x=%2f..;", True),
        (b"/V1/ft:gpt-4o~x@y/chat/completions", True),
        (b"/v1/chat/completions/", False),
        (b"/v1/Chat/completions", False),
        (b"//v1/chat/completions", False),
        (b"/v1//chat/completions", False),
        (b"/v1/./chat/completions", False),
        (b"/x/../v1/chat/completions", False),
        (b"/v1/...x/chat/completions", True),
        (b"/v1/%63hat/completions", False),
        (b"/a%20b/v1/chat/completions", False),
        (b"/v1;x/chat/completions", False),
        (b"/v1\\chat/completions", False),
        (b"/x\\..\\/v1/chat/completions", False),
        (b"/v1/chat/completions#x", False),
        (b"/v1/chat/completions\x00", False),
        (b"/v1/chat/completions\n", False),
        (b"v1/chat/completions", False),
        (b"/v1/completions", False),
        (b"", False),
    ],
)
def test_a_plain_path_is_read_alike_by_every_server(target, plain):
    """As it is written, without a character or segment that one server decodes, drops or resolves and another does not."""
    assert is_plain(target, b"/chat/completions") is plain


@given(st.text("/.%2e;?#\\aB", max_size=12).map(str.encode))
def test_a_plain_path_is_its_own_canonical_form(target):
    """But for the case of what stands before the dialect's end, and the query."""
    if is_plain(target + b"/chat/completions", b"/chat/completions"):
        assert canonical(target + b"/chat/completions") == (target + b"/chat/completions").lower()


@given(st.one_of(st.binary(), st.text("/.%2eEfF5cC;?#\\ab", max_size=40).map(str.encode)))
def test_a_canonical_path_is_well_formed(target):
    """On any bytes: no query, no empty segment, no dots, no upper case, no end slash."""
    path = canonical(target)
    assert path.startswith(b"/")
    assert path == path.lower()
    assert path == b"/" or not set(path[1:].split(b"/")) & {b"", b".", b".."}
    assert b"?" not in path


@pytest.mark.parametrize(
    ("target", "prefix", "rest"),
    [
        (b"/v1/x?y=/z", b"", b"/v1/x?y=/z"),
        (b"/az/v1/x%2F?y", b"/az", b"/v1/x%2F?y"),
        (b"/az/v1", b"/az/", b"/v1"),
        (b"/az", b"/az", b"/"),
        (b"/az?q", b"/az", b"/?q"),
        (b"/azx/v1", b"/az", None),
        (b"/AZ/v1", b"/az", None),
        (b"/v1", b"/az", None),
        (b"/a/b/c", b"/a/b", b"/c"),
        (b"?q", b"", b"/?q"),
    ],
)
def test_a_prefix_is_removed_in_whole_segments(target, prefix, rest):
    """The rest is raw and begins with a slash; None when the prefix is another path's."""
    assert strip_prefix(target, prefix) == rest
