"""The settings: every key with its default and check, and the way from file, variables and flags to one frozen value.

Layer: settings, above policy; everything that runs is given a `Settings` and reads no configuration itself.

A flag beats a `LENGTHWISE_` variable, which beats a standard `OTEL_` variable (telemetry only), which beats the file. All
four are laid over each other as one document, which is then read once: the dataclasses below are its grammar. Every
mistake is reported, with the key path, variable or flag where it stands. No message quotes a value, but the path of a file
that is not there.

Source: ARCHITECTURE.md 7 "Settings".
"""

import hashlib
import ipaddress
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import orjson

from proxy.errors import Mistake, SettingsError
from proxy.policy import rules
from proxy.policy.document import (
    REQUIRED,
    boolean,
    integer,
    label,
    list_of,
    member,
    number,
    one_of,
    optional,
    refuse,
    section,
    sub_path,
    text,
    wrong,
)
from proxy.policy.rules import EMPTY, PolicySet

__all__ = [
    "DEFAULT_FILE",
    "Address",
    "Ledger",
    "Limits",
    "ListenTls",
    "Logs",
    "Settings",
    "Telemetry",
    "Timeouts",
    "Upstream",
    "UpstreamTls",
    "admin_address",
    "digest",
    "from_json",
    "ledger_path",
    "load",
    "load_policies",
    "names_proxy",
    "to_json",
]

DEFAULT_FILE = Path("lengthwise.yaml")
"""Read when no file is named and this one exists in the current directory."""

_PREFIX = "LENGTHWISE_"
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
_ADDRESS = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>\d{1,5})", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_VISIBLE = re.compile(r"[!-~]+")
_URL_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,=:@-]+)*", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_NEEDED_HEADERS = {"authorization", "connection", "content-encoding", "content-length", "content-type", "host"}
_LIMIT_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z_][A-Za-z0-9_-]*)*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen."""

    host: str
    """Name or IP address, IPv6 without brackets."""
    port: int
    """0 lets the system choose."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True when only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


def _address(value: object, path: str, mistakes: list[Mistake]) -> Any:
    expected = "host:port such as 127.0.0.1:8080 or [::1]:8080"
    if not isinstance(value, str):
        return wrong(expected, value, path, mistakes)
    found = _ADDRESS.fullmatch(value)
    if not found or int(found["port"]) > 65535:
        return refuse(f"expected {expected}", path, mistakes)
    if found["v6"] and not _is_host(found["v6"]):
        return refuse(f"expected {expected}", path, mistakes)
    return Address(found["v6"] or found["host"], int(found["port"]))


def _is_host(host: str) -> bool:
    try:
        return _HOST.fullmatch(host) is not None or ipaddress.IPv6Address(host).version == 6
    except ValueError:
        return False


def _workers(value: object, path: str, mistakes: list[Mistake]) -> Any:
    if value == "auto":
        return _processors()
    if type(value) is not int:
        return wrong("a whole number of at least 1, or auto", value, path, mistakes)
    return integer(1)(value, path, mistakes)


