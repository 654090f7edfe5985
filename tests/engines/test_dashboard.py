"""Grafana's dashboard: Grafana's own types accept it, and every panel shows something of real traffic."""

import json
import math
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from proxy.lab.traffic import BATCHES, CLASSES
from tests.engines.install import folder, home_of
from tests.engines.monitored import Monitored, monitored
from tests.engines.parts import ROOT, get_json

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/lengthwise.json").read_text(encoding="utf-8"))
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}
VARIABLES = {"$model": ".*", "$provider": ".*", "$__rate_interval": "5m", "$__range": "5m"}
ZERO = {("In progress", "A"), ("Records dropped", "A"), ("Drops per minute", "A"), ("Broken policies files", "A")}
"""Zero after traffic of which nothing was lost."""

TYPES = {"timeseries": "TimeSeries", "stat": "Stat", "heatmap": "Heatmap"}
PLAIN = (
    "type Plain<T> = T extends string ? `${T}` : T extends Array<infer U> ? Plain<U>[] "
    ": T extends object ? { [K in keyof T]: Plain<T[K]> } : T;"
)
"""The types name the words of an enumeration; JSON has the words themselves."""


@pytest.fixture(scope="module")
def traffic(prometheus_command: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    """A Prometheus that saw some."""
    with monitored(prometheus_command, tmp_path_factory.mktemp("dashboard")) as running:
        yield running


@pytest.mark.parametrize("title", PANELS)
def test_a_panel_shows_what_it_is_for(traffic: Monitored, title: str) -> None:
    """Each of its queries finds finite numbers, above zero where they should be."""
    for target in PANELS[title]["targets"]:
        query = re.sub(r"\$\w+", lambda name: VARIABLES[name.group()], target["expr"])
        values = [float(series["value"][1]) for series in traffic.server.query(query)]
        assert all(map(math.isfinite, values)), query
        assert (max(values) > 0) is ((title, target["refId"]) not in ZERO), query


def test_the_choices_of_a_variable_are_the_labels_of_the_traffic(traffic: Monitored) -> None:
    """A reader chooses among models and providers that there are."""
    choices = {}
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
            path = f"/api/v1/label/{label}/values?{urlencode({'match[]': metric})}"
            choices[variable["name"]] = get_json(traffic.server.url + path)["data"]
    models = sorted({kind.model for kind in (*CLASSES, *BATCHES)})
    assert choices == {"model": models, "provider": ["groq", "openai", "vllm"]}


def test_grafanas_own_types_accept_the_dashboard(tmp_path: Path) -> None:
    """The dashboard, and of each panel the options and fields of its kind; a wrong word is refused."""
    home = home_of("grafana")
    if home is None:
        pytest.skip(f"grafana is not installed in {folder()}: python tests/engines/install.py grafana")
    assert {panel["type"] for panel in PANELS.values()} <= set(TYPES)
    (tmp_path / "node_modules").symlink_to(home / "node_modules")
    assert _refused(tmp_path, home, DASHBOARD) == ""
    wrong = json.loads(json.dumps(DASHBOARD).replace('"drawStyle": "line"', '"drawStyle": "lane"', 1))
    assert "lane" in _refused(tmp_path, home, wrong)


def _refused(tmp_path: Path, home: Path, dashboard: dict[str, Any]) -> str:
    """What the compiler says of the dashboard as a constant of the types."""
    lines = ["import type { Dashboard } from '@grafana/schema';", PLAIN]
    for kind, name in TYPES.items():
        place = f"@grafana/schema/dist/esm/raw/composable/{kind}/panelcfg/x/{name}PanelCfg_types.gen"
        lines.append(f"import type * as {kind} from '{place}';")
    lines.append(f"export const dashboard: Plain<Dashboard> = {json.dumps(dashboard)};")
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            continue
        number, kind = panel["id"], panel["type"]
        lines.append(f"export const options{number}: Plain<{kind}.Options> = {json.dumps(panel['options'])};")
        if (custom := panel["fieldConfig"]["defaults"].get("custom")) is not None:
            lines.append(f"export const field{number}: Plain<{kind}.FieldConfig> = {json.dumps(custom)};")
    source = tmp_path / "dashboard.ts"
    source.write_text("\n".join(lines), encoding="utf-8")
    flags = "--strict --noEmit --skipLibCheck --target es2022 --module nodenext --moduleResolution nodenext"
    compiler = ["node", home / "node_modules/typescript/bin/tsc", *flags.split(), source.name]
    return subprocess.run(compiler, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
