"""Settings: the sources and their order, every mistake with its place, and the files that show them."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy import settings as module
from proxy.errors import Mistake, SettingsError
from proxy.policy.rules import EMPTY, PolicySet
from proxy.settings import (
    Address,
    Ledger,
    Limits,
    ListenTls,
    Logs,
    Settings,
    Telemetry,
    Timeouts,
    Upstream,
    UpstreamTls,
    admin_address,
    digest,
    from_json,
    ledger_path,
    load,
    load_policies,
    to_json,
)

CONFIG = Path(__file__).parents[1] / "config"
SHA = hashlib.sha256(b"token").hexdigest()
OTHER_SHA = hashlib.sha256(b"other").hexdigest()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in an empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(
    text: str | None = None, flags: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None
) -> tuple[Settings, PolicySet, list[str]]:
    """What `load` makes of ./settings.yaml with this text, or without a file."""
    file = None
    if text is not None:
        file = Path("settings.yaml")
        file.write_text(text, encoding="utf-8")
    return load(file, flags or {}, environ or {})


def mistakes(
    text: str | None = None, flags: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None
) -> list[Mistake]:
    """The mistakes that `load` reports."""
    with pytest.raises(SettingsError) as caught:
        loaded(text, flags, environ)
    return caught.value.mistakes


def assert_mistakes(found: list[Mistake], expected: list[tuple[str, str]]) -> None:
    """Same paths in the same order, and each message contains its fragment."""
    assert [mistake.path for mistake in found] == [path for path, _ in expected]
    for mistake, (_, fragment) in zip(found, expected, strict=True):
        assert fragment in mistake.message


def built_in(folder: Path, **changes: Any) -> Settings:
    """The defaults, as loaded from a file in this folder that names nothing."""
    return dataclasses.replace(
        Settings(), **({"policies": None, "ledger": Ledger(folder / "lengthwise.sqlite")} | changes)
    )


# Sources and their order


def test_without_a_file_the_defaults_hold(folder: Path) -> None:
    """Nothing has to be written to start; paths are relative to the current directory."""
    assert loaded() == (built_in(folder), EMPTY, [])


def test_the_default_file_is_read_when_it_exists(folder: Path) -> None:
    """`lengthwise.yaml` of the current directory needs no flag."""
    (folder / "lengthwise.yaml").write_text("workers: 3")

    assert loaded()[0].workers == 3


@pytest.mark.parametrize("text", ["", "# only comments\n", "{}", "\ufefflisten: 127.0.0.1:8080\n"])
def test_an_empty_file_and_a_byte_order_mark_are_fine(folder: Path, text: str) -> None:
    """A file needs only what it changes."""
    assert loaded(text)[0] == built_in(folder)


def test_a_flag_beats_a_variable_which_beats_the_file() -> None:
    """The nearer to the call, the stronger."""
    text, variable, flag = "listen: 127.0.0.1:1", {"LENGTHWISE_LISTEN": "127.0.0.1:2"}, {"listen": "127.0.0.1:3"}

    assert loaded(text)[0].listen.port == 1
    assert loaded(text, environ=variable)[0].listen.port == 2
    assert loaded(text, flag, variable)[0].listen.port == 3
    assert loaded(text, {"listen": None}, variable)[0].listen.port == 2


def test_every_flag_replaces_its_key(folder: Path) -> None:
    """Flags are those of `serve`."""
    (folder / "p.yaml").write_text("version: 1\nrules: [{name: a, do: reject}]")

    settings, policies, _ = loaded(
        "upstreams: [{name: a, url: 'http://a'}, {name: b, url: 'http://b', prefix: /b}]",
        {
            "listen": "[::1]:0",
            "admin": "localhost:9",
            "upstream": "http://c:1/x",
            "policies": "p.yaml",
            "ledger": "l.sqlite",
            "workers": "2",
        },
    )

    assert settings == built_in(
        folder,
        listen=Address("::1", 0),
        admin=Address("localhost", 9),
        workers=2,
        upstreams=(Upstream("a", "http://c:1/x"), Upstream("b", "http://b", "/b")),
        policies=folder / "p.yaml",
        ledger=Ledger(folder / "l.sqlite"),
    )
    assert [rule.name for rule in policies.rules] == ["a"]


@pytest.mark.parametrize("value", ["none", ""])
def test_the_ledger_flag_can_switch_the_ledger_off(value: str) -> None:
    """`none` and nothing are no file."""
    assert loaded(None, {"ledger": value})[0].ledger == Ledger(None)


@pytest.mark.parametrize("value", ["none", "", "null"])
def test_the_ledgers_variable_can_switch_the_ledger_off(value: str) -> None:
    """As the flag does."""
    assert loaded(environ={"LENGTHWISE_LEDGER__PATH": value})[0].ledger == Ledger(None)


def test_the_file_can_switch_the_ledger_off_in_the_flags_word() -> None:
    """`none` is no file name; `./none` is one."""
    assert loaded("ledger: {path: none}")[0].ledger == Ledger(None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_ledger_that_could_not_be_written_is_a_mistake(folder: Path) -> None:
    """SQLite writes files beside the ledger."""
    (folder / "read_only").mkdir(0o500)
    assert_mistakes(
        mistakes("ledger: {path: read_only/l.sqlite}"), [("ledger.path", "its folder cannot be written to: /")]
    )


def test_an_upstream_flag_without_a_file_moves_the_built_in_upstream() -> None:
    """The shortest way to put Lengthwise in front of something."""
    assert loaded(None, {"upstream": "http://127.0.0.1:9"})[0].upstreams == (Upstream("openai", "http://127.0.0.1:9"),)


def test_flags_may_be_typed_already(folder: Path) -> None:
    """A parser of flags may convert them."""
    settings = loaded(None, {"workers": 2, "ledger": folder / "l.sqlite"})[0]

    assert (settings.workers, settings.ledger.path) == (2, folder / "l.sqlite")


@pytest.mark.parametrize("source", [{"text": "workers: auto"}, {"flags": {"workers": "auto"}}])
def test_auto_workers_are_one_for_each_processor(
    source: dict[str, Any], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """`auto` is a number once loaded: of the processors that this process may use."""
    monkeypatch.setattr(module, "_CPU_MAX", folder / "no control groups")
    assert loaded(**source)[0].workers == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "workers"), [("150000 100000", 2), ("50000 100000", 1), ("100000000 100000", None), ("max 100000", None)]
)
def test_auto_workers_fit_a_containers_quota(
    quota: str, workers: int | None, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Rounded up, at least one, at most the processors; without a quota all of them."""
    monkeypatch.setattr(module, "_CPU_MAX", folder / "cpu.max")
    (folder / "cpu.max").write_text(f"{quota}\n")
    processors = len(os.sched_getaffinity(0))
    assert loaded("workers: auto")[0].workers == min(workers or processors, processors)