def _processors() -> int:
    """Processors that this process may use: its affinity, less where its control group has a quota (Linux, cgroup v2)."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        count = os.cpu_count() or 1
    try:
        quota_us, period_us = _CPU_MAX.read_text(encoding="ascii").split()
        return max(1, min(count, math.ceil(int(quota_us) / int(period_us))))
    except (OSError, ValueError):  # no such file, or `max`
        return count


def _path(value: object, path: str, mistakes: list[Mistake]) -> Any:
    found = text(value, path, mistakes)
    return found and Path(found)


def _path_or_none(value: object, path: str, mistakes: list[Mistake]) -> Any:
    return None if value == "none" else _path(value, path, mistakes)


def _header_name(value: object, path: str, mistakes: list[Mistake]) -> Any:
    if not isinstance(value, str) or not _HEADER_NAME.fullmatch(value):
        return refuse("expected the name of a header", path, mistakes)
    if value.lower() in _NEEDED_HEADERS:
        return refuse("upstreams need this header, but app_header is not forwarded", path, mistakes)
    return value.lower()


def _variable_name(value: object, path: str, mistakes: list[Mistake]) -> Any:
    if not isinstance(value, str) or not _VARIABLE.fullmatch(value):
        return refuse("expected the name of an environment variable, never a credential", path, mistakes)
    return value


def _url(value: object, path: str, mistakes: list[Mistake]) -> Any:
    expected = "an http or https URL such as https://api.openai.com"
    if not isinstance(value, str):
        return wrong(expected, value, path, mistakes)
    try:
        split = urlsplit(value)
        host = split.hostname
    except ValueError:
        return refuse(f"expected {expected}", path, mistakes)
    if _port(split) == 0:
        return refuse(f"expected {expected}, with a port from 1 to 65535 if any", path, mistakes)
    # urlsplit drops line ends and tabs and allows blanks; nothing of that kind may reach a request line.
    if split.scheme not in {"http", "https"} or not _VISIBLE.fullmatch(value) or not _is_host(host or ""):
        return refuse(f"expected {expected}", path, mistakes)
    if "@" in split.netloc:
        return refuse("must not carry a user or password", path, mistakes)
    if "?" in value or "#" in value:
        return refuse("must not carry a query or fragment", path, mistakes)
    if not _URL_PATH.fullmatch(split.path.rstrip("/")) or {".", ".."} & set(split.path.split("/")):
        return refuse(f"expected {expected}, with a plain path if any", path, mistakes)
    return value


def _port(split: SplitResult) -> int | None:
    """The port of a URL; None when it has none, 0 when it is no port."""
    try:
        return split.port
    except ValueError:
        return 0


def _upstream_prefix(value: object, path: str, mistakes: list[Mistake]) -> Any:
    expected = 'whole path segments such as "/azure", or ""'
    if not isinstance(value, str):
        return wrong(expected, value, path, mistakes)
    bare = value.strip("/")
    segments = f"/{bare}" if bare else ""
    if not _URL_PATH.fullmatch(segments) or {".", ".."} & set(segments.split("/")):
        return refuse(f"expected {expected}", path, mistakes)
    return segments


def _keys(value: object, path: str, mistakes: list[Mistake]) -> Any:
    if not isinstance(value, Mapping):
        return wrong("a mapping of names to sha256 digests", value, path, mistakes)
    for each, hexadecimal in value.items():
        at = sub_path(path, each)
        label(each, at, mistakes)
        if not isinstance(hexadecimal, str) or not _SHA256.fullmatch(hexadecimal):
            refuse("expected the sha256 of a token as 64 lower-case hex digits, never the token", at, mistakes)
    return dict(value)


def _limit_field(value: object, path: str, mistakes: list[Mistake]) -> Any:
    if not isinstance(value, str) or not _LIMIT_FIELD.fullmatch(value):
        return refuse(
            "expected the name of a member, or of one inside an object, such as options.num_predict", path, mistakes
        )
    return value


_seconds = optional(number(above=0))


@dataclass(frozen=True, slots=True)
class ListenTls:
    """TLS of the data port."""

    cert_file: Path = member(REQUIRED, _path)
    key_file: Path = member(REQUIRED, _path)
    client_ca_file: Path | None = member(None, optional(_path))
    """Authorities of client certificates, which are required then."""


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """TLS to an upstream."""

    verify: bool = member(True, boolean)
    ca_file: Path | None = member(None, optional(_path))
    """None: the authorities of the system."""
    cert_file: Path | None = member(None, optional(_path))
    key_file: Path | None = member(None, optional(_path))
    """None: the key stands in `cert_file`."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """One place that requests are sent to."""

    name: str = member(REQUIRED, label)
    url: str = member(REQUIRED, _url)
    prefix: str = member("", _upstream_prefix)
    """'' or whole path segments with a leading and no trailing slash."""
    provider: str = member("openai", text)
    usage: str = member("inject", one_of("inject", "deliver", "observe"))
    insert_field: str = member("auto", one_of("auto", "max_completion_tokens", "max_tokens"))
    api_key_env: str | None = member(None, optional(_variable_name))
    tls: UpstreamTls = member(UpstreamTls(), section(UpstreamTls))
    proxy_env: bool = member(False, boolean)

    @property
    def _split(self) -> SplitResult:
        return urlsplit(self.url)

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        return self._split.scheme

    @property
    def host(self) -> str:
        """Lower-case name or IP address, IPv6 without brackets."""
        return self._split.hostname or ""

    @property
    def port(self) -> int:
        """As written, or the scheme's own."""
        return self._split.port or (443 if self.scheme == "https" else 80)

    @property
    def base_path(self) -> str:
        """Path in front of the client's own: '' or segments with a leading and no trailing slash."""
        return self._split.path.rstrip("/")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Longest waits in seconds; None waits forever."""

    connect_s: float | None = member(10.0, _seconds)
    first_byte_s: float | None = member(600.0, _seconds)
    idle_s: float | None = member(300.0, _seconds)
    client_body_s: float | None = member(60.0, _seconds)
    keepalive_s: float | None = member(75.0, _seconds)
    drain_s: float | None = member(30.0, _seconds)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of memory and of what is let through."""

    header_bytes: int = member(65536, integer(1024))
    observed_body_bytes: int = member(33554432, integer(1024))
    event_bytes: int = member(1048576, integer(1024))
    in_flight: int = member(0, integer(0))
    """Exchanges per worker; 0 is no limit."""
    unknown_routes: str = member("pass", one_of("pass", "block"))
    upgrades: str = member("pass", one_of("pass", "block"))
    limit_fields: tuple[str, ...] = member((), list_of(_limit_field))
    """Dotted paths that are limits of the output besides those that are known."""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What the recorder exports."""

    service_name: str = member("lengthwise", text)
    traces: str = member("otlp", one_of("otlp", "none"))
    metrics: str = member("otlp", one_of("otlp", "none"))
    prometheus: bool = member(True, boolean)
    sample_ratio: float = member(1.0, number(between=(0.0, 1.0)))
    genai: str = member("full", one_of("full", "no_usage", "off"))
    compat: tuple[str, ...] = member((), list_of(one_of("langfuse", "signoz")))
    models: tuple[str, ...] = member((), list_of(text))
    """Models that may be labels; empty: the first 50 seen."""
    propagate: bool = member(True, boolean)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Records on disk."""

    path: Path | None = member(Path("lengthwise.sqlite"), optional(_path_or_none))
    """None: no ledger; also written `none`."""
    keep_days: float = member(30.0, number(above=0))


