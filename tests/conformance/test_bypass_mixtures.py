"""What the ways around a cap are made of, mixed at random: fields, values, duplicates, spellings, objects in objects, codings.

The same judges as for the table; without sockets for many mixtures, through the real relay for some.
"""

import asyncio
import json
import math
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import RefusalError
from proxy.policy.refusal import refusal_of
from proxy.policy.rules import parse
from proxy.relay.judge import judge
from tests.support.bypasses import CHAT, COMPLETIONS, MESSAGES, RESPONSES, framed
from tests.support.encodings import packed, unpacked
from tests.support.judging import UPSTREAM, post, route, worker
from tests.support.provider import Link, Message, Provider, ok
from tests.support.readers import LIMITS, readings, worst_tokens
from tests.support.relay import relay

PATHS = (CHAT, COMPLETIONS, RESPONSES, MESSAGES)
CODINGS = ("", "gzip", "deflate", "br", "zstd", "gzip, gzip")

OUTER = (
    "options",
    "extra_body",
    "parameters",
    "sampling_params",
    "generationConfig",
    "generation_config",
    "inferenceConfig",
)
LEAVES = sorted({step for path in LIMITS for step in path.split(".")} - set(OUTER))
OTHERS = (
    "min_tokens",
    "min_new_tokens",
    "n",
    "best_of",
    "prompt",
    "model",
    "stream",
    "echo",
    "thinking",
    "x",
    "messages",
)
SPELLINGS = (
    *(lambda name: name,) * 80,
    *(lambda name: f"{name[:-1]}\\u{ord(name[-1]):04x}",) * 3,
    str.upper,
    str.title,
    lambda name: name.replace("_", "-"),
    lambda name: name.replace("_", ""),
    lambda name: f"{name} ",
    lambda name: f"{name}\\u0000x",
    lambda name: f"{name[:1]}\u200b{name[1:]}",
    lambda name: name.replace("k", "\u212a").replace("s", "\u017f"),
    lambda name: f"{chr(ord(name[0]) + 0xFEE0)}{name[1:]}",
)
"""A name as JSON text: as it is, most often; with an escape; or another one that a lenient reader takes for it."""
NUMBERS = (
    *["1", "50", "99", "100", "101", "5000", "99999", "64.0", "1e2", "1E9", "100000000000000000000000000", "null"],
) * 3
ODD = (
    "0",
    "-0",
    "-1",
    "-2.0",
    "1.5",
    "1e400",
    "NaN",
    "true",
    '"99999"',
    "[]",
    "[99999]",
    "{}",
    '"\\ud83d"',
    '"max_tokens"',
    '"\\"max_tokens\\":1"',
)
FITTING = {
    "model": '"m"',
    "prompt": '"p"',
    "stream": "false",
    "echo": "true",
    "thinking": "{}",
    "messages": "[]",
    "n": "1",
    "best_of": "2",
}
BLANKS = ("", "", " ", "\t\n")


@st.composite
def objects(draw, names: tuple[str, ...], depth: int) -> str:
    """An object with members of these names, duplicates and white space included."""
    made = []
    for _ in range(draw(st.integers(0, 4))):
        name, spelling, kind = draw(st.sampled_from(names)), draw(st.sampled_from(SPELLINGS)), draw(st.integers(0, 9))
        if name in OUTER and depth and kind:
            value = draw(objects((*LEAVES, "options", "min_tokens"), depth - 1))
        elif kind:
            value = FITTING.get(name) or draw(st.sampled_from(NUMBERS))
        else:
            value = draw(st.sampled_from(ODD))
        made.append(f'"{spelling(name)}"{draw(st.sampled_from(BLANKS))}:{value}')
    return draw(st.sampled_from(BLANKS)) + "{" + ",".join(made) + "}"


@st.composite
def bodies(draw) -> bytes:
    """A body, mostly in UTF-8 and without anything behind it."""
    text = draw(objects((*LEAVES, *LEAVES, *OUTER, *OTHERS), 2))
    encoding = draw(st.sampled_from(("utf-8",) * 80 + ("utf-16", "utf-16-le", "utf-32", "utf-8-sig")))
    end = draw(st.sampled_from(("",) * 80 + ("\0", "{}", ",", "//", '\n{"max_tokens":99999}')))
    return (text + end).encode(encoding)


BODIES = bodies()


class Sent(NamedTuple):
    """What a rule made of a body."""

    body: bytes
    coding: str


class Setting(NamedTuple):
    """A rule and where it holds."""

    cap: int
    inserts: bool
    reads: str


SETTINGS = st.builds(Setting, st.sampled_from([1, 15, 16, 100]), st.booleans(), st.sampled_from(["auto", "max_tokens"]))


