"""Counting generated text where the provider counted nothing: tiktoken, in a thread of its own, and nothing downloaded.

Layer: recorder. The vocabularies are files that must be there (`lengthwise fetch-encodings` gets them); tiktoken would download a missing or
a damaged one, without a timeout, so it is asked only after the file was found and its digest checked. Where there is no vocabulary, and where
a text was not kept, the events that carried tokens are counted instead.

An estimate is of what was streamed: reasoning that was hidden and the frames of calls are not in it. Texts are never logged, and go no further.

Source: tiktoken 0.14 `load.read_file_cached`, `model`; ARCHITECTURE.md 7 "Times and tokens".
"""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from proxy.errors import LengthwiseError
from proxy.record import ExchangeRecord

__all__ = ["FetchError", "Texts", "TokenCounter", "encoding_name", "fetch", "folder", "load", "present"]

Texts = Sequence[str]
"""The generated text of one answer, by choices; empty when it was not kept."""

_CACHE_VARIABLE: Final = "TIKTOKEN_CACHE_DIR"


class _Vocabulary(NamedTuple):
    file_name: str
    """tiktoken's: the sha1 of where it comes from."""
    sha256: str


_VOCABULARIES: Final = {
    "o200k_base": _Vocabulary(
        "fb374d419588a4632f3f557e76b4b70aebbca790", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
    ),
    "cl100k_base": _Vocabulary(
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
    ),
}
_FALLBACK: Final = "o200k_base"
"""For models that tiktoken does not know, whoever made them."""
_SAME: Final = {"o200k_harmony": "o200k_base"}
"""Encodings that differ in their special tokens alone, which no text has."""


class FetchError(LengthwiseError):
    """A vocabulary that could not be downloaded or stored."""


class Encoding(Protocol):
    """The part of `tiktoken.Encoding` that counting needs."""

    def encode_ordinary(self, text: str) -> list[int]:
        """Tokens of a text in which nothing is special."""
        ...  # pragma: no cover


def folder(environ: Mapping[str, str]) -> Path:
    """Where vocabularies are looked for and put: `TIKTOKEN_CACHE_DIR`, else `lengthwise/encodings` in the user's cache."""
    if named := environ.get(_CACHE_VARIABLE):
        return Path(named)
    cache = environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")  # noqa: PTH111, PTH118 -- Path.home raises for a user without a home
    return Path(cache, "lengthwise", "encodings")


def present(where: Path) -> list[str]:
    """Names of the encodings whose vocabularies lie in a folder, whole or not."""
    return [name for name, vocabulary in _VOCABULARIES.items() if os.access(where / vocabulary.file_name, os.R_OK)]


def load(where: Path, name: str) -> Encoding | None:
    """An encoding whose vocabulary lies whole in a folder; None when it does not. Takes 0.3 s and some 70 MB, and never the network."""
    vocabulary = _VOCABULARIES.get(name)
    if vocabulary is None or not _is_whole(where / vocabulary.file_name, vocabulary.sha256):
        return None
    return _encoding(name, where)


def fetch(where: Path) -> list[Path]:
    """Download the vocabularies that are missing in a folder; the files of all.

    Raises:
        FetchError: one could not be downloaded or stored.
    """
    for name in _VOCABULARIES:
        try:
            _encoding(name, where)
        except (OSError, ValueError) as error:  # what `requests` raises is an OSError
            raise FetchError(
                f"{name} could not be fetched into {where} ({type(error).__name__}). "
                "On a machine that is online run the command with --dir, and copy that folder here."
            ) from error
    return [where / vocabulary.file_name for vocabulary in _VOCABULARIES.values()]


def encoding_name(models: Sequence[str | None]) -> str:
    """The encoding of the first of these names that is a model's; prefixes such as `openai/` and `ft:` are no part of one."""
    from tiktoken.model import encoding_name_for_model  # noqa: PLC0415 -- only a recorder that counts pays for it

    for model in models:
        base = (model or "").rpartition("/")[2].lower().removeprefix("ft:").partition(":")[0]
        try:
            name = encoding_name_for_model(base)
        except KeyError:
            continue
        return _SAME.get(name, name)
    return _FALLBACK


class TokenCounter:
    """Counts, one answer after the other, in one thread, where each encoding is loaded when it is first needed."""

    def __init__(self, load: Callable[[str], Encoding | None]) -> None:
        """`load` is asked once for each name, in the thread; None, or whatever it raises, means that there is none."""
        self._load = load
        self._encodings: dict[str, Encoding | None] = {}
        self._thread = ThreadPoolExecutor(1, "tokens")

    def estimated(self, batch: Sequence[tuple[ExchangeRecord, Texts | None]]) -> asyncio.Future[list[ExchangeRecord]]:
        """The records of a batch, those that come with texts with their estimate. Never raises."""
        return asyncio.get_running_loop().run_in_executor(self._thread, self._estimated, batch)

    def close(self) -> None:
        """Count no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _estimated(self, batch: Sequence[tuple[ExchangeRecord, Texts | None]]) -> list[ExchangeRecord]:
        return [record if texts is None else self._with_estimate(record, texts) for record, texts in batch]

    def _with_estimate(self, record: ExchangeRecord, texts: Texts) -> ExchangeRecord:
        tokens = self._count(record, texts) or record.response.generated_events
        if not tokens:
            return record
        return record._replace(usage_source="estimated", estimated_output_tokens=tokens)

    def _count(self, record: ExchangeRecord, texts: Texts) -> int:
        """Tokens of the texts; 0 when they cannot be counted."""
        if not texts:
            return 0
        try:
            name = encoding_name((record.response.response_model, record.request.model))
            encoding = self._encoding(name) or self._encoding(_FALLBACK)
            return 0 if encoding is None else sum(len(encoding.encode_ordinary(text)) for text in texts)
        except BaseException:  # noqa: BLE001 -- a panic of tiktoken's is no Exception, and its words could quote the text
            return 0

    def _encoding(self, name: str) -> Encoding | None:
        if name not in self._encodings:
            self._encodings[name] = None
            with contextlib.suppress(Exception):
                self._encodings[name] = self._load(name)
        return self._encodings[name]


def _is_whole(path: Path, sha256: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except OSError:
        return False


def _encoding(name: str, where: Path) -> Encoding:
    """An encoding of tiktoken, which takes the folder from the environment alone, and downloads what it misses there."""
    import tiktoken  # noqa: PLC0415 -- only who counts or fetches pays for it

    os.environ[_CACHE_VARIABLE] = str(where)
    return tiktoken.get_encoding(name)