@dataclass(frozen=True, slots=True)
class Logs:
    """What is written to stderr."""

    level: str = member("info", one_of("debug", "info", "warning", "error"))
    format: str = member("console", one_of("console", "json"))
    exchanges: bool = member(False, boolean)
    """True: one line for each exchange, without content."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the file, variables and flags can say. Paths are absolute once loaded."""

    listen: Address = member(Address("127.0.0.1", 8080), _address)
    listen_tls: ListenTls | None = member(None, optional(section(ListenTls)))
    admin: Address = member(Address("127.0.0.1", 9464), _address)
    workers: int = member(1, _workers)
    upstreams: tuple[Upstream, ...] = member(
        (Upstream("openai", "https://api.openai.com"),), list_of(section(Upstream), minimum=1)
    )
    policies: Path | None = member(Path("policies.yaml"), optional(_path_or_none))
    """None: no policies; also once loaded, when the default file does not exist."""
    keys: dict[str, str] = field(default_factory=dict, metadata={"read": _keys})
    """Name to lower-case hex sha256 of the client's token."""
    app_header: str = member("x-lengthwise-app", _header_name)
    """Lower case."""
    timeouts: Timeouts = member(Timeouts(), section(Timeouts))
    limits: Limits = member(Limits(), section(Limits))
    telemetry: Telemetry = member(Telemetry(), section(Telemetry))
    ledger: Ledger = member(Ledger(), section(Ledger))
    logs: Logs = member(Logs(), section(Logs))


def to_json(settings: Settings) -> bytes:
    """Encode settings as a JSON document of the file's own grammar."""
    return orjson.dumps(settings, default=_plain, option=orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_SORT_KEYS)


def from_json(data: bytes) -> Settings:
    """Decode what `to_json` made.

    Raises:
        SettingsError: the data are no settings.
    """
    mistakes: list[Mistake] = []
    settings: Settings = section(Settings)(orjson.loads(data), "", mistakes)
    if mistakes:
        raise SettingsError(mistakes)
    return settings


