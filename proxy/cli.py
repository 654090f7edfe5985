"""The `lengthwise` command.

Exit codes: 0 ok, 1 a finding or a failure, 2 usage or configuration; 130 interrupted before anything was started.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson

from proxy import __version__, settings
from proxy.errors import RefusalError, SettingsError
from proxy.policy.rules import PolicySet

__all__ = ["main"]

_DESCRIPTION = """\
Lengthwise stands between your application and an OpenAI-compatible provider. Answers pass exactly as the provider sent
them; spans and metrics say what was asked for, what came and when; rules may lower max_tokens.
"""


_FLAGS = {
    "listen": ("HOST:PORT", "where applications connect; port 0: any free one"),
    "admin": ("HOST:PORT", "health, metrics and status"),
    "upstream": ("URL", "the provider, such as https://api.openai.com"),
    "policies": ("FILE", "rules; none: no rules, not even those of ./policies.yaml"),
    "ledger": ("FILE", "SQLite file for the records; none: no ledger"),
    "workers": ("N", "relay processes, or auto"),
    "log-level": ("LEVEL", "debug, info, warning or error"),
    "log-format": ("FORMAT", "console or json"),
}

_EXTRAS = {"numpy": "report", "plotly": "report", "rich": "report"}
"""The extra that installs a module which some commands alone need."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="lengthwise", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"lengthwise {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the proxy", description="Run the proxy until SIGTERM or Ctrl-C.")
    serve.set_defaults(run=_serve)
    check = commands.add_parser(
        "check",
        help="check settings and policies",
        description="Report every mistake of the configuration at once, each with its key path. Exit 2 if there is one.",
    )
    check.set_defaults(run=_check)
    for command in (serve, check):
        command.add_argument(
            "--config", type=Path, metavar="FILE", help="settings; default: ./lengthwise.yaml where it exists"
        )
        for name, (metavar, text) in _FLAGS.items():
            command.add_argument(f"--{name}", metavar=metavar, help=text)

    check.add_argument(
        "--explain",
        type=Path,
        metavar="REQUEST.json",
        help="also tell which rule decides this request body and what would be sent; exit 1 when it would be refused",
    )
    check.add_argument("--path", default="/v1/chat/completions", metavar="PATH", help="of that request (%(default)s)")
    check.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'", help="of that request; may be repeated"
    )

    status = commands.add_parser(
        "status",
        help="how a running proxy is",
        description="Ask the admin port of a running proxy. Exit 0: healthy, 1: something to look at, 2: it cannot be asked.",
    )
    status.add_argument("--config", type=Path, metavar="FILE", help="settings that name the admin port")
    status.add_argument("--admin", metavar="HOST:PORT", help="the admin port; no settings are read then")
    status.add_argument("--json", action="store_true", help="as one JSON object")
    status.set_defaults(run=_status)

    fetch = commands.add_parser(
        "fetch-encodings",
        help="download what counting tokens needs",
        description="Download the vocabularies with which output tokens are estimated where a provider reports none. "
        "A running proxy never downloads; it looks for them where TIKTOKEN_CACHE_DIR says.",
    )
    fetch.add_argument("--dir", type=Path, metavar="DIR", help="default: TIKTOKEN_CACHE_DIR, else the user's cache")
    fetch.set_defaults(run=_fetch_encodings)

    demo = commands.add_parser(
        "demo",
        help="see it work, offline",
        description="Start a simulated provider and the proxy, send mixed requests, show what was observed.",
    )
    simulate = commands.add_parser(
        "simulate", help="run the simulated provider alone", description="Run an OpenAI-compatible simulated provider."
    )
    report = commands.add_parser(
        "report",
        help="what the recorded traffic says about latency and max_tokens",
        description="For each model: the law of its latency, how answers ended, how much of their limits they used, "
        "how long they are, and what a cap would have saved and cut. Reads the ledger, changes nothing.",
    )
    advise = commands.add_parser(
        "advise",
        help="a policy in shadow, from the recorded traffic",
        description="Print rules in mode shadow for each model and app, with their evidence; save them as policies.yaml.",
    )
    effect = commands.add_parser(
        "effect",
        help="what an experiment in your traffic shows",
        description="Compare the arms of a rule's experiment in TTFT, TPOT and E2E, with intervals that hold however often "
        "you look. Exit 1: nothing to compare.",
    )
    probe = commands.add_parser(
        "probe",
        help="ask a provider the same thing with several limits",
        description="Send the same input with several limits, in random order, and show what the limit alone does to time. "
        "Costs requests and tokens: the budget is shown before it starts, and never exceeded.",
    )
    # Only the command that runs pays for its imports: serve starts in a fraction of what aiohttp takes to load.
    chosen = next((word for word in (sys.argv[1:] if arguments is None else arguments) if not word.startswith("-")), "")
    if chosen == "demo":
        from proxy.lab import demo as lab_demo  # noqa: PLC0415 -- see above

        lab_demo.add_arguments(demo)
        demo.set_defaults(run=lab_demo.run)
    elif chosen == "simulate":
        from proxy.lab import simulator  # noqa: PLC0415 -- see above

        simulator.add_arguments(simulate)
        simulate.set_defaults(run=simulator.run)
    elif chosen == "report":
        from proxy.evidence import commands as evidence  # noqa: PLC0415 -- see above

        evidence.add_report_arguments(report)
        report.set_defaults(run=lambda parsed: _evidence(evidence.run_report, parsed))
    elif chosen == "advise":
        from proxy.evidence import commands as evidence  # noqa: PLC0415 -- see above

        evidence.add_advise_arguments(advise)
        advise.set_defaults(run=lambda parsed: _evidence(evidence.run_advise, parsed))
    elif chosen == "effect":
        from proxy.evidence import commands as evidence  # noqa: PLC0415 -- see above

        evidence.add_effect_arguments(effect)
        effect.set_defaults(run=lambda parsed: _evidence(evidence.run_effect, parsed))
    elif chosen == "probe":
        from proxy.lab import probe as lab_probe  # noqa: PLC0415 -- see above

        lab_probe.add_arguments(probe)
        probe.set_defaults(run=lab_probe.run)

    parsed = parser.parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        print(f'lengthwise {parsed.command} needs {error.name}: pip install "lengthwise[{extra}]"', file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before the command could say what Ctrl-C means to it
        return 130
    return code


def _load(arguments: argparse.Namespace) -> tuple[settings.Settings, PolicySet]:
    loaded, policies, warnings = settings.load(
        arguments.config, {name: getattr(arguments, name.replace("-", "_")) for name in _FLAGS}, os.environ
    )
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return loaded, policies


def _serve(arguments: argparse.Namespace) -> int:
    from proxy import logs, supervisor  # noqa: PLC0415 -- `check` needs no processes

    try:
        loaded, policies = _load(arguments)
        logs.configure(loaded.logs, "supervisor")
        supervisor.run(loaded, policies, lambda line: print(line, flush=True))
    except SettingsError as error:
        return _report(error)
    except supervisor.StartError as error:
        print(f"lengthwise: {error}", file=sys.stderr)
        return 1
    return 0


def _check(arguments: argparse.Namespace) -> int:
    try:
        loaded, policies = _load(arguments)
    except SettingsError as error:
        return _report(error)
    if any(rule.experiment is not None for rule in policies.rules) and loaded.ledger.path is not None:
        from proxy.policy.slack import tight_arms  # noqa: PLC0415 -- only an experiment needs the ledger
        from proxy.recorder.ledger import recent_lengths  # noqa: PLC0415 -- likewise

        for warning in tight_arms(policies, recent_lengths(loaded.ledger.path)):
            print(f"warning: {warning}", file=sys.stderr)
    print(f"ok: {len(loaded.upstreams)} upstream(s), {len(policies.rules)} rule(s)")
    return 0 if arguments.explain is None else _explain(arguments, loaded, policies)


def _explain(arguments: argparse.Namespace, loaded: settings.Settings, policies: PolicySet) -> int:
    from proxy.relay.explain import explain  # noqa: PLC0415 -- `check` alone needs no relay

    headers: list[tuple[str, str]] = []
    for header in arguments.header:
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            print("lengthwise: --header: expected 'NAME: VALUE'", file=sys.stderr)
            return 2
        headers.append((name.strip(), value.strip()))
    try:
        body = arguments.explain.read_bytes()
    except OSError as error:
        print(f"lengthwise: --explain: {arguments.explain} cannot be read: {error.strerror}", file=sys.stderr)
        return 2
    try:
        told = explain(loaded, policies, arguments.path, headers, body)
    except (RefusalError, UnicodeEncodeError) as error:
        print(f"lengthwise: --path or --header: {error}", file=sys.stderr)
        return 2
    print(f"request  {told.route}")
    if told.facts is not None:
        limits = ", ".join(f"{path} {'unlimited' if sent is None else sent}" for path, sent in told.facts.limits)
        streamed = "streamed" if told.facts.stream else "not streamed"
        model = "no model" if told.facts.model is None else f"model {told.facts.model}"
        print(f"         {model}, {streamed}, {limits or 'no limit'}")
        if told.facts.degraded is not None:
            where = "" if told.facts.degraded_field is None else f" ({told.facts.degraded_field})"
            print(f"         not sure to be read alike everywhere: {told.facts.degraded}{where}")
    width = max((len(name) for name, _, _ in told.rules), default=0)
    for name, mode, does in told.rules:
        print(f"rule     {name:<{width}}  {mode:<7}  {does}")
    if told.decision is not None and told.decision.arm is not None:
        print(
            f"arm      {told.decision.arm}, drawn anew for each {'request' if told.decision.unit is None else 'unit'}"
        )
    if told.refusal is not None:
        print(f"refused  {told.refusal.refusal.status} {told.refusal.error_type}: {told.refusal.message}")
        return 1
    print(f"sent     {'; '.join(told.changes) or 'as it came'}")
    return 0


def _evidence(
    run: Callable[[argparse.Namespace, Callable[[], Path | None]], int], arguments: argparse.Namespace
) -> int:
    try:
        return run(arguments, lambda: settings.ledger_path(os.environ))
    except SettingsError as error:
        return _report(error)


def _status(arguments: argparse.Namespace) -> int:
    from proxy import status  # noqa: PLC0415 -- as above

    try:
        state = status.ask(settings.admin_address(arguments.config, arguments.admin, os.environ))
    except SettingsError as error:
        return _report(error)
    except status.AskError as error:
        print(f"lengthwise: {error}", file=sys.stderr)
        return 2
    found = status.findings(state)
    if arguments.json:
        print(orjson.dumps({"ready": state.ready, "status": state.status, "findings": found}).decode())
    else:
        for line in status.lines(state):
            print(line)
        for finding in found:
            print(f"! {finding}")
    return 1 if found else 0


def _fetch_encodings(arguments: argparse.Namespace) -> int:
    from proxy.recorder import tokens  # noqa: PLC0415 -- as above

    where = arguments.dir or tokens.folder(os.environ)
    try:
        for path in tokens.fetch(where):
            print(path)
    except tokens.FetchError as error:
        print(f"lengthwise: {error}", file=sys.stderr)
        return 1
    if arguments.dir is not None:
        print(f"lengthwise serve finds them with TIKTOKEN_CACHE_DIR={where.absolute()}", file=sys.stderr)
    return 0


def _report(error: SettingsError) -> int:
    for mistake in error.mistakes:
        print(f"error: {mistake}", file=sys.stderr)
    count = len(error.mistakes)
    print(f"lengthwise: {count} mistake{'' if count == 1 else 's'} in the configuration", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
