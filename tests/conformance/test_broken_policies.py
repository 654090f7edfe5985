"""Policies files that are broken: none starts anything, none changes what is in force, each says where it is wrong."""

import json
import signal
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from proxy.cli import main
from proxy.errors import SettingsError
from proxy.settings import load_policies
from tests.support.otlp import wait_until
from tests.support.serve import Served, serving

RULE = "version: 1\nrules:\n  - {name: a, do: cap, max_tokens: 8"
MATCH = RULE + ", match: "
BROKEN: list[tuple[str | bytes, str]] = [
    # no document, or another one
    ("", "policies.yaml"),
    ("# nothing but a comment\n", "policies.yaml"),
    ("[]", "policies.yaml"),
    ("cap everything", "policies.yaml"),
    ("version: 1\nrules: [", "policies.yaml"),
    ("version: 1\n\trules: []", "policies.yaml"),
    ("version: 1\nrules: []\n---\nversion: 1\nrules: []", "policies.yaml"),
    ("version: 1\nrules: []\nversion: 1\n", "policies.yaml: version"),
    ("version: 1\nrules: []\nrules: []\n", "policies.yaml: rules"),
    ("version: 1\nrules: &all []\nmore: *all", "policies.yaml"),
    ("version: 1\nrules: [" + "[" * 5000, "policies.yaml"),
    (b"version: 1\nrules: []\n# \xff", "policies.yaml"),
    (b"version: 1\nrules: []\n# \0", "policies.yaml"),
    ("version: 1\nrules: !!python/object/apply:os.system [ls]", "policies.yaml: rules"),
    # its head
    ("rules: []", "policies.yaml: version"),
    ("version: 2\nrules: []", "policies.yaml: version"),
    ("version: '1'\nrules: []", "policies.yaml: version"),
    ("version: 1.0\nrules: []", "policies.yaml: version"),
    ("version: 1", "policies.yaml: rules"),
    ("version: 1\nrules:", "policies.yaml: rules"),
    ("version: 1\nrules: {a: b}", "policies.yaml: rules"),
    ("version: 1\nrules: []\nrule: x", "policies.yaml: rule"),
    # a rule
    ("version: 1\nrules: [cap]", "policies.yaml: rules[0]"),
    ("version: 1\nrules: [{do: reject}]", "policies.yaml: rules[0].name"),
    ("version: 1\nrules: [{name: a}]", "policies.yaml: rules[0].do"),
    ("version: 1\nrules: [{name: a, do: block}]", "policies.yaml: rules[0].do"),
    ("version: 1\nrules: [{name: a, do: cap}]", "policies.yaml: rules[0].max_tokens"),
    ("version: 1\nrules: [{name: a b, do: reject}]", "policies.yaml: rules[0].name"),
    (RULE + "}\n  - {name: a, do: reject}", "policies.yaml: rules[1].name"),
    (RULE + "}\n  - {name: b, do: reject, max_tokens: 8}", "policies.yaml: rules[1].max_tokens"),
    (RULE + ", max_token: 9}", "policies.yaml: rules[0].max_token"),
    (RULE.replace("8", "0") + "}", "policies.yaml: rules[0].max_tokens"),
    (RULE.replace("8", "1e3") + "}", "policies.yaml: rules[0].max_tokens"),
    (RULE.replace("8", "1_000") + "}", "policies.yaml: rules[0].max_tokens"),
    (RULE + ", when_absent: add}", "policies.yaml: rules[0].when_absent"),
    (RULE + ", mode: on}", "policies.yaml: rules[0].mode"),
    (RULE + ", deadline_s: -1}", "policies.yaml: rules[0].deadline_s"),
    (RULE + ", deadline_s: .inf}", "policies.yaml: rules[0].deadline_s"),
    (RULE + ", quantile: 0.5}", "policies.yaml: rules[0].quantile"),
    (RULE + ", deadline_s: 1, quantile: 95}", "policies.yaml: rules[0].quantile"),
    (RULE + ", deadline_s: 1, floor: 64}", "policies.yaml: rules[0].floor"),
    (RULE + ", max_choices: 0}", "policies.yaml: rules[0].max_choices"),
    (RULE + ", disarm: 0.02}", "policies.yaml: rules[0].disarm"),
    (RULE + ", disarm: {truncated_share: 2}}", "policies.yaml: rules[0].disarm.truncated_share"),
    (RULE + ", disarm: {truncated_share: 0.1, of_last: 0}}", "policies.yaml: rules[0].disarm.of_last"),
    (RULE + ", experiment: {arms: [8]}}", "policies.yaml: rules[0].experiment.arms"),
    (RULE + ", experiment: {arms: [8, None]}}", "policies.yaml: rules[0].experiment.arms[1]"),
    (RULE + ", experiment: {arms: [8, none], unit: user}}", "policies.yaml: rules[0].experiment.unit"),
    # what it matches
    (MATCH + "all}", "policies.yaml: rules[0].match"),
    (MATCH + "{models: x}}", "policies.yaml: rules[0].match.models"),
    (MATCH + "{model: []}}", "policies.yaml: rules[0].match.model"),
    (MATCH + "{upstream: other}}", "policies.yaml: rules[0].match.upstream"),
    (MATCH + "{key: nobody}}", "policies.yaml: rules[0].match.key"),
    (MATCH + "{dialect: chat}}", "policies.yaml: rules[0].match.dialect"),
    (MATCH + "{header: {'x y': z}}}", 'policies.yaml: rules[0].match.header."x y"'),
    (MATCH + "{header: {X-A: a, x-a: b}}}", "policies.yaml: rules[0].match.header.x-a"),
    (MATCH + "{stream: yes}}", "policies.yaml: rules[0].match.stream"),
    (MATCH + "{requested: {above: 5}}}", "policies.yaml: rules[0].match.requested.above"),
    (MATCH + "{when: {days: mo-fr}}}", "policies.yaml: rules[0].match.when.days"),
    (MATCH + "{when: {hours: 8-18}}}", "policies.yaml: rules[0].match.when.hours"),
    (MATCH + "{when: {timezone: Europe/Nowhere}}}", "policies.yaml: rules[0].match.when.timezone"),
]
SETTINGS = {
    "upstreams": [{"name": "nowhere", "url": "http://127.0.0.1:1"}],
    "policies": "policies.yaml",
    "ledger": {"path": None},
}
GOOD = {"version": 1, "rules": [{"name": "keep", "do": "reject", "match": {"model": "bad"}}]}


