"""Every instrument, by what it holds."""

import gc
from typing import Any

import pytest

from proxy.record import Action, Decision, End, ExchangeRecord, RequestFacts, ResponseFacts, ShadowDecision
from proxy.recorder.metrics import Metrics, Names, limit_label
from proxy.recorder.series import Histogram
from proxy.recorder.workers import Workers
from tests.support.records import CLIENT_SPAN_ID, TRACE_ID, make_record

MODEL = {"gen_ai.request.model": "gpt-4o", "gen_ai.provider.name": "openai"}
OPERATION = MODEL | {
    "gen_ai.operation.name": "chat",
    "gen_ai.response.model": "gpt-4o-2024-08-06",
    "server.address": "api.openai.com",
    "server.port": 443,
}
PACED = MODEL | {"stream": True, "limit": "le_1k"}
OBSERVED = {
    "lengthwise.records.dropped",
    "lengthwise.connections.malformed",
    "lengthwise.exchanges.active",
    "lengthwise.workers.ready",
    "lengthwise.policy.rule.armed",
    "lengthwise.policy.error",
}


class Meter:
    """Metrics, and what its instruments hold."""

    def __init__(self, *models: str) -> None:
        self.workers = Workers()
        self.metrics = Metrics(self.workers, models, lambda: (True, [("a", True), ("b", False)]))

    def values(self, *records: ExchangeRecord) -> dict[str, list[tuple[dict[str, Any], Any]]]:
        """(labels, sum) of every series but those of the workers' totals, by the instrument's name."""
        for record in records:
            self.metrics.record(record)
        found: dict[str, list[tuple[dict[str, Any], Any]]] = {}
        for each in self.metrics.instruments:
            if each.name not in OBSERVED:
                sums = (
                    [(key, spread.total) for key, spread in each.series.items()]
                    if isinstance(each, Histogram)
                    else each.values()
                )
                found[each.name] = [(each.named(key), round(total, 9)) for key, total in sums]
        return {name: series for name, series in found.items() if series}

    def histogram(self, name: str) -> Histogram:
        """The histogram of a name."""
        (found,) = [each for each in self.metrics.instruments if each.name == name]
        assert isinstance(found, Histogram)
        return found


def test_a_streamed_chat_feeds_these_metrics() -> None:
    """Every metric, label and value of an ordinary exchange."""
    assert Meter().values(make_record()) == {
        "gen_ai.client.operation.duration": [(OPERATION, 1.56975)],
        "gen_ai.client.operation.time_to_first_chunk": [(OPERATION, 0.207)],
        "gen_ai.client.token.usage": [
            (OPERATION | {"gen_ai.token.type": "input"}, 100),
            (OPERATION | {"gen_ai.token.type": "output"}, 128),
        ],
        "lengthwise.time_to_first_token": [(PACED, 0.287)],
        "lengthwise.time_per_output_token": [(PACED, 0.01)],
        "lengthwise.max_tokens.requested": [(MODEL, 512)],
        "lengthwise.max_tokens.utilization": [(MODEL, 0.25)],
        "lengthwise.overhead.duration": [
            (MODEL | {"phase": "request"}, 0.0005),
            (MODEL | {"phase": "first_chunk"}, 0.00025),
        ],
        "lengthwise.reserved_unused_tokens": [(MODEL, 384)],
        "lengthwise.stream.ends": [(MODEL | {"end": "complete"}, 1)],
    }


def test_a_capped_answer_is_a_decision_and_a_truncation() -> None:
    """Enforced and shadowed decisions are counted by rule, action and mode; a cut by whom it was."""
    decision = Decision(Action.CAPPED, "cap", 128, "max_tokens", shadow=(ShadowDecision("s", Action.NONE, 512),))
    values = Meter().values(make_record(decision=decision, response={"finish_reasons": ("length",)}))
    assert values["lengthwise.policy.decisions"] == [
        (MODEL | {"rule": "cap", "action": "capped", "mode": "enforce"}, 1),
        (MODEL | {"rule": "s", "action": "none", "mode": "shadow"}, 1),
    ]
    assert values["lengthwise.truncations"] == [(MODEL | {"by": "policy"}, 1)]
    assert "lengthwise.reserved_unused_tokens" not in values