def digest(settings: Settings) -> str:
    """First 12 hex digits of the sha256 of the settings: equal settings have equal digests."""
    return hashlib.sha256(to_json(settings)).hexdigest()[:12]


def _plain(value: object) -> Any:
    if isinstance(value, Address | Path):
        return str(value)
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    raise TypeError(type(value).__name__)


# File, variables and flags, laid over each other --------------------------------------------------------------------

_FLAGS = {
    "listen": ("listen",),
    "admin": ("admin",),
    "upstream": ("upstreams", "0", "url"),
    "policies": ("policies",),
    "ledger": ("ledger", "path"),
    "workers": ("workers",),
    "log-level": ("logs", "level"),
    "log-format": ("logs", "format"),
}


def load(
    config: Path | None, flags: Mapping[str, object], environ: Mapping[str, str]
) -> tuple[Settings, PolicySet, list[str]]:
    """Read the configuration: settings, policies, and warnings about what is allowed but hardly meant.

    Args:
        config: The settings file; None takes `lengthwise.yaml` of the current directory if there is one.
        flags: by their names without dashes in front, such as `listen` or `log-level`, as typed; None is not given.
        environ: The environment.

    Raises:
        SettingsError: with every mistake in settings and policies.
    """
    mistakes: list[Mistake] = []
    warnings: list[str] = []
    file = config or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    document = {} if file is None else _read_yaml(file, mistakes)
    if document is not None and not isinstance(document, dict):
        document = wrong("a mapping", document, "", mistakes)
    mistakes = [Mistake(m.path or str(file), m.message) for m in mistakes]
    layers = _Layers(document or {}, mistakes)
    _lay_otel(layers, environ, warnings)
    _lay_variables(layers, environ)
    _lay_flags(layers, flags)

    found: list[Mistake] = []
    settings: Settings = section(Settings)(layers.document, "", found)
    folder = Path.cwd() if file is None else file.absolute().parent
    settings = _absolute(settings, "", lambda path: Path.cwd() if layers.origin(path) else folder)
    if layers.document.get("policies") is None and settings.policies and not settings.policies.exists():
        settings = replace(settings, policies=None)
    _check(settings, environ, found)
    mistakes += [renamed for mistake in found for renamed in layers.renamed(mistake)]
    warnings += _warnings(settings)
    policies = EMPTY
    if settings.policies and settings.policies.is_file():
        try:
            policies = load_policies(settings.policies, settings)
        except SettingsError as error:
            mistakes += error.mistakes
    if mistakes:
        raise SettingsError(mistakes)
    return settings, policies, warnings


def ledger_path(environ: Mapping[str, str]) -> Path | None:
    """Where `serve`, started in the current directory, keeps its ledger; None for nowhere.

    Whoever reads a ledger needs no upstream and no credential, so mistakes elsewhere in the settings do not matter here.

    Raises:
        SettingsError: with every mistake on the way to the path.
    """
    mistakes: list[Mistake] = []
    document = _read_yaml(DEFAULT_FILE, mistakes) if DEFAULT_FILE.exists() else {}
    layers = _Layers(document if isinstance(document, dict) else {}, mistakes)
    _lay_variables(layers, environ)
    ledger: Ledger | None = section(Ledger)(layers.document.get("ledger", {}), "ledger", mistakes)
    mistakes = [mistake for mistake in mistakes if not mistake.path or mistake.path.startswith("ledger")]
    if mistakes or ledger is None:
        raise SettingsError([Mistake(mistake.path or str(DEFAULT_FILE), mistake.message) for mistake in mistakes])
    return ledger.path


def admin_address(config: Path | None, flag: str | None, environ: Mapping[str, str]) -> Address:
    """Where a running service's admin port is: as the flag says, else as its settings do, whatever its policies are.

    Raises:
        SettingsError: the settings have mistakes, or leave the port to the system.
    """
    if flag is None:
        settings, _, _ = load(config, {}, {**environ, f"{_PREFIX}POLICIES": "null"})
        address, origin = settings.admin, "admin"
    else:
        mistakes: list[Mistake] = []
        origin = "--admin"
        address = _address(flag, origin, mistakes)
        if mistakes:
            raise SettingsError(mistakes)
    if not address.port:
        raise SettingsError([Mistake(origin, "port 0 is any free one: name the port that serve printed, with --admin")])
    return address


