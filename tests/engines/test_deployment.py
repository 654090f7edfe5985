"""Image, compose file, units and YAML of `deploy/`, as the linters and schemas of their own trades see them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.engines.conftest import Checkov
from tests.engines.parts import ROOT

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
YAML = sorted(
    path
    for folder in (DEPLOY, ROOT / "config")
    for path in folder.rglob("*.yaml")
    if "templates" not in path.parts  # text for Helm, which is YAML once it is rendered
)
RULES = """{extends: default, rules: {document-start: disable, line-length: {max: 180, allow-non-breakable-inline-mappings: true},
  truthy: {check-keys: false}, braces: {max-spaces-inside: 0}, brackets: {max-spaces-inside: 0}, comments: {min-spaces-from-content: 1}}}"""
EXPOSURE = 2.0
"""Of 10, as systemd counts it: lower is better."""


def test_hadolint_is_content(deployment: Path) -> None:
    """With the image and with its argument in its place."""
    outcome = subprocess.run([deployment / "hadolint", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stdout) == (0, "")


def test_checkov_finds_nothing_in_the_image_but_what_is_meant(checkov: Checkov) -> None:
    """It takes the base image for an unpinned one, because an argument names it."""
    assert checkov("dockerfile", DOCKERFILE) == {"CKV_DOCKER_7"}


def test_the_compose_file_is_one(deployment: Path) -> None:
    """By the schema of the Compose specification."""
    command = [
        deployment / "check-jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        DEPLOY / "docker/compose.yaml",
    ]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout


def test_yamllint_is_content(deployment: Path) -> None:
    """Of every file that is YAML as it stands."""
    outcome = subprocess.run(
        [deployment / "yamllint", "--strict", "--config-data", RULES, *YAML],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (outcome.returncode, outcome.stdout) == (0, "")


@pytest.fixture
def systemd_analyze() -> Path:
    """The checker of units."""
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is not installed (Debian: apt install systemd)")
    return Path(found)


def test_systemd_accepts_the_units(systemd_analyze: Path, tmp_path: Path) -> None:
    """Each by itself, with a command in the place of one that is not installed here."""
    for unit in (DEPLOY / "systemd").iterdir():
        text = re.sub(r"/opt/lengthwise/bin/lengthwise", "/bin/true", unit.read_text(encoding="utf-8"))
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    for unit in sorted(tmp_path.iterdir()):
        outcome = subprocess.run([systemd_analyze, "verify", unit], capture_output=True, text=True, check=False)
        assert (outcome.returncode, outcome.stderr) == (0, ""), unit.name


def test_systemd_finds_the_service_well_contained(systemd_analyze: Path) -> None:
    """Its own count of what the service could still do."""
    unit = DEPLOY / "systemd" / "lengthwise.service"
    command = [systemd_analyze, "security", "--offline=true", "--no-pager", unit]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    (exposure,) = re.findall(r"Overall exposure level for lengthwise\.service: (\d+\.\d+)", outcome.stdout)
    assert float(exposure) <= EXPOSURE
