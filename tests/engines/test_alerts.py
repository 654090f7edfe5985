"""Rules and alerts: Prometheus' own tests of them, and some that fire because of real traffic."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.engines.monitored import monitored
from tests.engines.parts import SHIPPED, alertmanager, eventually, get_json
from tests.support.serve import STOP_S

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

CUT = {
    "alertname": "LengthwisePolicyCutsAnswers",
    "severity": "warning",
    "by": "policy",
    "gen_ai_request_model": "sim-large",
    "gen_ai_provider_name": "openai",
}
UNCOUNTED = {
    "alertname": "LengthwiseUsageMissing",
    "severity": "warning",
    "gen_ai_request_model": "sim-small",
    "gen_ai_provider_name": "vllm",
}
DEAD = {
    "alertname": "LengthwiseUpstreamFailing",
    "severity": "critical",
    "gen_ai_request_model": "sim-small",
    "gen_ai_provider_name": "groq",
}


@pytest.mark.parametrize("command", [("check", "config", "prometheus.yaml"), ("test", "rules", "tests.yaml")])
def test_promtool_is_content(promtool: Path, command: tuple[str, ...]) -> None:
    """The settings are valid, and every alert fires and is silent as its tests say."""
    outcome = subprocess.run([promtool, *command], cwd=SHIPPED, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_amtool_is_content(amtool: Path) -> None:
    """The example of Alertmanager is valid."""
    command = [amtool, "check-config", "alertmanager.yaml"]
    outcome = subprocess.run(command, cwd=SHIPPED, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_real_traffic_makes_alerts_fire_that_reach_alertmanager(
    prometheus_command: Path, alertmanager_command: Path, tmp_path: Path
) -> None:
    """Those that the traffic is for and no other; then the service is gone, and Alertmanager is told so too."""
    (tmp_path / "alertmanager").mkdir()
    with (
        alertmanager(alertmanager_command, tmp_path / "alertmanager") as address,
        monitored(prometheus_command, tmp_path, address) as running,
    ):

        def received() -> list[dict[str, Any]]:
            return get_json(f"http://{address}/api/v2/alerts")

        alerts = eventually(received, lambda alerts: len(alerts) >= 3, "three alerts")
        assert sorted((alert["labels"] for alert in alerts), key=str) == sorted((CUT, UNCOUNTED, DEAD), key=str)
        routes = {alert["labels"]["alertname"]: [each["name"] for each in alert["receivers"]] for alert in alerts}
        assert routes == {
            "LengthwisePolicyCutsAnswers": ["day"],
            "LengthwiseUsageMissing": ["day"],
            "LengthwiseUpstreamFailing": ["night"],
        }

        running.served.process.terminate()
        running.served.process.wait(STOP_S)
        down = {"alertname": "LengthwiseDown", "severity": "critical", "job": "lengthwise"}
        target = running.served.admin_url.removeprefix("http://")
        eventually(
            received,
            lambda alerts: down | {"instance": target} in [alert["labels"] for alert in alerts],
            "alert that the service is gone",
        )