def test_logs_are_set_by_flags_variables_and_file() -> None:
    """In this order."""
    text, environ = "logs: {level: error, format: json, exchanges: true}", {"LENGTHWISE_LOGS__LEVEL": "warning"}
    assert loaded(text)[0].logs == Logs("error", "json", exchanges=True)
    assert loaded(text, {"log-format": "console"}, environ)[0].logs == Logs("warning", "console", exchanges=True)
    (mistake,) = mistakes(None, {"log-level": "loud"})
    assert (mistake.path, mistake.message) == ("--log-level", "expected one of debug, info, warning, error")


def test_the_admin_port_is_found_whatever_else_is_wrong_with_the_rules(folder: Path) -> None:
    """By the flag alone, or by the settings; a port that the system chooses is none to connect to."""
    (folder / "lengthwise.yaml").write_text("admin: 127.0.0.1:7777\npolicies: missing.yaml")
    assert admin_address(None, None, {}) == Address("127.0.0.1", 7777)
    assert admin_address(folder / "missing", "[::1]:8", {}) == Address("::1", 8)
    for config, flag, path in (
        (folder / "missing", None, str(folder / "missing")),
        (None, "7777", "--admin"),
        (None, "127.0.0.1:0", "--admin"),
    ):
        with pytest.raises(SettingsError) as caught:
            admin_address(config, flag, {})
        assert [mistake.path for mistake in caught.value.mistakes] == [path]


def test_variables_reach_every_depth(folder: Path) -> None:
    """Key path joined by two underscores, upper case; elements by number; whole sections as YAML or JSON."""
    settings, _, _ = loaded(
        "timeouts: {idle_s: 1, drain_s: 7}\nlisten_tls: null",
        environ={
            "LENGTHWISE_TIMEOUTS__IDLE_S": "2.5",
            "LENGTHWISE_TIMEOUTS__CONNECT_S": "null",
            "LENGTHWISE_TIMEOUTS__KEEPALIVE_S": "",
            "LENGTHWISE_UPSTREAMS__0__USAGE": "observe",
            "LENGTHWISE_UPSTREAMS__0__TLS__VERIFY": "false",
            "LENGTHWISE_UPSTREAMS__1__NAME": "b",
            "LENGTHWISE_UPSTREAMS__1__URL": "http://b",
            "LENGTHWISE_UPSTREAMS__1__PREFIX": "/b",
            "LENGTHWISE_TELEMETRY__COMPAT": "[langfuse, signoz]",
            "LENGTHWISE_TELEMETRY__MODELS__0": "gpt-4o",
            "LENGTHWISE_KEYS": f'{{"team-a": "{SHA}"}}',
            "LENGTHWISE_LISTEN": "[::1]:8000",
            "LENGTHWISE_LEDGER": "{path: null}",
            "LENGTHWISE_LEDGER__KEEP_DAYS": "3",
            "UNRELATED": "1",
        },
    )

    assert settings == built_in(
        folder,
        listen=Address("::1", 8000),
        timeouts=Timeouts(connect_s=None, idle_s=2.5, keepalive_s=None, drain_s=7.0),
        upstreams=(
            Upstream("openai", "https://api.openai.com", usage="observe", tls=UpstreamTls(verify=False)),
            Upstream("b", "http://b", "/b"),
        ),
        telemetry=Telemetry(compat=("langfuse", "signoz"), models=("gpt-4o",)),
        keys={"team-a": SHA},
        ledger=Ledger(None, 3.0),
    )


def test_twelve_upstreams_can_come_from_variables() -> None:
    """Elements are taken by number, not by the order of their text."""
    environ = {f"LENGTHWISE_UPSTREAMS__{n}__{key}": f"{start}{n}" for n in range(12) for key, start in (
        ("NAME", "u"), ("URL", "http://h"), ("PREFIX", "/p")
    )}  # fmt: skip

    assert loaded(None, environ=environ)[0].upstreams == tuple(
        Upstream(f"u{n}", f"http://h{n}", f"/p{n}") for n in range(12)
    )


def test_paths_are_relative_to_where_they_are_written(folder: Path) -> None:
    """The file's paths to the file's folder, those of variables and flags to the current directory."""
    sub = folder / "sub"
    sub.mkdir()
    for name in ("c.pem", "k.pem"):
        (sub / name).touch()
    (folder / "ca.pem").touch()
    (folder / "p.yaml").write_text("version: 1\nrules: []")
    (sub / "s.yaml").write_text("listen_tls: {cert_file: c.pem, key_file: k.pem}\npolicies: none.yaml")
    environ = {"LENGTHWISE_UPSTREAMS__0__TLS__CA_FILE": "ca.pem"}

    settings, _, _ = load(Path("sub/s.yaml"), {"policies": "p.yaml"}, environ)

    assert settings == built_in(
        folder,
        listen_tls=ListenTls(sub / "c.pem", sub / "k.pem"),
        upstreams=(Upstream("openai", "https://api.openai.com", tls=UpstreamTls(ca_file=folder / "ca.pem")),),
        policies=folder / "p.yaml",
        ledger=Ledger(sub / "lengthwise.sqlite"),
    )


@pytest.mark.parametrize(
    ("environ", "changes", "warned"),
    [
        ({"OTEL_SERVICE_NAME": "shop"}, {"service_name": "shop"}, []),
        ({"OTEL_SERVICE_NAME": ""}, {}, []),
        ({"OTEL_SERVICE_NAME": "shop", "LENGTHWISE_TELEMETRY__SERVICE_NAME": "x"}, {"service_name": "x"}, []),
        ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_TRACES_EXPORTER": "otlp"}, {"traces": "none", "metrics": "none"}, []),
        ({"OTEL_SDK_DISABLED": "1"}, {}, []),
        ({"OTEL_TRACES_EXPORTER": "none"}, {"traces": "none"}, []),
        ({"OTEL_METRICS_EXPORTER": "none"}, {"metrics": "none"}, []),
        ({"OTEL_METRICS_EXPORTER": "console"}, {}, ["OTEL_METRICS_EXPORTER"]),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, {"sample_ratio": 0.0}, []),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, {"sample_ratio": 1.0}, []),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, {"sample_ratio": 0.25}, []),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}, {"sample_ratio": 1.0}, []),
        ({"OTEL_TRACES_SAMPLER_ARG": "0.25"}, {}, []),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "x"}, {}, ["OTEL_TRACES_SAMPLER_ARG"]),
        ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, {}, ["OTEL_TRACES_SAMPLER"]),
    ],
)
def test_standard_variables_beat_the_files_telemetry(
    environ: dict[str, str], changes: dict[str, Any], warned: list[str]
) -> None:
    """What OpenTelemetry names is obeyed, what cannot be is said."""
    text = "telemetry: {service_name: file, sample_ratio: 0.5}"

    settings, _, warnings = loaded(text, environ=environ)

    assert settings.telemetry == Telemetry(**({"service_name": "file", "sample_ratio": 0.5} | changes))
    assert [warning.split(":")[0] for warning in warnings] == warned


# Values


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://api.openai.com", ("https", "api.openai.com", 443, "")),
        ("https://API.openai.com/", ("https", "api.openai.com", 443, "")),
        ("http://127.0.0.1:8000/a/b/", ("http", "127.0.0.1", 8000, "/a/b")),
        ("http://[::1]/x", ("http", "::1", 80, "/x")),
    ],
)
def test_an_upstreams_url_has_parts(url: str, parts: tuple[str, str, int, str]) -> None:
    """What is needed to connect and to build the target."""
    (upstream,) = loaded(None, {"upstream": url})[0].upstreams

    assert (upstream.scheme, upstream.host, upstream.port, upstream.base_path) == parts


@pytest.mark.parametrize(
    ("written", "prefix"), [('""', ""), ("/", ""), ("azure", "/azure"), ("/azure/", "/azure"), ("/a/b", "/a/b")]
)
def test_prefixes_are_whole_segments_with_a_leading_slash(written: str, prefix: str) -> None:
    """However it is written, one prefix has one form."""
    assert loaded(f"upstreams: [{{name: a, url: 'http://a', prefix: {written}}}]")[0].upstreams[0].prefix == prefix


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.0.1", False), ("example", False)],
)  # fmt: skip
def test_loopback_addresses_are_known(host: str, loopback: bool) -> None:
    """They alone may use a configured credential without keys."""
    assert Address(host, 1).is_loopback is loopback


def test_an_address_prints_as_it_is_written() -> None:
    """IPv6 hosts in brackets."""
    assert [str(Address("::1", 80)), str(Address("h", 0))] == ["[::1]:80", "h:0"]


def test_a_credential_needs_keys_only_where_others_can_connect() -> None:
    """On a loopback listener the machine is the boundary, elsewhere the keys are."""
    upstream = "upstreams: [{name: a, url: 'http://a', api_key_env: A_KEY}]\n"
    environ = {"A_KEY": "sk-1"}

    assert loaded(upstream, environ=environ)[0].upstreams[0].api_key_env == "A_KEY"
    assert loaded(f"{upstream}listen: 0.0.0.0:1\nkeys: {{a: {SHA}}}", environ=environ)[0].keys == {"a": SHA}
    assert_mistakes(
        mistakes(f"{upstream}listen: 0.0.0.0:1", environ=environ),
        [("upstreams[0].api_key_env", "needs keys unless listen is a loopback address")],
    )


@pytest.mark.parametrize("value", ["sk-1\r\nX-Injected: 1", "sk-1 sk-2", "sk-\u00e9", "sk-\u200b1", "sk\x00", "\udcff"])
def test_a_credential_that_no_header_takes_is_a_mistake(value: str) -> None:
    """A line end inside would begin a header of its own; the value is not shown."""
    found = mistakes("upstreams: [{name: a, url: 'http://a', api_key_env: A_KEY}]", environ={"A_KEY": value})

    assert_mistakes(found, [("upstreams[0].api_key_env", "holds more than visible ASCII characters, so no credential")])
    assert value not in str(found[0])


@pytest.mark.parametrize(("value", "works"), [("sk-1\n", True), (" sk-1\r\n", True), (" \n", False)])
def test_white_space_around_a_credential_is_none_of_it(value: str, works: bool) -> None:
    """What reads a key from a file brings its line end along."""
    text = "upstreams: [{name: a, url: 'http://a', api_key_env: A_KEY}]"
    if works:
        assert loaded(text, environ={"A_KEY": value})[0].upstreams[0].api_key_env == "A_KEY"
    else:
        assert_mistakes(mistakes(text, environ={"A_KEY": value}), [("upstreams[0].api_key_env", "is not set")])