def test_an_opaque_exchange_feeds_no_generative_metric() -> None:
    """Only its end and our own overhead are counted."""
    record = make_record(request=RequestFacts("opaque"), decision=Decision(), route=None)
    assert set(Meter().values(record)) == {"lengthwise.stream.ends", "lengthwise.overhead.duration"}


def test_an_error_is_counted_with_its_type() -> None:
    """error.type is on the duration alone."""
    meter = Meter()
    values = meter.values(make_record(status=429, error_type="429", response=ResponseFacts(), streamed=False))
    labels = {name: value for name, value in OPERATION.items() if name != "gen_ai.response.model"}
    assert values["gen_ai.client.operation.duration"] == [(labels | {"error.type": "429"}, 1.56975)]
    assert "gen_ai.client.token.usage" not in values
    assert "lengthwise.usage.missing" not in values


def test_a_complete_answer_without_usage_is_missing_it() -> None:
    """A 2xx that ended well and reported no usage is counted; one that broke is not."""
    without = make_record(response={"usage": None}, usage_source="none")
    assert Meter().values(without)["lengthwise.usage.missing"] == [(MODEL, 1)]
    broken = make_record(response={"usage": None}, usage_source="none", end=End.BROKEN)
    assert "lengthwise.usage.missing" not in Meter().values(broken)


def test_an_estimate_feeds_no_metric_of_the_convention() -> None:
    """Usage stays missing and `gen_ai.client.token.usage` empty; our own are fed."""
    estimated = make_record(response={"usage": None}, usage_source="estimated", estimated_output_tokens=128)
    usual = Meter().values(make_record())
    del usual["gen_ai.client.token.usage"]
    assert Meter().values(estimated) == usual | {"lengthwise.usage.missing": [(MODEL, 1)]}


def test_what_an_answer_left_unused_is_known_when_it_is_complete() -> None:
    """An answer that ended early says nothing about how much of the limit it would have used."""
    values = Meter().values(make_record(end=End.CLIENT_DISCONNECT))
    assert {"lengthwise.max_tokens.utilization", "lengthwise.reserved_unused_tokens"}.isdisjoint(values)
    assert values["lengthwise.time_per_output_token"] == [(PACED, 0.01)]


def test_an_exchange_that_reached_no_upstream_has_no_operation() -> None:
    """A rejected request counts its limit, its decision and its end."""
    record = make_record(
        upstream_tried=False,
        end=End.REJECTED,
        status=400,
        decision=Decision(Action.REJECTED, "no"),
        response=ResponseFacts(),
        request_sent_ns=None,
        first_write_ns=None,
    )
    assert Meter().values(record) == {
        "lengthwise.stream.ends": [(MODEL | {"end": "rejected"}, 1)],
        "lengthwise.max_tokens.requested": [(MODEL, 512)],
        "lengthwise.policy.decisions": [(MODEL | {"rule": "no", "action": "rejected", "mode": "enforce"}, 1)],
    }


def test_sampling_decides_about_exemplars_only() -> None:
    """Both exchanges count; the exemplar is the sampled one's CLIENT span."""
    meter = Meter()
    meter.values(make_record(sampled=False), make_record())
    (spread,) = meter.histogram("lengthwise.time_to_first_token").series.values()
    assert sum(spread.counts) == 2
    exemplars = [(f"{each.trace_id:032x}", f"{each.span_id:016x}", each.value) for each in spread.exemplars.values()]
    assert exemplars == [(TRACE_ID, CLIENT_SPAN_ID, 0.287)]
    meter = Meter()
    meter.values(make_record(sampled=False))
    (spread,) = meter.histogram("lengthwise.time_to_first_token").series.values()
    assert spread.exemplars == {}


def test_every_histogram_of_seconds_reaches_beyond_the_longest_stream() -> None:
    """Explicit boundaries, up to 600 s where an answer is timed."""
    meter = Meter()
    bounds = {each.name: each.bounds for each in meter.metrics.instruments if isinstance(each, Histogram)}
    assert len(bounds) == 8
    assert all(list(own) == sorted(set(own)) for own in bounds.values())
    timed = (
        "gen_ai.client.operation.duration",
        "gen_ai.client.operation.time_to_first_chunk",
        "lengthwise.time_to_first_token",
    )
    assert [bounds[name][-1] for name in timed] == [600.0] * 3