def as_bytes(text: str | bytes) -> bytes:
    """The file's content."""
    return text.encode() if isinstance(text, str) else text


@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize(("text", "path"), BROKEN)
def test_a_broken_file_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, text: str | bytes, path: str
) -> None:
    """Exit code 2, nothing on stdout, and the key path on stderr."""
    (tmp_path / "lengthwise.yaml").write_text(json.dumps(SETTINGS))
    (tmp_path / "policies.yaml").write_bytes(as_bytes(text))
    assert main([command, "--config", str(tmp_path / "lengthwise.yaml")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"error: {path}: " in err
    assert "Traceback" not in err


def answers(served: Served) -> dict[str, int]:
    """Status for a model that the rule rejects and for one that it does not."""
    address = urlsplit(served.base_url)
    found = {}
    for model in ("bad", "good"):
        connection = HTTPConnection(address.hostname or "", address.port)
        connection.request("POST", "/v1/chat/completions", json.dumps({"model": model}))
        found[model] = connection.getresponse().status
        connection.close()
    return found


def test_a_broken_file_changes_nothing_that_is_in_force() -> None:
    """Read after SIGHUP, one after the other: the rule goes on, and `/status` says what is wrong with the newest."""
    with serving(SETTINGS, policies=GOOD) as served:

        def policy() -> dict[str, object]:
            return json.loads(served.get("/status")[1])["policy"]

        wait_until(lambda: served.get("/status")[0] == 200)
        first, file = policy(), served.folder / "policies.yaml"
        assert (first["error"], answers(served)) == (None, {"bad": 400, "good": 502})
        for text, path in BROKEN:
            if path.endswith(("match.upstream", "match.key")):
                continue  # what the settings do not name is known to the supervisor alone
            file.write_bytes(as_bytes(text))
            with pytest.raises(SettingsError) as caught:
                load_policies(file)
            expected = str(caught.value.mistakes[0])
            served.process.send_signal(signal.SIGHUP)
            wait_until(lambda expected=expected: expected in (policy()["error"] or ""))
            assert expected.startswith(f"{path}: ")
            assert policy() == first | {"error": policy()["error"]}
            assert answers(served) == {"bad": 400, "good": 502}
        file.write_text(json.dumps(GOOD))
        served.process.send_signal(signal.SIGHUP)
        wait_until(lambda: policy()["error"] is None)
        assert policy() == first
        assert "Traceback" not in served.log


def test_there_are_at_least_fifty() -> None:
    """All different."""
    assert len({as_bytes(text) for text, _ in BROKEN}) == len(BROKEN) >= 50