BAD_PROXIES = ["http://u:se/cret@h:1", "http://secret:0", "secret:x", "http://secret:65536", "socks5://secret:1", "http://:1",
               "http://secret:1/x", "http://secret\r\n:1"]  # fmt: skip


@pytest.mark.parametrize("value", BAD_PROXIES)
@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY"])
def test_a_forward_proxy_that_none_could_connect_to_is_a_mistake(variable: str, value: str) -> None:
    """It is named by its variable, once for all upstreams, and without its value, which may hold a password."""
    text = "upstreams: [{name: a, url: 'https://a', proxy_env: true}, {name: b, url: 'https://b', prefix: b, proxy_env: true}]"
    expected = "expected the URL of a forward proxy such as http://proxy.example:3128"
    assert mistakes(text, environ={variable: value}) == [Mistake(variable, expected)]


@pytest.mark.parametrize(
    "value", ["http://u:p%2F@proxy:1", "proxy:3128", "https://proxy/", "http://[::1]:1", "", "127.0.0.1"]
)
def test_forward_proxies_are_written_in_many_ways(value: str) -> None:
    """With and without scheme, user and port."""
    text = "upstreams: [{name: a, url: 'https://a', proxy_env: true}]"
    assert loaded(text, environ={"https_proxy": value, "HTTPS_PROXY": "http://a:0"})[0].upstreams[0].proxy_env


@pytest.mark.parametrize(
    ("upstream", "environ"),
    [
        ("url: 'https://a'", {}),
        ("url: 'http://a', proxy_env: true", {}),
        ("url: 'https://a', proxy_env: true", {"NO_PROXY": "a"}),
        ("url: 'https://a', proxy_env: true", {"no_proxy": "*"}),
    ],
)
def test_a_forward_proxy_that_is_not_used_may_be_anything(upstream: str, environ: dict[str, str]) -> None:
    """The variable is there for other programs too."""
    assert loaded(f"upstreams: [{{name: a, {upstream}}}]", environ={"HTTPS_PROXY": "x://:0", **environ})


@pytest.mark.parametrize(
    ("upstream", "path"),
    [
        ("url: 'http://a/v1'", "upstreams[0].url"),
        ("url: 'http://a/x/v1/'", "upstreams[0].url"),
        ("url: 'http://a', tls: {verify: false}", "upstreams[0].tls"),
        ("url: 'https://a', tls: {verify: false}", "upstreams[0].tls.verify"),
    ],
)
def test_what_is_hardly_meant_is_a_warning(upstream: str, path: str) -> None:
    """It is allowed, and it is said."""
    (warning,) = loaded(f"upstreams: [{{name: a, {upstream}}}]")[2]

    assert warning.startswith(f"{path}: ")


# Mistakes

SECONDS = "expected a number greater than 0 or null"
LISTEN = "expected host:port such as 127.0.0.1:8080 or [::1]:8080"
URL = "expected an http or https URL"
UP = "upstreams: [{name: a, url: 'http://a', "

