"""Counting where the provider did not, with a small encoding of the tests' own, and without any network."""

import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiktoken

from proxy.record import ExchangeRecord
from proxy.recorder import tokens
from proxy.recorder.tokens import Encoding, FetchError, TokenCounter, encoding_name, folder, load, present
from tests.support.records import make_record

BYTES = {bytes([value]): value for value in range(256)}
SYLLABLES = tiktoken.Encoding(
    "syllables", pat_str=r"\w+|\W", mergeable_ranks=BYTES | {b"na": 256, b"ba": 257}, special_tokens={"<|end|>": 300}
)
"""`ba` and `na` are one token each, every other byte is one."""
LETTERS = tiktoken.Encoding("letters", pat_str=r"\w+|\W", mergeable_ranks=BYTES, special_tokens={})

O200K, CL100K = "fb374d419588a4632f3f557e76b4b70aebbca790", "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
UNCOUNTED = make_record(response={"usage": None, "response_model": None}, usage_source="none")


def counter(**encodings: Encoding) -> TokenCounter:
    """A counter that finds these encodings."""
    return TokenCounter(encodings.get)


def estimate(tokens: int, record: ExchangeRecord = UNCOUNTED) -> ExchangeRecord:
    """What becomes of a record."""
    return record._replace(usage_source="estimated", estimated_output_tokens=tokens)


async def test_texts_are_counted_each_by_itself() -> None:
    """Choices are no one text; records without texts stay as they are, and in their place."""
    counted = counter(o200k_base=SYLLABLES)
    batch = [(make_record(), None), (UNCOUNTED, ["banana", "ban"]), (UNCOUNTED, None)]
    assert await counted.estimated(batch) == [make_record(), estimate(5), UNCOUNTED]
    assert await counted.estimated([(UNCOUNTED, ["b", "anana"])]) == [estimate(1 + 3)]


async def test_nothing_in_a_text_is_special() -> None:
    """A text may spell what ends one."""
    assert await counter(o200k_base=SYLLABLES).estimated([(UNCOUNTED, ["<|end|>"])]) == [estimate(7)]


@pytest.mark.parametrize(("texts", "encodings"), [([], {"o200k_base": SYLLABLES}), (["banana"], {})])
async def test_events_are_counted_where_text_or_vocabulary_is_missing(texts: Any, encodings: Any) -> None:
    """128 of them in this record; none make no estimate."""
    silent = UNCOUNTED._replace(response=UNCOUNTED.response._replace(generated_events=0))
    assert await counter(**encodings).estimated([(UNCOUNTED, texts), (silent, texts)]) == [estimate(128), silent]


class _Panic(BaseException):
    """A failure of Rust raises such: no Exception."""


class _Panicking:
    def encode_ordinary(self, text: str) -> list[int]:
        """Fail on one text."""
        if text == "panic":
            raise _Panic(text)
        return [0, 0]


async def test_a_panic_costs_one_count() -> None:
    """The next text is counted again."""
    counted = counter(o200k_base=_Panicking())
    batch = [(UNCOUNTED, ["panic"]), (UNCOUNTED, ["calm"])]
    assert await counted.estimated(batch) == [estimate(128), estimate(2)]


async def test_an_encoding_is_loaded_once_and_in_another_thread() -> None:
    """What waits for it is counted with it; one that cannot be loaded is not tried again."""
    asked: list[tuple[str, bool]] = []

    def loaded(name: str) -> Encoding | None:
        asked.append((name, threading.current_thread() is threading.main_thread()))
        if name == "cl100k_base":
            raise OSError
        return SYLLABLES

    counted = TokenCounter(loaded)
    old = UNCOUNTED._replace(request=UNCOUNTED.request._replace(model="gpt-4"))
    batch = [(old, ["banana"]), (UNCOUNTED, ["banana"]), (old, ["na"])]
    assert asked == []
    assert await counted.estimated(batch) == [estimate(3, old), estimate(3), estimate(1, old)]
    assert asked == [("cl100k_base", False), ("o200k_base", False)]


async def test_the_model_that_answered_says_the_encoding() -> None:
    """A deployment may have any name."""
    named = UNCOUNTED.response._replace(response_model="gpt-4-0613")
    azure = UNCOUNTED._replace(response=named)
    counted = counter(o200k_base=SYLLABLES, cl100k_base=LETTERS)
    assert await counted.estimated([(azure, ["banana"]), (UNCOUNTED, ["banana"])]) == [estimate(6, azure), estimate(3)]


@pytest.mark.parametrize(
    ("models", "name"),
    [
        (["gpt-4o-mini"], "o200k_base"),
        (["gpt-4-turbo"], "cl100k_base"),
        (["openai/gpt-4-turbo"], "cl100k_base"),
        (["GPT-35-Turbo"], "cl100k_base"),
        (["ft:gpt-4-0613:org:name:id"], "cl100k_base"),
        (["ft:gpt-4.1-mini-2025-04-14:org::id"], "o200k_base"),
        (["openai/gpt-3.5-turbo:free"], "cl100k_base"),
        (["gpt-oss-120b"], "o200k_base"),
        (["claude-x", "gpt-4"], "cl100k_base"),
        (["claude-x", None], "o200k_base"),
        ([None, ""], "o200k_base"),
    ],
)
def test_the_encoding_is_the_models(models: list[str | None], name: str) -> None:
    """Prefixes and suffixes of routers and fine-tunes are no part of it; whatever nobody knows has the newest."""
    assert encoding_name(models) == name


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TIKTOKEN_CACHE_DIR": "/v", "XDG_CACHE_HOME": "/c"}, "/v"),
        ({"TIKTOKEN_CACHE_DIR": "", "XDG_CACHE_HOME": "/c"}, "/c/lengthwise/encodings"),
        ({}, "~/.cache/lengthwise/encodings"),
    ],
)
def test_the_folder_is_tiktokens_or_our_own(environ: Mapping[str, str], expected: str) -> None:
    """The default of tiktoken would be the temporary one, where anybody may put a file."""
    assert folder(environ) == Path(expected).expanduser()


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> socket.socket:
    """A listening socket through which every download would have to go."""
    listening = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "before"))  # put back afterwards
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{listening.getsockname()[1]}")
    with listening:
        yield listening


@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base", "p50k_base"])
def test_what_is_missing_or_damaged_is_not_downloaded(network: socket.socket, tmp_path: Path, name: str) -> None:
    """Else tiktoken would do both, deleting the file first."""
    assert load(tmp_path / "nowhere", name) is None
    for file_name in (O200K, CL100K):
        (tmp_path / file_name).write_bytes(b"IQ== 0\n")
    assert load(tmp_path, name) is None
    assert (tmp_path / O200K).read_bytes() == b"IQ== 0\n"
    assert present(tmp_path) == ["o200k_base", "cl100k_base"]
    assert present(tmp_path / "nowhere") == []
    network.setblocking(False)
    with pytest.raises(BlockingIOError):
        network.accept()


def test_fetching_without_a_network_says_so(network: socket.socket, tmp_path: Path) -> None:
    """At once, and with nothing left behind."""
    network.close()
    with pytest.raises(FetchError, match=r"^o200k_base could not be fetched into .* On a machine that is online"):
        tokens.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []
