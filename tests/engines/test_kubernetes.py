"""The Helm chart: its rendered objects are Kubernetes', its files are Lengthwise's, and what belongs together agrees."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engines.conftest import Checkov
from tests.engines.parts import ROOT

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

CHART = ROOT / "deploy" / "kubernetes" / "lengthwise"
VALUES = {"defaults": {}} | {
    path.name.removesuffix("-values.yaml"): yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((CHART / "ci").glob("*-values.yaml"))
}
KUBERNETES = ("1.30", "1.37")
"""The oldest that the chart asks for, and a recent one."""
OPERATORS = {"ServiceMonitor"}
"""Kinds that are not Kubernetes' own."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """What the chart makes of values."""

    text: Mapping[str, str]
    """By template."""
    lint: list[Any]

    @property
    def objects(self) -> list[dict[str, Any]]:
        """All of them."""
        return [each for text in self.text.values() for each in yaml.safe_load_all(text) if isinstance(each, dict)]

    def __getitem__(self, key: tuple[str, str]) -> dict[str, Any]:
        """The object of a kind and a name."""
        (found,) = [each for each in self.objects if (each["kind"], each["metadata"]["name"]) == key]
        return found

    @property
    def pod(self) -> dict[str, Any]:
        """The pod's template."""
        return self["Deployment", "lw-lengthwise"]["spec"]["template"]

    def file(self, which: str, name: str) -> str:
        """A file of a ConfigMap."""
        return self["ConfigMap", f"lw-lengthwise-{which}"]["data"][name]


Render = Callable[[dict[str, Any]], Rendered]