BROKEN = [
    # the text
    ("listen: [", [("settings.yaml", "line 1, column 10: ")]),
    ("a: b: c", [("settings.yaml", "line 1, column 5: mapping values are not allowed here")]),
    ("\x00", [("settings.yaml", "contains characters that YAML does not allow")]),
    ("workers: 1\n---\nworkers: 2", [("settings.yaml", "line 2, column 1: ")]),
    ("[" * 5000, [("settings.yaml", "is nested too deeply")]),
    ("- workers", [("settings.yaml", "expected a mapping, got a list")]),
    ("workers", [("settings.yaml", "expected a mapping, got text")]),
    ("limits: &a {in_flight: 1}\ntimeouts: *a", [("settings.yaml", "line 2, column 11: aliases are not allowed")]),
    ("workers: !!python/name:os.system x", [("workers", "line 1: this tag or value is not allowed")]),
    ("listen: !!binary aGk=", [("listen", "line 1: this tag or value is not allowed")]),
    ("workers: !!int x", [("workers", "line 1: this tag or value is not allowed")]),
    ("1: 2", [("settings.yaml", "line 1: a key must be text")]),
    ("limits: {[a]: 2}", [("limits", "line 1: a key must be text")]),
    ("workers: 1\nworkers: 1", [("workers", "duplicate key, in lines 1 and 2")]),
    ("limits:\n  in_flight: 1\n  in_flight: 2", [("limits.in_flight", "duplicate key, in lines 2 and 3")]),
    ("limits: {<<: {in_flight: 1}}", [('limits."<<"', "unknown key")]),
    # what YAML 1.1 would make of it
    ("timeouts: {idle_s: 1e3}", [("timeouts.idle_s", f"{SECONDS}, got text")]),
    ("timeouts: {idle_s: 1:30}", [("timeouts.idle_s", f"{SECONDS}, got text")]),
    ("timeouts: {idle_s: 010}", [("timeouts.idle_s", f"{SECONDS}, got text")]),
    ("timeouts: {idle_s: 1_000}", [("timeouts.idle_s", f"{SECONDS}, got text")]),
    ("timeouts: {idle_s: .inf}", [("timeouts.idle_s", f"{SECONDS}, got text")]),
    ("timeouts: {idle_s: 1.0e999}", [("timeouts.idle_s", SECONDS)]),
    ("telemetry: {prometheus: on}", [("telemetry.prometheus", "expected true or false, got text")]),
    ("telemetry: {prometheus: Yes}", [("telemetry.prometheus", "expected true or false, got text")]),
    ("telemetry: {service_name: 2024-01-01, models: [1]}", [("telemetry.models[0]", "expected text, got a whole number")]),
    # keys
    ("listn: x", [("listn", 'unknown key; did you mean "listen"?')]),
    ("zzz: 1", [("zzz", "unknown key")]),
    ("timeouts: {idle: 1}", [("timeouts.idle", 'did you mean "idle_s"?')]),
    ("timeouts:", [("timeouts", "expected a mapping, got null")]),
    # addresses and workers
    ("listen: 8080", [("listen", f"{LISTEN}, got a whole number")]),
    ("listen: :8080", [("listen", LISTEN)]),
    ("listen: 127.0.0.1:65536", [("listen", LISTEN)]),
    ("listen: '::1:80'", [("listen", LISTEN)]),
    ("listen: '[::x]:80'", [("listen", LISTEN)]),
    ("admin: null", [("admin", "got null")]),
    ("admin: 127.0.0.1:8080", [("admin", "must differ from listen")]),
    ("workers: 0", [("workers", "expected a whole number of at least 1, got 0")]),
    ("workers: all", [("workers", "expected a whole number of at least 1, or auto, got text")]),
    # upstreams
    ("upstreams: []", [("upstreams", "at least one element")]),
    ("upstreams: {name: a}", [("upstreams", "expected a list, got a mapping")]),
    ("upstreams: [a]", [("upstreams[0]", "expected a mapping, got text")]),
    ("upstreams: [{}]", [("upstreams[0].name", "required, but missing"), ("upstreams[0].url", "required, but missing")]),
    ("upstreams: [{name: a, url: a.example}]", [("upstreams[0].url", URL)]),
    ("upstreams: [{name: a, url: 'ftp://a'}]", [("upstreams[0].url", URL)]),
    ("upstreams: [{name: a, url: 'http://'}]", [("upstreams[0].url", URL)]),
    ("upstreams: [{name: a, url: 'http://a:x'}]", [("upstreams[0].url", URL)]),
    ("upstreams: [{name: a, url: 'http://a:0'}]", [("upstreams[0].url", URL)]),
    ("upstreams: [{name: a, url: 'http://a/../b'}]", [("upstreams[0].url", URL)]),
    ("upstreams: [{name: a, url: 'http://a b/'}]", [("upstreams[0].url", URL)]),
    ('upstreams: [{name: a, url: "http://a/\\nb"}]', [("upstreams[0].url", URL)]),
    ("upstreams: [{name: a, url: 'http://u:p@a'}]", [("upstreams[0].url", "must not carry a user or password")]),
    ("upstreams: [{name: a, url: 'http://a/?k=v'}]", [("upstreams[0].url", "must not carry a query or fragment")]),
    ("upstreams: [{name: a, url: 'http://a#f'}]", [("upstreams[0].url", "must not carry a query or fragment")]),
    (UP + "prefix: '/a/../b'}]", [("upstreams[0].prefix", 'expected whole path segments such as "/azure", or ""')]),
    (UP + "prefix: '/a%2f'}]", [("upstreams[0].prefix", "expected whole path segments")]),
    (UP + "prefix: null}]", [("upstreams[0].prefix", "got null")]),
    (UP + "usage: injekt}]", [("upstreams[0].usage", 'did you mean "inject"?')]),
    (UP + "insert_field: max_output_tokens}]", [("upstreams[0].insert_field", "expected one of auto, max_completion")]),
    (UP + "api_key_env: sk-123}]", [("upstreams[0].api_key_env", "expected the name of an environment variable or null")]),
    (UP + "api_key_env: NOT_SET}]", [("upstreams[0].api_key_env", "the environment variable that it names is not set")]),
    (UP + "tls: {ca_file: no.pem}}]", [("upstreams[0].tls.ca_file", "there is no such file that can be read: /")]),
    ("upstreams: [{name: a, url: 'http://a:65536'}]", [("upstreams[0].url", "with a port from 1 to 65535 if any")]),
    (UP + "tls: {key_file: settings.yaml}}]", [("upstreams[0].tls.key_file", "needs cert_file")]),
    (UP + "prefix: /x}, {name: a, url: 'http://b', prefix: x/}]", [
        ("upstreams[1].name", "upstreams[0] has the same"), ("upstreams[1].prefix", "upstreams[0] has the same"),
    ]),
    # the rest
    ("listen_tls: {}", [("listen_tls.cert_file", "required"), ("listen_tls.key_file", "required")]),
    ("listen_tls: {cert_file: a, key_file: b}", [
        ("listen_tls.cert_file", "there is no such file"), ("listen_tls.key_file", "there is no such file"),
    ]),
    ("policies: missing.yaml", [("policies", "there is no such file")]),
    ("policies: policies.yaml", [("policies", "there is no such file")]),
    ("keys: {a: sk-secret}", [("keys.a", "expected the sha256 of a token as 64 lower-case hex digits, never the token")]),
    (f"keys: {{a: {SHA.upper()}}}", [("keys.a", "64 lower-case hex digits")]),
    (f"keys: {{a b: {SHA}}}", [('keys."a b"', "expected a name")]),
    (f"keys: {{a: {SHA}, b: {SHA}}}", [("keys.b", "keys.a is the same token")]),
    ("keys: []", [("keys", "expected a mapping of names to sha256 digests, got a list")]),
    ("app_header: 'x y'", [("app_header", "expected the name of a header")]),
    ("app_header: Authorization", [("app_header", "upstreams need this header")]),
    ("timeouts: {idle_s: 0, drain_s: -1}", [("timeouts.idle_s", SECONDS), ("timeouts.drain_s", SECONDS)]),
    ("timeouts: {idle_s: true}", [("timeouts.idle_s", f"{SECONDS}, got a boolean")]),
    ("limits: {header_bytes: 10}", [("limits.header_bytes", "expected a whole number of at least 1024, got 10")]),
    ("limits: {in_flight: -1, event_bytes: 1.5}", [
        ("limits.in_flight", "at least 0, got -1"), ("limits.event_bytes", "got a number with a fraction"),
    ]),
    ("limits: {unknown_routes: deny, upgrades: true}", [
        ("limits.unknown_routes", "expected one of pass, block"), ("limits.upgrades", "expected one of pass, block, got a"),
    ]),
    ("telemetry: {sample_ratio: 1.5}", [("telemetry.sample_ratio", "expected a number from 0 to 1")]),
    ("telemetry: {genai: none, traces: oltp}", [
        ("telemetry.genai", "expected one of full, no_usage, off"), ("telemetry.traces", 'did you mean "otlp"?'),
    ]),
    ("telemetry: {compat: langfuse}", [("telemetry.compat", "expected a list, got text")]),
    ("ledger: {path: no/l.sqlite}", [("ledger.path", "its folder does not exist: /")]),
    ("ledger: {path: .}", [("ledger.path", "is a folder: /")]),
    ("ledger: {keep_days: 0}", [("ledger.keep_days", "expected a number greater than 0")]),
    ("ledger: null", [("ledger", "expected a mapping, got null")]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), BROKEN)