def test_what_others_count_is_observed() -> None:
    """Drops, malformed connections and active exchanges come from what the workers say; so does the state of the rules."""
    meter = Meter()
    meter.workers.report(
        meter.workers.hello(0, 1), {"records_dropped": 3, "connections_malformed": 2, "exchanges_active": 5}
    )
    observed = {
        each.name: (list(each.values()), each.monotonic)
        for each in meter.metrics.instruments
        if not isinstance(each, Histogram) and each.name in OBSERVED
    }
    assert observed == {
        "lengthwise.records.dropped": ([((), 3)], True),
        "lengthwise.connections.malformed": ([((), 2)], True),
        "lengthwise.exchanges.active": ([((), 5)], False),
        "lengthwise.workers.ready": ([((), 1)], False),
        "lengthwise.policy.rule.armed": ([(("a",), 1), (("b",), 0)], False),
        "lengthwise.policy.error": ([((), 1)], False),
    }


def test_without_a_worker_none_is_ready() -> None:
    """The gauge is 0, not absent: an alert can tell."""
    meter = Meter()
    (ready,) = [each for each in meter.metrics.instruments if each.name == "lengthwise.workers.ready"]
    assert not isinstance(ready, Histogram)
    assert list(ready.values()) == [((), 0)]
    meter.workers.gone(meter.workers.hello(0, 1))
    assert list(ready.values()) == [((), 0)]


def test_models_are_labels_up_to_a_bound() -> None:
    """The first 50 have their own label, the others share one; so do error types."""
    records = [make_record(request={"model": f"m{n}"}, end=End.UPSTREAM_ERROR, error_type=f"e{n}") for n in range(60)]
    values = Meter().values(*records)
    models = {labels["gen_ai.request.model"] for labels, _ in values["lengthwise.stream.ends"]}
    assert models == {*(f"m{n}" for n in range(50)), "_other"}
    errors = {labels["error.type"] for labels, _ in values["gen_ai.client.operation.duration"]}
    assert errors == {*(f"e{n}" for n in range(50)), "_OTHER"}


def test_a_hundred_thousand_models_grow_neither_series_nor_memory() -> None:
    """Names that clients and upstreams invent: after the first ones have their labels, no series and no byte is added."""
    meter, plain = Meter(), make_record()

    def invented(begin: int, end: int) -> None:
        for number in range(begin, end):
            name = f"invented-{number}"
            asked = plain.request._replace(model=name)
            meter.metrics.record(plain._replace(request=asked, response=plain.response._replace(response_model=name)))

    def series() -> int:
        return sum(map(len, meter.values().values()))

    def held() -> int:
        gc.collect()
        return len(gc.get_objects())

    invented(0, 1000)
    before = held()
    invented(1000, 101_000)
    assert held() - before < 1000  # the test run has objects of its own
    assert series() == 51 * (1 + 1 + 2 + 1 + 1 + 1 + 1 + 2 + 1 + 1)
    assert len(meter.metrics._models._known) == len(meter.metrics._response_models._known) == 50


def test_an_allow_list_names_every_model_that_is_a_label() -> None:
    """With telemetry.models, only these."""
    values = Meter("gpt-4o").values(make_record(), make_record(request={"model": "secret-model"}))
    models = {labels["gen_ai.request.model"] for labels, _ in values["lengthwise.stream.ends"]}
    assert models == {"gpt-4o", "_other"}


def test_an_endless_name_is_no_label() -> None:
    """A name longer than 200 characters is the rest."""
    assert Names().bound("m" * 201) == "_other"


@pytest.mark.parametrize(
    ("limit", "label"),
    [
        (None, "none"),
        (0, "le_256"),
        (256, "le_256"),
        (257, "le_1k"),
        (1024, "le_1k"),
        (4096, "le_4k"),
        (4097, "le_16k"),
        (16384, "le_16k"),
        (16385, "gt_16k"),
    ],
)
def test_limits_are_labels_by_size(limit: int | None, label: str) -> None:
    """The classes include their upper end."""
    assert limit_label(limit) == label