@pytest.fixture(scope="module")
def ask(deployment: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Helm, for one set of values."""

    def asked(values: dict[str, Any]) -> dict[str, Any]:
        command = [deployment / "python", Path(__file__).with_name("helm_chart.py"), CHART]
        outcome = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=True)
        return json.loads(outcome.stdout)

    return asked


@pytest.fixture(scope="module")
def render(ask: Callable[[dict[str, Any]], dict[str, Any]]) -> Render:
    """What becomes of values that the chart takes."""

    def rendered(values: dict[str, Any]) -> Rendered:
        answer = ask(values)
        assert "refused" not in answer, answer
        return Rendered(
            {name: text for name, text in answer["templates"].items() if name.endswith(".yaml")}, answer["lint"]
        )

    return rendered


@pytest.mark.parametrize("name", VALUES)
def test_helm_and_kubernetes_accept_the_chart(render: Render, deployment: Path, tmp_path: Path, name: str) -> None:
    """Lint is silent in strict mode, and every object is valid in the oldest and in a recent Kubernetes."""
    rendered = render(VALUES[name])
    assert rendered.lint == []
    own = [each for each in rendered.objects if each["kind"] not in OPERATORS]
    assert {each["metadata"]["namespace"] for each in rendered.objects} == {"llm"}
    for version in KUBERNETES:
        assert _refused(deployment, tmp_path, version, own) == []
        own[0]["metadata"]["lables"] = {}
        assert len(_refused(deployment, tmp_path, version, own)) == 1, "the check must be able to fail"
        del own[0]["metadata"]["lables"]


def _refused(deployment: Path, folder: Path, version: str, objects: list[dict[str, Any]]) -> list[str]:
    """What a version of Kubernetes has to say against objects."""
    (folder / "objects.yaml").write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    command = [deployment / "kubernetes-validate", "--strict", "--kubernetes-version", version, folder / "objects.yaml"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (outcome.stdout + outcome.stderr).splitlines()
    assert sum(" passed for " in line or " did not validate " in line for line in lines) == len(objects)
    return [line for line in lines if " passed for " not in line]


def test_checkov_finds_nothing_but_what_is_meant(render: Render, checkov: Checkov, tmp_path: Path) -> None:
    """Processors have no limit, because being throttled is time added to answers; keys come in variables, not in files."""
    for name, text in render(VALUES["everything"]).text.items():
        (tmp_path / Path(name).name).write_text(text, encoding="utf-8")
    assert checkov("kubernetes", tmp_path) == {"CKV_K8S_11", "CKV_K8S_35"}


@pytest.mark.parametrize("name", VALUES)
def test_lengthwise_accepts_the_files_of_the_chart(render: Render, tmp_path: Path, name: str) -> None:
    """`lengthwise check` on what a pod mounts, each where it is mounted, and nothing that the user wrote is lost."""
    rendered = render(VALUES[name])
    settings = rendered.file("settings", "lengthwise.yaml")
    mounts = {"/etc/lengthwise/policies": tmp_path, "/var/lib/lengthwise": tmp_path}
    for inside, outside in mounts.items():
        settings = settings.replace(inside, str(outside))
    (tmp_path / "lengthwise.yaml").write_text(settings, encoding="utf-8")
    (tmp_path / "policies.yaml").write_text(rendered.file("policies", "policies.yaml"), encoding="utf-8")
    secrets = {"OPENAI_API_KEY": "unused", "PATH": ""}
    command = [sys.executable, "-m", "proxy.cli", "check", "--config", tmp_path / "lengthwise.yaml"]
    outcome = subprocess.run(command, cwd=ROOT, env=secrets, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    asked = VALUES[name].get("settings", {})
    assert {key: yaml.safe_load(settings)[key] for key in asked if key != "timeouts"} == {
        key: value for key, value in asked.items() if key != "timeouts"
    }
    assert asked.get("timeouts", {}).items() <= yaml.safe_load(settings)["timeouts"].items()


@pytest.mark.parametrize("name", VALUES)
def test_a_pod_may_finish_its_streams(render: Render, name: str) -> None:
    """The grace period holds the pause before SIGTERM, the drain, 3 s for late streams and 4 s for the last export."""
    rendered = render(VALUES[name])
    pod = rendered.pod["spec"]
    (container,) = pod["containers"]
    pause_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain_s = yaml.safe_load(rendered.file("settings", "lengthwise.yaml"))["timeouts"]["drain_s"]
    assert pause_s >= 1
    assert pod["terminationGracePeriodSeconds"] >= pause_s + drain_s + 3 + 4
    assert rendered["Deployment", "lw-lengthwise"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


@pytest.mark.parametrize("name", VALUES)
def test_a_pod_has_no_rights_that_it_does_not_need(render: Render, name: str) -> None:
    """Neither root nor a writable system, no capability, no token of the cluster, and no variables of its services."""
    rendered = render(VALUES[name])
    pod = rendered.pod["spec"]
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["seccompProfile"]) == (
        True,
        {"type": "RuntimeDefault"},
    )
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    assert rendered["ServiceAccount", "lw-lengthwise"]["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", VALUES)
def test_the_admin_port_is_asked_by_probes_and_not_by_applications(render: Render, name: str) -> None:
    """Its address is in no Service but the headless one that a ServiceMonitor needs."""
    rendered = render(VALUES[name])
    (container,) = rendered.pod["spec"]["containers"]
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert probes == {
        "startup": {"path": "/readyz", "port": "admin"},
        "readiness": {"path": "/readyz", "port": "admin"},
        "liveness": {"path": "/healthz", "port": "admin"},
    }
    assert [port["targetPort"] for port in rendered["Service", "lw-lengthwise"]["spec"]["ports"]] == ["http"]
    admin = [
        each["spec"]["clusterIP"]
        for each in rendered.objects
        if each["kind"] == "Service" and "admin" in [port["targetPort"] for port in each["spec"]["ports"]]
    ]
    assert admin == (["None"] if VALUES[name].get("serviceMonitor", {}).get("enabled") else [])


def test_policies_arrive_without_a_restart_and_settings_with_one(render: Render) -> None:
    """Changed policies change their ConfigMap alone; both are mounted as folders, or they would never arrive."""
    changed = {"policies": {"version": 1, "rules": [{"name": "cap", "do": "cap", "max_tokens": 5}]}}
    before, policies, settings = render({}), render(changed), render({"settings": {"limits": {"in_flight": 5}}})
    differ = [name for name, text in before.text.items() if policies.text[name] != text]
    assert [Path(name).name for name in differ] == ["configmaps.yaml"]
    assert settings.pod["metadata"]["annotations"] != before.pod["metadata"]["annotations"]
    (container,) = before.pod["spec"]["containers"]
    assert [mount for mount in container["volumeMounts"] if "subPath" in mount] == []


def test_the_scrape_is_found_by_the_names_of_the_alerts(render: Render) -> None:
    """The monitor selects the admin Service alone, and its job is the one that alerts ask for."""
    rendered = render(VALUES["everything"])
    monitor, service = rendered["ServiceMonitor", "lw-lengthwise"]["spec"], rendered["Service", "lw-lengthwise-admin"]
    labels = service["metadata"]["labels"]
    assert labels[monitor["jobLabel"]] == "lengthwise"
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    public = rendered["Service", "lw-lengthwise"]["metadata"]["labels"]
    assert not monitor["selector"]["matchLabels"].items() <= public.items()
    assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


@pytest.mark.parametrize(
    "values",
    [
        {"replicas": 3},
        {"settings": {"upstreams": []}},
        {"settings": {"listen": "127.0.0.1:1"}},
        {"settings": {"timeouts": {"drain_s": 5}}},
        {"drainSeconds": None},
        {"image": {"digest": "sha256:abc"}},
        {"networkPolicy": {"from": []}},
    ],
)
def test_values_that_are_none_are_refused(
    ask: Callable[[dict[str, Any]], dict[str, Any]], values: dict[str, Any]
) -> None:
    """A misspelt key, a setting that the chart itself decides, an endless drain, a digest that is none."""
    assert "refused" in ask(values)
