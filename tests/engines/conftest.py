"""The real parts, started when the first test asks for one; a test whose part is not installed is skipped."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engines import parts
from tests.engines.install import command, folder
from tests.engines.scripted import scripted


def _installed(part: str, name: str) -> Path:
    found = command(part, name)
    if found is None:
        pytest.skip(f"{part} is not installed in {folder()}: python tests/engines/install.py {part}")
    return found


def _tiny_model(part: str, target: Path, script_name: str = "tiny_model.py") -> Path:
    script = Path(__file__).with_name(script_name)
    subprocess.run([_installed(part, "python"), script, target], check=True, capture_output=True)
    return target


@pytest.fixture(scope="session")
def vllm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[parts.Engine]:
    """vLLM; where Phoenix is installed, its own spans go there."""
    serve, home = _installed("vllm", "vllm"), tmp_path_factory.mktemp("vllm")
    backend = request.getfixturevalue("phoenix") if command("phoenix", "phoenix") else None
    with parts.vllm(serve, _tiny_model("vllm", home / "tiny"), home, backend) as engine:
        yield engine


@pytest.fixture(scope="session")
def transformers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[parts.Engine]:
    """The server that comes with transformers."""
    serve, home = _installed("transformers", "transformers"), tmp_path_factory.mktemp("transformers")
    with parts.transformers_serve(serve, _tiny_model("transformers", home / "tiny"), home) as engine:
        yield engine


@pytest.fixture(scope="session")
def guidellm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[parts.Engine]:
    """The mock server that comes with guidellm."""
    serve = _installed("guidellm", "guidellm")
    with parts.guidellm(serve, tmp_path_factory.mktemp("guidellm")) as engine:
        yield engine


@pytest.fixture(scope="session")
def llama_cpp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[parts.Engine]:
    """The server that comes with llama-cpp-python."""
    python, home = _installed("llama", "python"), tmp_path_factory.mktemp("llama")
    with parts.llama_cpp(python, _tiny_model("llama", home / "tiny.gguf", "tiny_gguf.py"), home) as engine:
        yield engine


@pytest.fixture(scope="session", params=["vllm", "transformers"])
def engine(request: pytest.FixtureRequest) -> parts.Engine:
    """Each inference engine in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[parts.Phoenix]:
    """Arize Phoenix."""
    with parts.phoenix(_installed("phoenix", "phoenix"), tmp_path_factory.mktemp("phoenix")) as backend:
        yield backend


def _of_the_system(name: str, package: str) -> Path:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt install {package})")
    return Path(found)


@pytest.fixture(scope="session")
def prometheus_command() -> Path:
    """The command of an installed Prometheus."""
    return _of_the_system("prometheus", "prometheus")


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Prometheus' checker of settings and rules."""
    return _of_the_system("promtool", "prometheus")


@pytest.fixture(scope="session")
def alertmanager_command() -> Path:
    """The command of an installed Alertmanager."""
    if shutil.which("alertmanager"):  # its own name; Debian calls it otherwise
        return _of_the_system("alertmanager", "prometheus-alertmanager")
    return _of_the_system("prometheus-alertmanager", "prometheus-alertmanager")


@pytest.fixture(scope="session")
def amtool() -> Path:
    """Alertmanager's checker of settings."""
    return _of_the_system("amtool", "prometheus-alertmanager")


@pytest.fixture(scope="session")
def deployment() -> Path:
    """The folder of the commands that check what is deployed: helm's library, kubernetes-validate, hadolint, yamllint."""
    return _installed("deployment", "python").parent


@pytest.fixture(scope="session")
def provider() -> Iterator[str]:
    """URL of a scripted provider."""
    with scripted() as url:
        yield url


Checkov = Callable[[str, Path], set[str]]


@pytest.fixture(scope="session")
def checkov() -> Checkov:
    """Names of the checks that fail, by framework and by what is to be checked."""
    command = _installed("checkov", "checkov")

    def failed(framework: str, path: Path) -> set[str]:
        what = ["--directory" if path.is_dir() else "--file", path, "--framework", framework]
        how = ["--output", "json", "--quiet", "--skip-download"]  # it would ask its maker what the checks mean
        outcome = subprocess.run([command, *what, *how], capture_output=True, text=True, check=False)
        report = json.loads(outcome.stdout)
        assert report["summary"]["passed"] > 0, outcome.stderr
        return {each["check_id"] for each in report["results"]["failed_checks"]}

    return failed