def test_every_mistake_of_a_broken_file_is_reported_with_its_path(text: str, expected: list[tuple[str, str]]) -> None:
    """A broken file never becomes settings, and one look shows all that is wrong."""
    assert_mistakes(mistakes(text), expected)


def test_mistakes_of_all_sources_come_at_once(folder: Path) -> None:
    """File, variables, flags, the whole, and policies, each at the place where it was written."""
    (folder / "p.yaml").write_text("version: 1\nrules: [{name: a}]\nrules: []\nmore: {}")

    found = mistakes(
        "workers: 0\nworkers: 0\nlimits: {in_flight: -1}\ntimeouts: 5",
        {"admin": "x", "policies": "p.yaml", "upstream": "x", "workers": "many"},
        {
            "LENGTHWISE_LIMITS__EVENT_BYTES": "big",
            "LENGTHWISE_TELEMETRY": "{genai: x, genai: y}",
            "LENGTHWISE_TIMEOUTS__IDLE_S": "3",
            "LENGTHWISE_UPSTREAMS__5__NAME": "x",
            "LENGTHWISE_LISTN": "x",
            "LENGTHWISE_TIMOUTS__IDLE_S": "3",
            "LENGTHWISE_TIMOUTS__DRAIN_S": "3",
        },
    )

    assert_mistakes(
        sorted(found, key=str),
        [
            ("--admin", LISTEN),
            ("--upstream", URL),
            ("--workers", "expected a whole number of at least 1, or auto, got text"),
            ("LENGTHWISE_LIMITS__EVENT_BYTES", "expected a whole number of at least 1024, got text"),
            ("LENGTHWISE_LISTN", 'unknown key; did you mean "listen"?'),
            ("LENGTHWISE_TELEMETRY.genai", "duplicate key"),
            ("LENGTHWISE_TELEMETRY.genai", "expected one of full"),
            ("LENGTHWISE_TIMEOUTS__IDLE_S", "timeouts is neither a mapping nor a list"),
            ("LENGTHWISE_TIMOUTS__DRAIN_S", 'unknown key; did you mean "timeouts"?'),
            ("LENGTHWISE_TIMOUTS__IDLE_S", 'unknown key; did you mean "timeouts"?'),
            ("LENGTHWISE_UPSTREAMS__5__NAME", "upstreams is a list of 1 and has no element 5"),
            ("limits.in_flight", "at least 0, got -1"),
            ("p.yaml: rules", "duplicate key, in lines 2 and 3"),
            ("timeouts", "expected a mapping, got a whole number"),
            ("workers", "duplicate key, in lines 1 and 2"),
        ],
    )


@pytest.mark.parametrize(
    ("flags", "environ", "path"),
    [
        ({"policies": "missing.yaml"}, {}, "--policies"),
        ({}, {"LENGTHWISE_POLICIES": "missing.yaml"}, "LENGTHWISE_POLICIES"),
        ({}, {"LENGTHWISE_": "x"}, "LENGTHWISE_"),
        ({}, {"LENGTHWISE_CONFIG": "x"}, "LENGTHWISE_CONFIG"),
        ({}, {"LENGTHWISE_UPSTREAMS__X__NAME": "x"}, "LENGTHWISE_UPSTREAMS__X__NAME"),
        ({}, {"LENGTHWISE_LISTEN__HOST": "x"}, "LENGTHWISE_LISTEN__HOST"),
        ({}, {"LENGTHWISE_UPSTREAMS": "[{name: a}]"}, "LENGTHWISE_UPSTREAMS[0].url"),
        ({}, {"LENGTHWISE_UPSTREAMS__1__NAME": "b", "LENGTHWISE_UPSTREAMS__1__PREFIX": "/b"}, "upstreams[1].url"),
        ({}, {"LENGTHWISE_TELEMETRY__SAMPLE_RATIO": "1:30"}, "LENGTHWISE_TELEMETRY__SAMPLE_RATIO"),
        ({}, {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "7"}, "OTEL_TRACES_SAMPLER_ARG"),
    ],
)
def test_a_mistake_in_a_variable_or_flag_is_reported_there(
    flags: dict[str, object], environ: dict[str, str], path: str
) -> None:
    """Who must be changed is who is named."""
    assert [mistake.path for mistake in mistakes(None, flags, environ)] == [path]


def test_a_file_that_is_named_must_exist_and_be_text(folder: Path) -> None:
    """Only the default file may be absent."""
    (folder / "latin.yaml").write_bytes(b"# caf\xe9")

    for name, fragment in (
        ("no.yaml", "cannot be read: No such file"),
        (".", "cannot be read: "),
        ("latin.yaml", "UTF-8"),
    ):
        with pytest.raises(SettingsError) as caught:
            load(Path(name), {}, {})
        assert_mistakes(caught.value.mistakes, [(name, fragment)])


