"""Image, compose file and units agree with each other and with the settings' defaults."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.settings import Timeouts

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "docker/Dockerfile").read_text(encoding="utf-8")
AFTER_DRAIN_S = 3 + 4
"""What aborts late streams, and the recorder's last export."""


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The stack's services."""
    return yaml.safe_load((DEPLOY / "docker/compose.yaml").read_text(encoding="utf-8"))["services"]


def _drain_s() -> float:
    drain_s = Timeouts().drain_s
    assert drain_s is not None
    return drain_s


def test_the_image_runs_as_a_user_and_serves_on_the_ports_that_it_exposes() -> None:
    """Neither root nor the loopback interface, and the health check asks the admin port."""
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.MULTILINE)
    assert re.search(r"^EXPOSE 8080 9464$", last, re.MULTILINE)
    assert '"--listen", "0.0.0.0:8080", "--admin", "0.0.0.0:9464"' in last
    assert "9464" in last.partition("HEALTHCHECK")[2].partition("\nENTRYPOINT")[0]


def test_what_the_image_copies_is_there_and_is_sent_to_the_build() -> None:
    """Nothing that the build needs is ignored; nothing else is sent."""
    copied = {name for line in re.findall(r"^COPY ([^-\n]+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()}
    ignore = (DEPLOY / "docker/Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_the_health_check_tells_ready_from_not_ready() -> None:
    """The very command of the image: it fails where nothing answers, and succeeds on a 200."""
    (code,) = re.findall(r'CMD \["python", "-c", "(.+)"\]', DOCKERFILE)
    port = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); "
    answer = "c, _ = s.accept(); c.recv(999); c.sendall(b'HTTP/1.1 %d X\\r\\nContent-Length: 0\\r\\n\\r\\n'); c.recv(1)"
    codes = {}
    for status in (200, 503):
        with subprocess.Popen(
            [sys.executable, "-c", port + answer % status], stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            asked = code.replace("9464", server.stdout.readline().strip())
            codes[status] = subprocess.run([sys.executable, "-c", asked], check=False).returncode
    closed = code.replace("9464", "1")
    codes[0] = subprocess.run([sys.executable, "-c", closed], capture_output=True, check=False).returncode
    assert codes == {200: 0, 503: 1, 0: 1}


def test_every_image_of_the_stack_is_pinned(services: dict[str, Any]) -> None:
    """By a version, or it is the one that is built here."""
    images = {name: service["image"] for name, service in services.items()}
    built = {name for name, service in services.items() if "build" in service}
    assert built == {"lengthwise", "simulator", "traffic"}
    assert [image for name, image in images.items() if name not in built and not re.search(r":v?\d+\.\d+", image)] == []


def test_every_file_that_the_stack_mounts_is_there(services: dict[str, Any]) -> None:
    """A path that does not exist would be made, as an empty folder."""
    mounted = [
        volume.split(":")[0]
        for service in services.values()
        for volume in service.get("volumes", [])
        if volume.startswith(".")
    ]
    assert len(mounted) > 5
    assert [place for place in mounted if not (DEPLOY / "docker" / place).exists()] == []


def test_the_stack_listens_for_this_machine_alone(services: dict[str, Any]) -> None:
    """What is published is published to the loopback interface, and the admin port not at all."""
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []
    assert [port for port in published if port.endswith(":9464")] == []


def test_lengthwise_accepts_the_settings_of_the_stack(tmp_path: Path) -> None:
    """With the folders of the container in their places."""
    for name in ("lengthwise.yaml", "policies.yaml"):
        text = (DEPLOY / "docker/settings" / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("/var/lib/lengthwise", str(tmp_path)), encoding="utf-8")
    command = [sys.executable, "-m", "proxy.cli", "check", "--config", tmp_path / "lengthwise.yaml"]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stderr) == (0, "")


def test_whoever_stops_lengthwise_waits_for_its_drain(services: dict[str, Any]) -> None:
    """Docker and systemd kill later than the last stream may end."""
    unit = (DEPLOY / "systemd/lengthwise.service").read_text(encoding="utf-8")
    (unit_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    (stack_s,) = re.findall(r"^(\d+)s$", services["lengthwise"]["stop_grace_period"])
    assert min(float(unit_s), float(stack_s)) >= _drain_s() + AFTER_DRAIN_S
    assert "KillMode=mixed" in unit


def test_the_socket_unit_hands_over_one_socket() -> None:
    """The port of applications; the admin port is the service's own."""
    unit = (DEPLOY / "systemd/lengthwise.socket").read_text(encoding="utf-8")
    assert re.findall(r"^Listen\w+=(.+)$", unit, re.MULTILINE) == ["127.0.0.1:8080"]
