"""Log lines: one shape for all processes, for readers or as JSON, on stderr.

Layer: above settings; supervisor, workers and recorder each call `configure` once they know the settings.

Lines are written by a thread: a reader that stopped reading, or a disk that is full, holds up no request; lines that do not fit are
counted and said. Of an exception only type and places are logged: its text could quote what was in our hands. Libraries are heard from
warnings on, whatever our own level is.

Source: ARCHITECTURE.md 5.7, 5.8.
"""

import asyncio
import logging
import os
import re
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import orjson

from proxy.settings import Logs

__all__ = ["configure", "report"]

_MOST_LINES = 1000
_FLUSH_S = 0.5
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_PLAIN = re.compile(r"[\w.:/+-]+", re.ASCII)

_Error = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

_log = logging.getLogger(__name__)


def configure(settings: Logs, process: str) -> None:
    """Log as the settings say; `process` is named on every line. Replaces what was configured before."""
    writer = _Writer(_Json(process) if settings.format == "json" else _Console(process))
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    root.addHandler(writer)
    root.setLevel(logging.WARNING)
    logging.getLogger("proxy").setLevel(_LEVELS[settings.level])


def report(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An event loop's exception handler: logs what no callback caught."""
    error = context.get("exception")
    if isinstance(error, OSError):
        return  # a peer that is gone is no mistake of ours
    if error is not None and any(frame.name == "_start_serving" for frame in traceback.extract_tb(error.__traceback__)):
        return  # without descriptors asyncio accepts again a second later, also on a socket that was closed meanwhile
    _log.error("internal error: %s", _places((type(error), error, error.__traceback__)) if error else "unknown place")


def _places(error: _Error) -> str:
    """Type and places of an exception, innermost last; never its text."""
    kind, _, trace = error
    frames = [f"{os.path.basename(f.filename)}:{f.lineno} {f.name}" for f in traceback.extract_tb(trace)]  # noqa: PTH119 -- a string is all there is
    return " < ".join([kind.__name__ if kind else "none", *reversed(frames)])


class _Json(logging.Formatter):
    """One JSON object on each line."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["error"] = _places(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class _Console(logging.Formatter):
    """One line of text; fields as name=value, quoted where they hold more than a word."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone().isoformat(" ", "milliseconds")[:23]
        fields = "".join(f" {name}={_word(value)}" for name, value in _fields(record).items())
        error = f": {_places(record.exc_info)}" if record.exc_info else ""
        return f"{at} {record.levelname} {self._process}: {record.getMessage()}{fields}{error}"


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    """What a line says beside its message: `extra={"fields": {...}}`."""
    fields: Mapping[str, object] = getattr(record, "fields", {})
    return fields


def _word(value: object) -> str:
    """A value on one line, whatever it holds."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else orjson.dumps(text).decode()


class _Writer(logging.Handler):
    """Hands each line to a thread that writes it."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._lines: deque[bytes] = deque()
        self._lost = 0
        self._due = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        threading.Thread(target=self._run, name="logs", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line; never waits."""
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        except Exception as error:  # noqa: BLE001 -- a line that cannot be made costs itself
            line = f"a log line could not be made: {type(error).__name__}\n".encode()
        if len(self._lines) >= _MOST_LINES:
            self._lost += 1
            return
        self._idle.clear()
        self._lines.append(line)
        self._due.set()

    def flush(self) -> None:
        """Wait until all is written, but not for long."""
        self._idle.wait(_FLUSH_S)

    def close(self) -> None:
        self.flush()
        super().close()

    def _run(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            while self._lines:
                _write(self._lines.popleft())
            if self._lost:
                lost, self._lost = self._lost, 0
                _write(b"%d log lines were lost: nobody took them\n" % lost)
            if not self._lines:
                self._idle.set()


def _write(line: bytes) -> None:
    try:
        while line:
            line = line[os.write(2, line) :]
    except BlockingIOError:
        time.sleep(0.01)  # somebody made the file non-blocking; this line is not worth more
    except OSError:
        pass  # nobody reads any more
