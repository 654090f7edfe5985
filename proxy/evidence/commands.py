"""`lengthwise report`, `lengthwise effect` and `lengthwise advise`: flags, source, and where the answer goes.

Layer: evidence. What a command needs beyond the standard library (numpy, rich, plotly: the extra `report`) is imported
when it runs, so that `--help` needs none of it.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.evidence import moments

if TYPE_CHECKING:
    from proxy.evidence.report import Report
    from proxy.evidence.sources.exchanges import Exchanges
    from proxy.evidence.sources.query import Window

__all__ = [
    "add_advise_arguments",
    "add_effect_arguments",
    "add_report_arguments",
    "add_source_arguments",
    "run_advise",
    "run_effect",
    "run_report",
]

DefaultSource = Callable[[], Path | None]


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which exchanges are meant."""
    parser.add_argument(
        "--source",
        metavar="FILE|URL",
        help="a ledger, or clickhouse://USER@HOST:PORT/DATABASE (password in CLICKHOUSE_PASSWORD); "
        "default: the ledger of the settings in this directory, else lengthwise.sqlite",
    )
    parser.add_argument(
        "--since", type=_moment, metavar="T", help="first moment: a date or time (UTC), or a span such as 24h, 7d"
    )
    parser.add_argument("--until", type=_moment, metavar="T", help="the moment after the last; like --since")


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `lengthwise report`."""
    add_source_arguments(parser)
    parser.add_argument(
        "--by", type=_by, default=False, metavar="model[,app]", help="what makes a group (default: model)"
    )
    _add_caps(parser)
    parser.add_argument("--json", metavar="FILE", help="write the figures; - writes them to standard output, alone")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots, whole in itself")


def add_advise_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `lengthwise advise`."""
    add_source_arguments(parser)
    _add_caps(parser)


def add_effect_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `lengthwise effect`."""
    add_source_arguments(parser)
    parser.add_argument("--rule", metavar="NAME", help="only the experiment of this rule")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - writes them to standard output, alone")


def run_report(arguments: argparse.Namespace, default_source: DefaultSource) -> int:
    """Report; 1 when there is no exchange, 2 when the source is none."""
    from proxy.evidence import report as reports  # noqa: PLC0415 -- an extra
    from proxy.evidence import report_text  # noqa: PLC0415 -- an extra

    report = _report(arguments, default_source, by_app=arguments.by)
    if isinstance(report, int):
        return report
    try:
        if arguments.html is not None:
            from proxy.evidence import report_page  # noqa: PLC0415 -- an extra

            arguments.html.write_text(report_page.page(report), encoding="utf-8")
        if arguments.json is not None:
            _write_json(reports.as_json(report), arguments.json)
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}", 2)
    if arguments.json != "-":
        report_text.show(report)
    return 0


def run_advise(arguments: argparse.Namespace, default_source: DefaultSource) -> int:
    """Print a policy in shadow for each model and app; exit codes as those of `run_report`."""
    from proxy.evidence import advise  # noqa: PLC0415 -- an extra

    report = _report(arguments, default_source, by_app=True)
    if isinstance(report, int):
        return report
    print(advise.policy(report), end="")
    return 0


def run_effect(arguments: argparse.Namespace, default_source: DefaultSource) -> int:
    """Show experiments; 1 when there is nothing to compare, 2 when the source is none."""
    from proxy.evidence import effect, effect_text  # noqa: PLC0415 -- an extra

    read = _read(arguments, default_source)
    if isinstance(read, int):
        return read
    exchanges, _ = read
    found = [each for each in effect.experiments(exchanges) if arguments.rule in {None, each.rule}]
    try:
        if arguments.json is not None:
            _write_json(effect.as_json(exchanges, found), arguments.json)
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}", 2)
    if arguments.json != "-":
        effect_text.show(found)
    if any(each.comparisons for each in found):
        return 0
    of_rule = f" of rule {arguments.rule}" if arguments.rule else ""
    why = (
        f"no two arms{of_rule} have whole answers of one model from one time"
        if found
        else f"none of {len(exchanges):,} exchanges belongs to an experiment{of_rule}; one is a rule with "
        "experiment: {arms: [512, none]}"
    )
    return _failed(f"nothing to compare: {why}", 1)


def _report(arguments: argparse.Namespace, default_source: DefaultSource, *, by_app: bool) -> "Report | int":
    """The report that is asked for, or the exit code."""
    from proxy.evidence import report  # noqa: PLC0415 -- an extra

    read = _read(arguments, default_source)
    return read if isinstance(read, int) else report.build(*read, arguments.caps, by_app=by_app)


def _read(arguments: argparse.Namespace, default_source: DefaultSource) -> "tuple[Exchanges, Window] | int":
    """The exchanges that are meant and their window, or the exit code."""
    from proxy.evidence.sources import exchanges, query, source  # noqa: PLC0415 -- an extra

    name = arguments.source or default_source()
    if name is None:
        return _failed("the settings here keep no ledger; name one with --source", 1)
    if arguments.since is not None and arguments.until is not None and arguments.since >= arguments.until:
        return _failed("--until: not after --since", 2)
    window = query.Window(arguments.since, arguments.until)
    try:
        return source.read(str(name), window), window
    except exchanges.AbsentError as error:
        return _failed(str(error), 1)
    except exchanges.SourceError as error:
        return _failed(str(error), 2)


def _write_json(figures: dict[str, Any], name: str) -> None:
    import orjson  # noqa: PLC0415 -- as above

    data = orjson.dumps(figures, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    if name == "-":
        sys.stdout.write(data.decode())
    else:
        Path(name).write_bytes(data)


def _add_caps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--caps", type=_caps, metavar="N,...", help="the caps to judge and advise from (default: from 64 to 8192)"
    )


def _moment(text: str) -> float:
    try:
        return moments.unix_s(text, time.time())
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no date, no time and no span such as 24h or 7d") from None


def _caps(text: str) -> tuple[int, ...]:
    try:
        caps = tuple(int(part) for part in text.split(","))
    except ValueError:
        caps = (0,)
    if min(caps) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers of at least 1, such as 128,256")
    return caps


def _by(text: str) -> bool:
    names = {part.strip() for part in text.split(",")}
    if not names <= {"model", "app"}:
        raise argparse.ArgumentTypeError(f"{text!r} is neither model nor model,app")
    return "app" in names


def _failed(message: str, code: int) -> int:
    print(f"lengthwise: {message}", file=sys.stderr)
    return code
