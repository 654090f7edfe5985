"""Starts installed real parts, each in a process of its own on free ports of the loopback interface."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

import yaml

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "deploy" / "prometheus"
START_S = 240.0
STOP_S = 20.0
ARRIVE_S = 30.0
VLLM_PROJECT = "vllm"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}

_open = build_opener(ProxyHandler({})).open  # an outer proxy has no business between a test and this machine


@dataclass(frozen=True, slots=True)
class Engine:
    """A running inference engine."""

    name: str
    url: str
    """Without `/v1`."""
    model: str
    """What it calls its only model."""


@dataclass(frozen=True, slots=True)
class Phoenix:
    """A running trace backend."""

    url: str
    """OTLP over HTTP, and its API."""
    grpc_url: str
    """OTLP over gRPC."""

    def spans(self, project: str, count: int) -> list[dict[str, Any]]:
        """The spans of a project in the order of their start, as soon as there are at least `count`."""
        path = f"{self.url}/v1/projects/{project}/spans?limit=1000&sort=start_time&order=asc"
        return eventually(
            lambda: get_json(path, missing={"data": []})["data"], lambda spans: len(spans) >= count, f"{count} spans"
        )


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus that scrapes every second."""

    url: str

    def query(self, promql: str) -> list[dict[str, Any]]:
        """The instant vector of a query, as soon as it is not empty."""
        path = f"{self.url}/api/v1/query?{urlencode({'query': promql})}"
        return eventually(lambda: get_json(path)["data"]["result"], bool, f"result of {promql}")


def get_json(url: str, *, missing: Any = None) -> Any:
    """The parsed body of a GET; `missing` for a 404 where one is given."""
    try:
        with _open(url, timeout=10) as answer:
            return json.load(answer)
    except HTTPError as error:
        with error:
            if error.code == 404 and missing is not None:
                return missing
            raise AssertionError(f"{url}: {error.code} {error.read()[:500]!r}") from None


def eventually(read: Callable[[], Any], holds: Callable[[Any], bool], what: str) -> Any:
    """What `read` gives as soon as it holds.

    Raises:
        AssertionError: it never did.
    """
    deadline_s = time.monotonic() + ARRIVE_S
    while True:
        value = read()
        if holds(value):
            return value
        assert time.monotonic() < deadline_s, f"no {what} after {ARRIVE_S:.0f} s, but {value!r}"
        time.sleep(0.1)


