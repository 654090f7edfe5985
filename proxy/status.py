"""`lengthwise status`: what one asks first of a running service, read from its admin port, and what is wrong with it.

Layer: below cli. Pure but for `ask`. A finding is a fact that somebody should look at; drops are counted since the recorder and the
workers started, so they stay findings until then.

Source: ARCHITECTURE.md 7 "Admin".
"""

import http.client
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from proxy.errors import LengthwiseError
from proxy.settings import Address

__all__ = ["AskError", "State", "ask", "findings", "lines"]

_TIMEOUT_S = 10.0
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses to listen on that are none to connect to."""


class AskError(LengthwiseError):
    """Nobody answered, or nobody who speaks as Lengthwise does."""


class State(NamedTuple):
    """What the admin port said."""

    ready: dict[str, Any]
    """`/readyz`."""
    status: dict[str, Any] | None
    """`/status`; None while the recorder is away."""


def ask(address: Address) -> State:
    """Ask the admin port of a running service.

    Raises:
        AskError: it cannot be asked.
    """
    try:
        _, ready = _get(address, "/readyz")
        code, status = _get(address, "/status")
    except (OSError, http.client.HTTPException, TypeError, ValueError) as error:
        raise AskError(f"nothing answers on {address} ({error})") from error
    if "workers_ready" not in ready or (code == 200 and "exchanges" not in status):
        raise AskError(f"what answers on {address} is no Lengthwise")
    return State(ready, status if code == 200 else None)


def _get(address: Address, path: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(_ANY.get(address.host, address.host), address.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        document = orjson.loads(answer.read())
    finally:
        connection.close()
    if not isinstance(document, dict):
        raise TypeError("no JSON object")
    return answer.status, document


def findings(state: State) -> list[str]:
    """What is wrong, worst first; empty when nothing is."""
    return list(_findings(state))


def _findings(state: State) -> Iterator[str]:
    ready, status = state
    if ready.get("status") != "ok":
        yield f"not ready: {ready.get('reason', 'no reason given')}"
    elif ready["workers_ready"] < ready["workers"]:
        yield f"{ready['workers'] - ready['workers_ready']} of {ready['workers']} workers are not ready"
    if status is None:
        yield "the recorder is away: records wait, and are dropped when it stays away"
        return
    policy, ledger, drops = status["policy"], status["ledger"], status["drops"]
    if policy["error"]:
        yield f"the rules on disk are broken, the last good ones are in force: {'; '.join(policy['error'].splitlines())}"
    for rule in policy["rules"]:
        if rule.get("armed") is False:
            yield f"rule {rule['name']} is disarmed: {rule.get('cut')} of {rule.get('answers')} answers were cut"
    if drops["records"]:
        yield f"{drops['records']} records were dropped: their exchanges are in no span, metric or row"
    if drops["failed_records"] or drops["malformed_lines"]:
        yield f"{drops['failed_records'] + drops['malformed_lines']} records could not be read"
    for signal, export in status["export"].items():
        if export["failing"]:
            yield f"the export of {signal} fails: {export['last_failure']}"
        if export["dropped"] or export["failed"]:
            yield f"{export['dropped'] + export['failed']} {signal} were lost on the way to the collector"
    if ledger and ledger["error"]:
        yield f"the ledger takes no rows: {ledger['error']}"
    if ledger and ledger["failed"]:
        yield f"{ledger['failed']} rows of the ledger were lost"


def lines(state: State) -> Iterator[str]:
    """The state for a reader, a subject on each line."""
    ready, status = state
    yield f"ready      {'yes' if ready.get('status') == 'ok' else 'no'}, {ready['workers_ready']} of {ready['workers']} workers"
    if status is None:
        return
    yield f"version    {status['version']}, settings {status['settings']['digest']}, process {status['supervisor_pid']}"
    gone = [worker for worker in status["workers"] if not worker["alive"]]
    for worker in status["workers"]:
        if worker["alive"]:
            yield (
                f"worker {worker['index']}   process {worker['pid']}: {worker['exchanges']} exchanges, "
                f"{worker['active']} active, {worker['dropped']} records dropped"
            )
    if gone:  # each replacement leaves one, so they share a line
        exchanges, dropped = (sum(worker[key] for worker in gone) for key in ("exchanges", "dropped"))
        yield f"gone       {len(gone)} earlier workers: {exchanges} exchanges, {dropped} records dropped"
    policy = status["policy"]
    enforcing = sum(rule["mode"] == "enforce" for rule in policy["rules"])
    loaded = datetime.fromtimestamp(policy["loaded_at"]).astimezone().isoformat(" ", "seconds")
    yield f"policy     {policy['digest']} of {loaded}: {len(policy['rules'])} rules, {enforcing} enforcing"
    active = sum(worker["active"] for worker in status["workers"])
    yield f"exchanges  {status['exchanges']}, {active} active"
    yield f"records    {status['records']} taken, {status['drops']['records']} dropped"
    for signal, export in status["export"].items():
        counts = f"{export['exported']} exported, {export['failed']} failed, {export['dropped']} dropped"
        yield f"{signal:10} over {export['protocol']}: {counts}"
    if not status["export"]:
        yield "export     none"
    ledger = status["ledger"]
    yield (
        f"ledger     {ledger['path']}: {ledger['written']} rows written, {ledger['failed']} lost"
        if ledger
        else "ledger     none"
    )