def load_policies(path: Path, settings: Settings | None = None) -> PolicySet:
    """Read a policies file; with `settings`, the upstreams and keys that rules name must exist there.

    Raises:
        SettingsError: with every mistake; their paths start with the file's name.
    """
    mistakes: list[Mistake] = []
    policies = EMPTY
    document = _read_yaml(path, mistakes)
    if not mistakes:
        try:
            policies = rules.parse(document)
        except SettingsError as error:
            mistakes = error.mistakes
    if settings:
        upstreams, keys = {upstream.name for upstream in settings.upstreams or () if upstream}, settings.keys or {}
        for index, rule in enumerate(policies.rules):
            at = f"rules[{index}].match"
            for name in sorted((rule.match.upstream or frozenset()) - upstreams):
                refuse(f'the settings have no upstream named "{name}"', f"{at}.upstream", mistakes)
            for name in sorted((rule.match.key or frozenset()) - set(keys)):
                refuse(f'the settings have no key named "{name}"', f"{at}.key", mistakes)
    if mistakes:
        raise SettingsError([Mistake(f"{path.name}: {m.path}" if m.path else path.name, m.message) for m in mistakes])
    return policies


def _read_yaml(path: Path, mistakes: list[Mistake]) -> Any:
    from proxy import narrow_yaml  # noqa: PLC0415 -- workers and recorder get JSON, and start sooner without it

    return narrow_yaml.read(path, mistakes)


class _Layers:
    """The file's document with values laid over it, and which variable or flag each came from."""

    def __init__(self, document: dict[str, Any], mistakes: list[Mistake]) -> None:
        self.document = document
        self.mistakes = mistakes
        self._origins: dict[str, str] = {}
        self._opened: dict[str, list[str]] = {}

    def lay(self, steps: tuple[str, ...], value: object, origin: str) -> None:
        """Set the value at a key path; missing mappings and the next element of a list are made on the way."""
        target: Any = self.document
        if steps[0] == "upstreams" and len(steps) > 1 and "upstreams" not in target:
            # The built-in upstream is there to be changed in parts, as if the file had it.
            target["upstreams"] = [{"name": each.name, "url": each.url} for each in Settings().upstreams]
        path = ""
        for position, step in enumerate(steps):
            at: Any = step
            if isinstance(target, list):
                if not step.isdecimal() or int(step) > len(target):
                    refuse(f"{path} is a list of {len(target)} and has no element {step}", origin, self.mistakes)
                    return
                at = int(step)
                target += [None] * (at == len(target))
            elif not isinstance(target, dict):
                refuse(f"{path} is neither a mapping nor a list", origin, self.mistakes)
                return
            path = sub_path(path, at)
            if position == len(steps) - 1:
                target[at] = value
                self._origins[path] = origin
                return
            if (target[at] if isinstance(target, list) else target.get(at)) is None:
                target[at] = [] if steps[position + 1].isdecimal() else {}
                self._opened[path] = []
            if path in self._opened:
                self._opened[path].append(origin)
            target = target[at]

    def origin(self, path: str) -> tuple[str, str] | None:
        """The variable or flag that a key path was laid by, and the rest of the path below it; None for the file's."""
        for end in sorted({match.start() for match in re.finditer(r"[.\[]", path)} | {len(path)}, reverse=True):
            if path[:end] in self._origins:
                return self._origins[path[:end]], path[end:]
        return None

    def renamed(self, mistake: Mistake) -> list[Mistake]:
        """The mistake at the variable or flag that made it; one for each when several opened an unknown mapping."""
        if mistake.path in self._opened:
            return [Mistake(origin, mistake.message) for origin in self._opened[mistake.path]]
        origin = self.origin(mistake.path)
        return [Mistake("".join(origin), mistake.message) if origin else mistake]


