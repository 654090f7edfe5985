"""What dashboards, alerts, samplers and views call things is what Lengthwise calls them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from proxy.record import FINISH_WORDS, Action, End
from proxy.recorder import semconv
from proxy.recorder.exposition import Exposition
from proxy.recorder.ledger import COLUMNS
from proxy.recorder.metrics import Metrics
from proxy.recorder.workers import Workers
from proxy.wire.dialects import DIALECTS
from tests.support.records import make_record

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
VIEW = DEPLOY / "clickhouse/tables/2_lengthwise_exchange.sql"
ATTRIBUTES = {value for value in vars(semconv).values() if isinstance(value, str)}


def _read(path: str) -> str:
    return (DEPLOY / path).read_text(encoding="utf-8")


def _rules(name: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(_read(f"prometheus/{name}.yaml"))["groups"] for rule in group["rules"]]


def _queries() -> dict[str, str]:
    """Every query that Prometheus will be asked, by where it is."""
    queries = {
        rule.get("record") or rule["alert"]: rule["expr"] for each in ("recording", "alerts") for rule in _rules(each)
    }
    for panel in json.loads(_read("grafana/dashboards/lengthwise.json"))["panels"]:
        queries |= {f"{panel['title']}, {target['refId']}": target["expr"] for target in panel.get("targets", [])}
    return queries


QUERIES = _queries()


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    """Names of all labels of every series, by its name, after exchanges that feed every instrument."""
    registry, workers = CollectorRegistry(), Workers()
    workers.hello(0, 1)
    metrics = Metrics(workers, policy=lambda: (False, [("cap", True)]))
    registry.register(Exposition(metrics.instruments, {}))
    metrics.record(make_record(decision={"rule": "cap", "action": Action.CAPPED}))
    metrics.record(make_record(response={"usage": None, "finish_reasons": ("length",)}))
    found: dict[str, set[str]] = {}
    for family in registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("where", QUERIES)
def test_a_query_asks_for_series_and_labels_that_there_are(exposed: dict[str, set[str]], where: str) -> None:
    """Each metric is exposed or recorded by a rule, and has every label that is asked for."""
    recorded = {rule["record"] for rule in _rules("recording")}
    asked = set(re.findall(r"(?<![\w:])(?:model:\w+:\w+|(?:lengthwise|gen_ai_client)_\w+)", QUERIES[where]))
    assert asked or "up{" in QUERIES[where]
    assert asked <= recorded | set(exposed)
    labels = set(re.findall(r"[{,]\s*(\w+)\s*(?:=~|!=|=)", QUERIES[where])) - {"job", "le"}
    for names in re.findall(r"(?:by|on) \(([\w, ]+)\)", QUERIES[where]):
        labels |= set(names.split(", ")) - {"le"}
    assert labels <= set().union(*(exposed.get(name, labels) for name in asked)), where


def test_the_view_has_the_ledgers_columns() -> None:
    """In their order."""
    selected = VIEW.read_text(encoding="utf-8").partition("\nSELECT\n")[2]
    columns = re.findall(r"^    (?:.* AS |\) AS |)(\w+),?$", selected, re.MULTILINE)
    assert columns == list(COLUMNS)


def test_the_view_reads_attributes_that_are_emitted() -> None:
    """And the scope that its spans have."""
    text = VIEW.read_text(encoding="utf-8")
    read = set(re.findall(r"(?:own|server)\['([\w.]+)'\]|mapContains\(own, '([\w.]+)'\)", text))
    assert {first or second for first, second in read} <= ATTRIBUTES
    assert f"ScopeName = '{semconv.SCOPE}'" in text


def test_the_view_puts_words_as_the_ledger_does() -> None:
    """Routes become dialects, and finish reasons the ledger's words."""
    lists = re.findall(r"\[([^\[\]]*'[^\[\]]*)\]", VIEW.read_text(encoding="utf-8"))
    routes, dialects, reasons, words = (re.findall(r"'([^']+)'", text) for text in lists if text.count("'") > 2)
    assert dict(zip(routes, dialects, strict=True)) == {dialect.route: dialect.name for dialect in DIALECTS}
    assert dict(zip(reasons, words, strict=True)) == FINISH_WORDS


def test_the_gateway_samples_by_attributes_and_values_that_are_emitted() -> None:
    """Slow, cut and failed exchanges are kept, by names that spans have."""
    policies = yaml.safe_load(_read("otel-collector/gateway.yaml"))["processors"]["tail_sampling"]["policies"]
    by_type: dict[str, list[Any]] = {}
    for policy in policies:
        by_type.setdefault(policy["type"], []).append(policy[policy["type"]])
    words = {each["key"]: set(each["values"]) for each in by_type["string_attribute"]}
    assert set(words) == {semconv.LENGTHWISE_STREAM_END, semconv.LENGTHWISE_MAX_TOKENS_ACTION}
    assert words[semconv.LENGTHWISE_STREAM_END] == {*map(str, End)} - {End.COMPLETE, End.REJECTED}
    assert words[semconv.LENGTHWISE_MAX_TOKENS_ACTION] <= {*map(str, Action)}
    assert by_type["boolean_attribute"] == [{"key": semconv.LENGTHWISE_TRUNCATED, "value": True}]
    conditions = " ".join(condition for each in by_type["ottl_condition"] for condition in each["span"])
    assert set(re.findall(r'attributes\["([^"]+)"\]', conditions)) <= ATTRIBUTES
    assert {"status_code", "latency", "probabilistic"} <= set(by_type)


@pytest.mark.parametrize("name", ["gateway", "agent"])
def test_the_collector_uses_what_it_defines(name: str) -> None:
    """A pipeline names components that are configured, and all that are configured are used."""
    settings = yaml.safe_load(_read(f"otel-collector/{name}.yaml"))
    for kind in ("receivers", "processors", "exporters"):
        used = {each for pipeline in settings["service"]["pipelines"].values() for each in pipeline[kind]}
        assert used == set(settings[kind])
    assert set(settings["service"]["extensions"]) == set(settings["extensions"])
    firsts = {pipeline["processors"][0] for pipeline in settings["service"]["pipelines"].values()}
    assert firsts == {"memory_limiter"}
