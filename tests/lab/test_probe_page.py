"""The probe's picture, read without a browser."""

import re
from typing import Any

import orjson
import pytest

from proxy.evidence.paired import Sample, comparisons, limit_arms
from proxy.lab.probe_page import page

SAMPLES = [
    Sample(block, limit, tokens, tokens, tokens == limit, 0.1 + block / 1000, 0.01, 0.1 + tokens / 100)
    for block in range(5)
    for limit, tokens in ((8, 8), (64, 20 + block))
]
ARMS = limit_arms(SAMPLES, [8, 64])


def charts(text: str) -> list[Any]:
    """The data of the page's plots."""
    (data,) = re.findall(r'<script type="application/json" id="charts">(.*?)</script>', text)
    parsed: list[Any] = orjson.loads(data)
    return parsed


def test_every_answer_is_in_the_picture_by_its_limit() -> None:
    """Tokens and times of both limits, boxes of both, and one difference with its interval."""
    on_tokens, by_limit, first, differences = charts(page(ARMS, comparisons(SAMPLES), SAMPLES, "m"))
    assert [(trace["name"], trace["x"]) for trace in on_tokens["data"]] == [
        ("max_tokens 8", [8] * 5),
        ("max_tokens 64", [20, 21, 22, 23, 24]),
    ]
    assert [(trace["name"], len(trace["y"])) for trace in by_limit["data"]] == [("8", 5), ("64", 5)]
    assert [trace["y"] for trace in first["data"]] == [pytest.approx([0.1, 0.101, 0.102, 0.103, 0.104])] * 2
    assert differences["data"][0]["y"] == ["8"]
    assert (differences["layout"]["shapes"][0]["x0"], differences["layout"]["shapes"][0]["x1"]) == (-10.0, 10.0)


def test_a_name_is_never_markup_and_nothing_is_fetched() -> None:
    """Whatever a model is called; and there is no address in the page's own part."""
    text = page(ARMS, comparisons(SAMPLES), SAMPLES, "<img src=x onerror=alert(1)>")
    assert "<img" not in text.partition("<script")[0]
    assert "&lt;img src=x" in text
    assert "default-src 'none'" in text


def test_a_probe_that_measured_nothing_is_still_a_page() -> None:
    """Interrupted before the first answer."""
    assert page(limit_arms([], [8, 64]), (), [], "m").startswith("<!doctype html>")