def _lay_otel(layers: _Layers, environ: Mapping[str, str], warnings: list[str]) -> None:
    """Lay the standard variables that say the same as a key of `telemetry`; empty ones count as unset.

    Source: OpenTelemetry specification, Environment Variable Specification.
    """

    def lay(key: str, value: object, variable: str) -> None:
        layers.lay(("telemetry", key), value, variable)

    if name := environ.get("OTEL_SERVICE_NAME"):
        lay("service_name", name, "OTEL_SERVICE_NAME")
    for signal in ("traces", "metrics"):
        variable = f"OTEL_{signal.upper()}_EXPORTER"
        exporter = environ.get(variable, "").strip()
        if exporter in {"otlp", "none"}:
            lay(signal, exporter, variable)
        elif exporter:
            warnings.append(f"{variable}: ignored; only otlp and none are known")
    sampler, argument = (
        environ.get("OTEL_TRACES_SAMPLER", "").strip(),
        environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip(),
    )
    match sampler.removeprefix("parentbased_"):
        case "":
            pass
        case "always_on":
            lay("sample_ratio", 1.0, "OTEL_TRACES_SAMPLER")
        case "always_off":
            lay("sample_ratio", 0.0, "OTEL_TRACES_SAMPLER")
        case "traceidratio":
            try:
                lay("sample_ratio", float(argument or 1), "OTEL_TRACES_SAMPLER_ARG")
            except ValueError:
                warnings.append("OTEL_TRACES_SAMPLER_ARG: ignored; it is no number")
        case _:
            warnings.append("OTEL_TRACES_SAMPLER: ignored; only always_on, always_off and traceidratio are known")
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        lay("traces", "none", "OTEL_SDK_DISABLED")
        lay("metrics", "none", "OTEL_SDK_DISABLED")


def _lay_variables(layers: _Layers, environ: Mapping[str, str]) -> None:
    ours = {name: tuple(name[len(_PREFIX) :].lower().split("__")) for name in environ if name.startswith(_PREFIX)}
    # A whole section comes before its parts, element 2 before element 10.
    for name in sorted(ours, key=lambda each: (len(ours[each]), [step.zfill(4) for step in ours[each]])):
        from proxy import narrow_yaml  # noqa: PLC0415 -- as below

        layers.lay(ours[name], narrow_yaml.read_value(environ[name], name, layers.mistakes), name)


def _lay_flags(layers: _Layers, flags: Mapping[str, object]) -> None:
    for name, steps in _FLAGS.items():
        value = flags.get(name)
        if value is None:
            continue
        if name == "ledger" and not value:
            value = None
        if name == "workers" and isinstance(value, str) and value.isdecimal():
            value = int(value)
        layers.lay(steps, str(value) if isinstance(value, Path) else value, f"--{name}")


# What only the whole can tell ---------------------------------------------------------------------------------------