def free_port() -> int:
    """A port of the loopback interface that nothing listened on a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(arguments: list[str], *, ready_url: str, folder: Path, env: Mapping[str, str]) -> Iterator[None]:
    """Runs a command until the block ends; the block begins when `ready_url` answers 200.

    Raises:
        AssertionError: it ended or stayed silent; with the end of what it wrote.
    """
    log = folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments,
            cwd=folder,
            env=os.environ | dict(env),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its children can be ended with it
        )
    try:
        deadline_s = time.monotonic() + START_S
        while not _answers(ready_url):
            gone = process.poll() is not None
            if gone or time.monotonic() > deadline_s:
                tail = log.read_text(encoding="utf-8", errors="replace")[-3000:]
                raise AssertionError(f"{arguments[0]} {'ended' if gone else 'is not ready'}:\n{tail}")
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with _open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


@contextlib.contextmanager
def vllm(command: Path, model: Path, folder: Path, backend: Phoenix | None) -> Iterator[Engine]:
    """Runs vLLM on the CPU; its own spans go to `backend`, into project `VLLM_PROJECT`."""
    port = free_port()
    # Nice, so that what observes it gets a processor when something arrives: it would take all of a small machine.
    arguments = ["nice", str(command), "serve", str(model), "--served-model-name", "tiny"]
    arguments += [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--dtype",
        "float32",
        "--max-model-len",
        "512",
        "--enforce-eager",
    ]
    arguments += ["--max-num-seqs", "4"]
    if backend is not None:
        arguments += ["--otlp-traces-endpoint", f"{backend.url}/v1/traces"]
    env = OFFLINE | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "OTEL_RESOURCE_ATTRIBUTES": f"openinference.project.name={VLLM_PROJECT}",
    }
    url = f"http://127.0.0.1:{port}"
    with running(arguments, ready_url=f"{url}/health", folder=folder, env=env):
        yield Engine("vllm", url, "tiny")


@contextlib.contextmanager
def transformers_serve(command: Path, model: Path, folder: Path) -> Iterator[Engine]:
    """The server that comes with transformers."""
    port = free_port()
    arguments = [str(command), "serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    (folder / "hub").mkdir()  # without this folder its model list is an error
    url = f"http://127.0.0.1:{port}"
    with running(arguments, ready_url=f"{url}/health", folder=folder, env=OFFLINE | {"HF_HOME": str(folder)}):
        yield Engine("transformers", url, str(model))


@contextlib.contextmanager
def guidellm(command: Path, folder: Path) -> Iterator[Engine]:
    """The mock server that comes with guidellm: the same words to everybody, one token for each event."""
    port = free_port()
    arguments = [str(command), "mock-server", "--host", "127.0.0.1", "--port", str(port), "--model", "gpt-4o"]
    arguments += ["--ttft-ms", "30", "--itl-ms", "3", "--output-tokens", "16"]
    url = f"http://127.0.0.1:{port}"
    with running(arguments, ready_url=f"{url}/health", folder=folder, env=OFFLINE):
        yield Engine("guidellm", url, "gpt-4o")


@contextlib.contextmanager
def llama_cpp(command: Path, model: Path, folder: Path) -> Iterator[Engine]:
    """The server that comes with llama-cpp-python."""
    port = free_port()
    arguments = [str(command), "-m", "llama_cpp.server", "--model", str(model), "--model_alias", "tiny"]
    arguments += ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", "512", "--n_threads", "1"]
    url = f"http://127.0.0.1:{port}"
    with running(arguments, ready_url=f"{url}/v1/models", folder=folder, env=OFFLINE):
        yield Engine("llama_cpp", url, "tiny")


@contextlib.contextmanager
def phoenix(command: Path, folder: Path) -> Iterator[Phoenix]:
    """Arize Phoenix with an empty database."""
    port, grpc_port = free_port(), free_port()
    env = {
        "PHOENIX_WORKING_DIR": str(folder),
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(grpc_port),
        "PHOENIX_TELEMETRY_ENABLED": "false",
    }
    url = f"http://127.0.0.1:{port}"
    with running([str(command), "serve"], ready_url=f"{url}/healthz", folder=folder, env=env):
        yield Phoenix(url, f"http://127.0.0.1:{grpc_port}")


@contextlib.contextmanager
def simulator(folder: Path) -> Iterator[str]:
    """The simulated provider; yields its URL without `/v1`."""
    port = free_port()
    arguments = [sys.executable, "-m", "proxy.cli", "simulate", "--listen", f"127.0.0.1:{port}"]
    url = f"http://127.0.0.1:{port}"
    env = {"PYTHONPATH": str(ROOT)}
    with running(
        [*arguments, "--ttft-ms", "60", "--tpot-ms", "1"], ready_url=f"{url}/v1/models", folder=folder, env=env
    ):
        yield url


@contextlib.contextmanager
def prometheus(command: Path, target: str, folder: Path, alertmanager: str | None = None) -> Iterator[Prometheus]:
    """Prometheus with what `deploy/prometheus` ships, but for a scrape each second, and alerts that wait for nothing.

    It scrapes `/metrics` of `target` (HOST:PORT) and tells `alertmanager` (HOST:PORT) what fires.
    """
    settings = yaml.safe_load((SHIPPED / "prometheus.yaml").read_text(encoding="utf-8"))
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    if alertmanager is None:
        del settings["alerting"]
    else:
        settings["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [alertmanager]
    for name in settings["rule_files"]:
        rules = yaml.safe_load((SHIPPED / name).read_text(encoding="utf-8"))
        for rule in (rule for group in rules["groups"] for rule in group["rules"]):
            rule.pop("for", None)
        (folder / name).write_text(yaml.safe_dump(rules), encoding="utf-8")
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    port = free_port()
    arguments = [str(command), f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
    arguments += [f"--web.listen-address=127.0.0.1:{port}"]
    url = f"http://127.0.0.1:{port}"
    with running(arguments, ready_url=f"{url}/-/ready", folder=folder, env={}):
        yield Prometheus(url)


@contextlib.contextmanager
def alertmanager(command: Path, folder: Path) -> Iterator[str]:
    """Alertmanager with the routes of `deploy/prometheus`, whose receivers tell nobody; yields its HOST:PORT."""
    settings = yaml.safe_load((SHIPPED / "alertmanager.yaml").read_text(encoding="utf-8"))
    settings["receivers"] = [{"name": receiver["name"]} for receiver in settings["receivers"]]
    (folder / "alertmanager.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    arguments = [str(command), f"--config.file={folder / 'alertmanager.yaml'}", f"--storage.path={folder / 'data'}"]
    arguments += [f"--web.listen-address={address}", "--cluster.listen-address="]
    with running(arguments, ready_url=f"http://{address}/-/ready", folder=folder, env={}):
        yield address