def rule(setting: Setting) -> dict[str, Any]:
    """The only rule."""
    return {
        "name": "cap",
        "do": "cap",
        "max_tokens": setting.cap,
        "when_absent": "insert" if setting.inserts else "leave",
    }


@pytest.fixture(scope="module")
def sent():
    """A function from a setting, a path, a body and its coding to what the upstream would get; None for a refusal."""
    made: dict[str, Any] = {}

    async def make() -> None:
        for reads in ("auto", "max_tokens"):
            at = worker(UPSTREAM | {"insert_field": reads, "usage": "observe"})
            made[reads] = (
                at,
                {
                    (path, coding): route(
                        at, post(path, *([b"Content-Encoding: " + coding.encode()] if coding else []))
                    )
                    for path in PATHS
                    for coding in CODINGS
                },
            )

    asyncio.run(make())

    def send(setting: Setting, path: bytes, body: bytes, coding: str) -> Sent | None:
        at, routes = made[setting.reads]
        at.policies = parse({"version": 1, "rules": [rule(setting)]})
        try:
            judged = judge(packed(coding, body) if coding else body, routes[path, coding], at, "id", 0.0)
        except RefusalError:
            return None
        if refusal_of(judged.decision, judged.facts, at.policies) is not None:
            return None
        return Sent(judged.body, "" if judged.decoded else coding)

    return send


def allowed_tokens(setting: Setting, path: bytes) -> int:
    """The cap as it is in force there."""
    return max(setting.cap, 16) if path == RESPONSES else setting.cap


def absent_tokens(setting: Setting, path: bytes) -> float:
    """What no limit counts as: without insertion anything, else the provider's own where there is one."""
    if not setting.inserts:
        return 0
    return 16 if path == COMPLETIONS and setting.cap >= 16 else math.inf


@settings(max_examples=700)
@given(SETTINGS, st.sampled_from(PATHS), BODIES, st.sampled_from(CODINGS))
def test_no_mixture_gets_around_a_cap(sent, setting, path, body, coding):
    """Every reader of what is sent finds limits at or under the cap, wherever a server may look."""
    got = sent(setting, path, body, coding)
    if got is not None:
        body = unpacked(got.coding, got.body)
        assert worst_tokens(body, absent=absent_tokens(setting, path)) <= allowed_tokens(setting, path)


def numbers(body: bytes, path: str) -> list[list[float]]:
    """The numbers at a path by each reader."""
    return [[value for value in find(path) if type(value) in {int, float}] for find in readings(body)]


@settings(max_examples=300)
@given(SETTINGS, st.sampled_from(PATHS), BODIES)
def test_no_mixture_is_raised_or_changed_elsewhere(sent, setting, path, body):
    """A limit that was there is the same or lower by every reader; everything but limits and least lengths is byte for byte the client's."""
    got = sent(setting, path, body, "")
    if got is None or got.body is body:
        return
    for limit in LIMITS:
        for before, after in zip(numbers(body, limit), numbers(got.body, limit), strict=True):
            if before:
                assert [now <= then or then < 0 for then, now in zip(before, after, strict=True)] == [True] * len(
                    before
                )
    before, after = members(body), members(got.body)
    assert after[len(after) - len(before) :] == before


def members(body: bytes) -> Any:
    """All members in their order, each number and null taken for the same."""

    def masked(pairs: list[tuple[str, Any]]) -> list[Any]:
        return [[name, "number" if value is None or type(value) in {int, float} else value] for name, value in pairs]

    return json.loads(body, object_pairs_hook=masked)


@settings(max_examples=12)
@given(st.lists(st.tuples(st.sampled_from(PATHS), BODIES, st.sampled_from(CODINGS)), min_size=10, max_size=25))
def test_no_mixture_gets_around_the_relay(mixtures):
    """On real sockets, one after the other on a kept connection; what is refused reaches nothing."""
    setting = Setting(100, inserts=True, reads="auto")

    async def ask() -> None:
        reached: list[Message] = []

        async def script(link: Link) -> None:
            while True:
                reached.append(await link.request())
                await link.send(ok(b"{}"))

        async with Provider(script) as provider, relay(provider.url, policy=[rule(setting)]) as served:
            client = await served.connect()
            for path, body, coding in mixtures:
                headers = [b"Content-Encoding: " + coding.encode()] if coding else []
                await client.send(framed(packed(coding, body) if coding else body, *headers, path=path))
                before = len(reached)
                answer = await client.message()
                assert answer.status == (200 if len(reached) > before else 400)
                for request in reached[before:]:
                    got = unpacked((request.value(b"content-encoding") or b"").decode(), request.body)
                    assert worst_tokens(got, absent=absent_tokens(setting, path)) <= allowed_tokens(setting, path)

    asyncio.run(ask())