def _absolute(value: Any, path: str, base: Callable[[str], Path]) -> Any:
    """The value with every path in it resolved against the folder that `base` names for its key path."""
    if isinstance(value, Path):
        return base(path) / value
    if isinstance(value, tuple):
        return tuple(_absolute(element, sub_path(path, index), base) for index, element in enumerate(value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value,
            **{
                each.name: _absolute(getattr(value, each.name), sub_path(path, each.name), base)
                for each in fields(value)
            },
        )
    return value


def _check(settings: Settings, environ: Mapping[str, str], mistakes: list[Mistake]) -> None:
    """Report what single values cannot show; whatever could not be read is None and was reported already."""
    _check_unique("name", [each.name if each else None for each in settings.upstreams or ()], mistakes)
    _check_unique("prefix", [each.prefix if each else None for each in settings.upstreams or ()], mistakes)
    if settings.listen and settings.listen == settings.admin and settings.listen.port:
        refuse("must differ from listen", "admin", mistakes)
    digests: dict[str, str] = {}
    for name, token in (settings.keys or {}).items():
        if digests.setdefault(token, name) != name:
            refuse(f"{sub_path('keys', digests[token])} is the same token", sub_path("keys", name), mistakes)
    if settings.policies and not settings.policies.is_file():
        refuse(f"there is no such file: {settings.policies}", "policies", mistakes)
    if settings.ledger and settings.ledger.path:
        _check_ledger(settings.ledger.path, mistakes)
    if settings.listen_tls:
        _check_files(settings.listen_tls, "listen_tls", mistakes)
    for index, upstream in enumerate(settings.upstreams or ()):
        if upstream is None:
            continue
        at = sub_path("upstreams", index)
        if upstream.api_key_env:
            # Files of keys end with a line end, which is none of the key.
            credential = environ.get(upstream.api_key_env, "").strip()
            if not credential:
                refuse("the environment variable that it names is not set", f"{at}.api_key_env", mistakes)
            elif not _VISIBLE.fullmatch(credential):
                refuse(
                    "the environment variable that it names holds more than visible ASCII characters, so no credential",
                    f"{at}.api_key_env",
                    mistakes,
                )
            if not settings.keys and settings.listen and not settings.listen.is_loopback:
                refuse(
                    "needs keys unless listen is a loopback address: anyone who reaches it could use the credential",
                    f"{at}.api_key_env",
                    mistakes,
                )
        if upstream.tls:
            _check_files(upstream.tls, f"{at}.tls", mistakes)
            if upstream.tls.key_file and not upstream.tls.cert_file:
                refuse("needs cert_file", f"{at}.tls.key_file", mistakes)
    _check_proxies(settings, environ, mistakes)


def _check_ledger(file: Path, mistakes: list[Mistake]) -> None:
    if not file.parent.is_dir():
        refuse(f"its folder does not exist: {file.parent}", "ledger.path", mistakes)
    elif not os.access(file.parent, os.W_OK | os.X_OK):  # SQLite writes files beside it
        refuse(f"its folder cannot be written to: {file.parent}", "ledger.path", mistakes)
    elif file.is_dir():
        refuse(f"is a folder: {file}", "ledger.path", mistakes)


def _check_proxies(settings: Settings, environ: Mapping[str, str], mistakes: list[Mistake]) -> None:
    """Report variables that name a forward proxy which no connection could be made to."""
    if not names_proxy(environ):
        return
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined] # noqa: PLC0415 -- see names_proxy

    bypass = {"no": environ.get("no_proxy", environ.get("NO_PROXY", ""))}
    variables: dict[str, None] = {}
    for upstream in settings.upstreams or ():
        if upstream and upstream.url and upstream.proxy_env:
            name = f"{upstream.scheme}_proxy"
            if not proxy_bypass_environment(f"{upstream.host}:{upstream.port}", bypass):
                variables[name if name in environ else name.upper()] = None
    for variable in variables:
        value = environ.get(variable)
        if value and not _is_proxy(value if "//" in value else f"http://{value}"):
            refuse("expected the URL of a forward proxy such as http://proxy.example:3128", variable, mistakes)


def names_proxy(environ: Mapping[str, str]) -> bool:
    """True when a variable may name a forward proxy; where none does, the reader of such variables is not even imported, for a quicker start."""
    return any(name.lower().endswith("_proxy") for name in environ)


def _is_proxy(url: str) -> bool:
    try:
        split = urlsplit(url)
        host = split.hostname or ""
    except ValueError:
        return False
    plain = split.scheme in {"http", "https"} and split.path in {"", "/"} and _VISIBLE.fullmatch(url)
    return bool(plain) and _is_host(host) and _port(split) != 0


def _check_unique(key: str, values: list[str | None], mistakes: list[Mistake]) -> None:
    for index, value in enumerate(values):
        if value is not None and values.index(value) != index:
            refuse(f"upstreams[{values.index(value)}] has the same", f"upstreams[{index}].{key}", mistakes)


def _check_files(tls: ListenTls | UpstreamTls, path: str, mistakes: list[Mistake]) -> None:
    for each in fields(tls):
        file = getattr(tls, each.name)
        if isinstance(file, Path) and not (file.is_file() and os.access(file, os.R_OK)):
            refuse(f"there is no such file that can be read: {file}", f"{path}.{each.name}", mistakes)


def _warnings(settings: Settings) -> list[str]:
    found = []
    for index, upstream in enumerate(settings.upstreams or ()):
        if not upstream or not upstream.url:
            continue
        at = sub_path("upstreams", index)
        if upstream.base_path.endswith("/v1"):
            found.append(f"{at}.url: ends in /v1, which the client's own path brings: requests will go to /v1/v1/...")
        if upstream.scheme == "http" and upstream.tls != UpstreamTls():
            found.append(f"{at}.tls: has no effect on an http URL")
        elif upstream.tls and not upstream.tls.verify:
            found.append(f"{at}.tls.verify: false, so anyone on the way can read and change this upstream's traffic")
    return found