def test_no_mistake_quotes_a_value() -> None:
    """A credential in the wrong place does not reach a terminal or a log."""
    secret = "sk-Canary123456"

    found = mistakes(
        f"listen: {secret}\nadmin: {secret}\nworkers: {secret}\nkeys: {{a: {secret}}}\n"
        f"app_header: '{secret} x'\n"
        f"upstreams: [{{name: '{secret}/', url: 'http://u:{secret}@h', usage: {secret}, api_key_env: {secret}}},"
        f" {{name: b, url: 'http://h', prefix: '?{secret}', api_key_env: {secret.replace('-', '_')}}}]\n"
        f"telemetry: {{genai: {secret}, compat: [{secret}]}}",
        environ={"LENGTHWISE_TIMEOUTS__IDLE_S": secret, "LENGTHWISE_LEDGER__KEEP_DAYS": f"[{secret}"},
    )

    assert len(found) >= 15
    assert not [mistake for mistake in found if "Canary" in str(mistake)]


# Policies


@pytest.mark.parametrize(("flags", "variables"), [({"policies": "none"}, {}), ({}, {"LENGTHWISE_POLICIES": "none"})])
def test_rules_that_lie_about_are_left_out_when_none_are_asked_for(folder: Path, flags: Any, variables: Any) -> None:
    """None by word: the file of the current folder would be found without being named."""
    (folder / "policies.yaml").write_text("version: 1\nrules: [{name: a, do: reject}]")
    settings, policies, _ = load(None, flags, variables)
    assert (settings.policies, policies.rules) == (None, ())


def test_policies_stand_beside_the_settings_and_may_be_absent(folder: Path) -> None:
    """The default name is optional, and null is none even where the file exists."""
    assert loaded()[1] is EMPTY

    (folder / "policies.yaml").write_text("version: 1\nrules: [{name: a, do: reject}]")
    settings, policies, _ = loaded()
    assert (settings.policies, [rule.name for rule in policies.rules]) == (folder / "policies.yaml", ["a"])

    settings, policies, _ = loaded("policies: null")
    assert (settings.policies, policies) == (None, EMPTY)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [("policies.yaml", "expected a mapping, got null")]),
        ("version: 1\nrules: [{name: a, do: re", [("policies.yaml", "line 2, column ")]),
        ("version: 1\nversion: 1\nrules: []", [("policies.yaml: version", "duplicate key, in lines 1 and 2")]),
        ("version: 1\nrules: [{name: a, do: cap}]", [("policies.yaml: rules[0].max_tokens", "required with do: cap")]),
        (
            "version: 1\nrules: [{name: a, do: reject, match: {upstream: [openai, b], key: c}}]",
            [
                ("policies.yaml: rules[0].match.upstream", 'the settings have no upstream named "b"'),
                ("policies.yaml: rules[0].match.key", 'the settings have no key named "c"'),
            ],
        ),
    ],
)
def test_a_broken_policies_file_is_reported_under_its_name(
    folder: Path, text: str, expected: list[tuple[str, str]]
) -> None:
    """At the start it stops the start, at a reload the caller keeps what it has."""
    (folder / "policies.yaml").write_text(text)

    assert_mistakes(mistakes(), expected)
    with pytest.raises(SettingsError) as caught:
        load_policies(folder / "policies.yaml", Settings())
    assert_mistakes(caught.value.mistakes, expected)


def test_a_policies_file_that_vanished_is_a_mistake(folder: Path) -> None:
    """A reload finds no file: the caller keeps what it has and says so."""
    with pytest.raises(SettingsError) as caught:
        load_policies(folder / "gone.yaml")
    assert_mistakes(caught.value.mistakes, [("gone.yaml", "cannot be read: No such file")])


# Crossing to other processes


def test_settings_survive_the_way_to_another_process(folder: Path) -> None:
    """Whatever differs from its default is there again, and equal settings have equal digests."""
    for name in ("a.pem", "b.pem", "c.pem"):
        (folder / name).touch()
    settings = Settings(
        Address("::", 1),
        ListenTls(folder / "a.pem", folder / "b.pem", folder / "c.pem"),
        Address("h", 2),
        7,
        (
            Upstream(
                "a", "http://a", "/a", "x", "observe", "max_tokens", "K", UpstreamTls(False, folder / "c.pem"), True
            ),
            Upstream("b", "https://b:8443/base"),
        ),
        folder / "p.yaml",
        {"k": SHA, "l": OTHER_SHA},
        "x-app",
        Timeouts(None, 0.5, None, 1.0, 2.0, 3.0),
        Limits(2048, 4096, 8192, 5, "block", "block"),
        Telemetry("s", "none", "none", False, 0.25, "off", ("langfuse",), ("m",), False),
        Ledger(None, 0.5),
    )

    assert from_json(to_json(settings)) == settings
    assert from_json(to_json(Settings())) == Settings()
    assert digest(from_json(to_json(settings))) == digest(settings)
    assert digest(settings) != digest(dataclasses.replace(settings, workers=8))
    assert re.fullmatch("[0-9a-f]{12}", digest(settings))


def test_what_is_no_settings_is_refused() -> None:
    """A child never starts on half of its settings."""
    with pytest.raises(SettingsError) as caught:
        from_json(b'{"workers": 0}')
    assert_mistakes(caught.value.mistakes, [("workers", "at least 1")])


# The files that show them


def key_paths(value: object, path: str = "") -> set[str]:
    """Every key path of a document; elements of lists count once."""
    if isinstance(value, dict):
        return {f"{path}.{key}" for key in value} | {
            below for key, member in value.items() for below in key_paths(member, f"{path}.{key}")
        }
    if isinstance(value, list):
        return {below for member in value for below in key_paths(member, path)}
    return set()


