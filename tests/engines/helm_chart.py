"""Lints and renders a Helm chart without a cluster: `python helm_chart.py CHART`, values as JSON on stdin.

Run by the Python of an installed part. Prints a JSON object: lint (findings above information), and templates, the text of
each by its path; or refused, why the values are none of this chart's.
"""

import json
import sys

from helm_python import Chart, HelmError
from helm_python.chart import lint

INFORMATION = 1


def main(chart: str, values: dict[str, object]) -> dict[str, object]:
    """All of it."""
    try:
        with Chart.load(chart) as loaded:
            loaded.validate_schema(loaded.merge_values(values))
            templates = loaded.render(values, name="lw", namespace="llm")
    except HelmError as error:
        return {"refused": str(error)}
    report = lint(chart, values, strict=True)
    findings = [each for each in report["messages"] if each["severity"] > INFORMATION]
    return {"lint": findings + report["errors"], "templates": templates}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.load(sys.stdin))))
