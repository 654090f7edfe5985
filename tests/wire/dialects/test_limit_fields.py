"""The members that rules are judged by: which there are, and which names a lenient server might take for them."""

import pytest

from proxy.wire.dialects import DIALECTS
from proxy.wire.dialects.limit_fields import FLOORS, LIMIT_FIELDS, Judged, folded, judged


def test_every_dialects_own_fields_are_limits_everywhere():
    """A server behind one dialect may read the limit of another."""
    own = {field for dialect in DIALECTS for field in dialect.limit_fields}
    assert own <= set(LIMIT_FIELDS)
    assert len(set(LIMIT_FIELDS)) == len(LIMIT_FIELDS)
    assert not set(LIMIT_FIELDS) & set(FLOORS)


def test_the_judged_members_of_a_dialect_are_put_together():
    """Its own limits first, each path once, then what multiplies them and what holds them."""
    made = judged(("second", "first"), ("prompt",), ("first", "in.limit"))
    assert made == Judged(
        top=("second", "first"),
        dotted=("in.limit",),
        names=frozenset(
            ("second", "first", "in", "extra_body", "parameters", "model", "stream", "n", "best_of", "prompt")
        ),
        nested=frozenset(("in", "extra_body", "parameters")),
        inner_objects=(),
        steps=made.names | {"limit"},
        spellings=made.spellings,
    )
    assert made.spellings == {
        **{
            name: frozenset((name,)) for name in ("first", "second", "in", "in.limit", "model", "stream", "n", "prompt")
        },
        "bestof": frozenset(("best_of",)),
        **{f"extrabody.{name}": frozenset((name,)) for name in ("model", "stream", "n", "prompt")},
        "extrabody.bestof": frozenset(("best_of",)),
    }
    assert judged(("second", "first"), ("prompt",), ("first", "in.limit")) is made


def test_every_object_on_the_way_to_a_limit_is_judged():
    """Another spelling of it would hide what is inside; two documented spellings are two members."""
    made = judged((), (), ("a.b.c", "inCase.maxTokens", "in_case.max_tokens"))
    assert made.inner_objects == ("a.b",)
    assert {alike: made.spellings[alike] for alike in ("a", "a.b", "a.b.c", "incase", "incase.maxtokens")} == {
        "a": frozenset(("a",)),
        "a.b": frozenset(("a.b",)),
        "a.b.c": frozenset(("a.b.c",)),
        "incase": frozenset(("inCase", "in_case")),
        "incase.maxtokens": frozenset(("inCase.maxTokens", "in_case.max_tokens")),
    }


def test_extra_body_may_hold_every_limit():
    """A gateway that reads it from the wire merges whatever is in it."""
    inside = {field.removeprefix("extra_body.") for field in LIMIT_FIELDS if field.startswith("extra_body.")}
    assert inside == {field for field in LIMIT_FIELDS if not field.startswith("extra_body.")}


@pytest.mark.parametrize(
    "name",
    [
        "MAX_TOKENS",
        "maxTokens",
        "max-tokens",
        "max tokens",
        " max_tokens\t",
        "max_to\u212aens",
        "\uff4dax_tokens",
        "max_token\u017f",
        "max_tokens\0",
        "max_tokens\0x",
        "max.tokens",
        "max_\u200dtokens",
        "max_tokens\ufeff",
        "max_tokens\ud800",
        "max\u00adtokens",
        "max_tokens_",
        "max_tokens" + " " * 10_000,
    ],
)
def test_names_that_some_server_reads_alike_are_folded_alike(name):
    """Case, separators, marks, compatibility characters and what cannot be encoded."""
    assert folded(name) == folded("max_tokens") == "maxtokens"


@pytest.mark.parametrize("name", ["max_token", "xmax_tokens", "m\u0430x_tokens", "max_t\u00f6kens", ""])
def test_other_names_are_not(name):
    """Letters of another script are other letters to every server."""
    assert folded(name) != "maxtokens"


def test_a_long_name_is_folded_at_its_beginning_only():
    """A body may be one name, and each of these characters is eighteen when it is folded."""
    assert len(folded("\ufdfa" * 100_000)) < 10_000