def test_the_shown_settings_are_the_built_in_defaults() -> None:
    """`config/lengthwise.yaml` can be deleted, and nothing changes but its policies."""
    settings, policies, warnings = load(CONFIG / "lengthwise.yaml", {}, {})

    assert dataclasses.replace(settings, policies=None) == built_in(CONFIG)
    assert settings.policies == CONFIG / "policies.yaml"
    assert (policies.rules, warnings) == ((), [])


def test_every_key_of_the_settings_is_shown_and_explained() -> None:
    """One line for each key, each with a comment."""
    text = (CONFIG / "lengthwise.yaml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if re.match(r"[ -]*\w+:", line)]

    assert key_paths(yaml.safe_load(text)) == key_paths(yaml.safe_load(to_json(Settings())))
    assert len(lines) == len(key_paths(yaml.safe_load(text)))
    assert [line for line in lines if " # " not in line and not line.endswith(":")] == []


RECIPES = {
    "anthropic": ("anthropic", "inject", "auto"),
    "azure": ("azure.ai.openai", "inject", "auto"),
    "deepseek": ("deepseek", "inject", "max_tokens"),
    "groq": ("groq", "inject", "auto"),
    "llama-cpp": ("llama_cpp", "inject", "max_tokens"),
    "mistral": ("mistral_ai", "observe", "max_tokens"),
    "ollama": ("ollama", "inject", "max_tokens"),
    "openai": ("openai", "inject", "auto"),
    "openrouter": ("openrouter", "observe", "auto"),
    "sglang": ("sglang", "inject", "max_tokens"),
    "vllm": ("vllm", "inject", "max_tokens"),
}
"""One file of `config/examples` for each provider: its name on spans, whether it is asked for usage, its limit field."""


def test_the_examples_load_without_a_warning() -> None:
    """What users copy works: a file for each provider, which it names as OpenTelemetry does where that has a name."""
    examples = {file.stem: file for file in (CONFIG / "examples").glob("*.yaml")}
    loaded_ones = {name: load(file, {}, {}) for name, file in examples.items()}

    assert {name: found[1:] for name, found in loaded_ones.items()} == dict.fromkeys(examples, (EMPTY, []))
    del loaded_ones["two-upstreams"]
    upstreams = {name: settings.upstreams[0] for name, (settings, _, _) in loaded_ones.items()}
    assert {name: (each.provider, each.usage, each.insert_field) for name, each in upstreams.items()} == RECIPES
    assert len({each.provider for each in upstreams.values()}) == len(RECIPES)
    assert {name: each.name for name, each in upstreams.items()} == {name: name for name in RECIPES}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_an_example_says_how_an_application_reaches_it(name: str) -> None:
    """By the port that it listens on; and where it could keep the key, uncommenting that line is enough on loopback."""
    text = (CONFIG / "examples" / f"{name}.yaml").read_text(encoding="utf-8")
    settings, _, _ = loaded(text)

    shown = set(re.findall(r"(?m)^#   .*?(http://[^/\s\"]+)", text))
    assert shown == {f"http://{settings.listen}"}
    (variable,) = re.findall(r"(?m)^    # api_key_env: (\w+)", text) or [None]
    assert (variable is None) == (settings.upstreams[0].scheme == "http")
    if variable:
        with_key = loaded(text.replace("# api_key_env", "api_key_env"), environ={variable: "secret"})
        assert with_key[0].upstreams[0].api_key_env == variable
        assert with_key[2] == []


def test_the_worked_rules_are_correct(folder: Path) -> None:
    """Every commented example of `config/policies.yaml` is a rule that loads."""
    text = (CONFIG / "policies.yaml").read_text(encoding="utf-8")
    examples = text.split("# Worked examples:\n")[1].split("\nversion:")[0]
    (folder / "worked.yaml").write_text("version: 1\nrules:\n" + re.sub("(?m)^#", "", examples))

    policies = load_policies(folder / "worked.yaml")

    assert [(rule.name, rule.do) for rule in policies.rules] == [
        ("cap-1024-trial", "cap"),
        ("batch-exempt", "observe"),
        ("search-512", "cap"),
        ("office-hours", "reject"),
    ]


def test_every_shown_policy_is_correct() -> None:
    """Each file of `config/examples/policies` loads, with the keys that it tells its reader to have, and shows another thing."""
    keys = {"batch": "0" * 64, "growth": "1" * 64}
    settings = dataclasses.replace(Settings(), keys=keys)
    shown = {
        file.stem: load_policies(file, settings).rules for file in (CONFIG / "examples" / "policies").glob("*.yaml")
    }
    assert {name: [rule.name for rule in rules] for name, rules in shown.items()} == {
        "shadow-first": ["chat-cap"],
        "team-caps": ["batch-exempt", "growth-512", "everyone-2048"],
        "few-choices": ["few-choices"],
        "reject-absurd": ["no-limit-is-fine", "absurd-limit"],
        "insert-default": ["default-4096"],
        "deadline": ["interactive"],
        "night": ["night-8192", "day-1024"],
        "experiment": ["slack-arms"],
    }


def test_a_reader_finds_the_ledger_whatever_else_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No upstream and no credential is needed to know the path; a variable beats the file, no file means the default."""
    monkeypatch.chdir(tmp_path)
    assert ledger_path({}) == Path("lengthwise.sqlite")
    (tmp_path / "lengthwise.yaml").write_text("upstreams: 7\nledger: {path: mine.sqlite}\n")
    assert ledger_path({}) == Path("mine.sqlite")
    assert ledger_path({"LENGTHWISE_LEDGER__PATH": "other.sqlite"}) == Path("other.sqlite")
    (tmp_path / "lengthwise.yaml").write_text("ledger: {path: none}\n")
    assert ledger_path({}) is None
    (tmp_path / "lengthwise.yaml").write_text("ledger: {path: 7, color: red}\n")
    with pytest.raises(SettingsError) as caught:
        ledger_path({})
    assert {mistake.path for mistake in caught.value.mistakes} == {"ledger.color", "ledger.path"}
