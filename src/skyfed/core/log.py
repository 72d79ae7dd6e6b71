"""Logs: one JSON object a line to a file or stderr, or short text for a terminal. `event` adds fields to a message."""

import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

_FIELDS = "skyfed_fields"


def event(logger: logging.Logger, level: int, message: str, **fields: object) -> None:
    """Log `message` with structured `fields` (never secrets: no tokens, keys, proxies, user data)."""
    logger.log(level, message, extra={_FIELDS: fields})


class JsonLines(logging.Formatter):
    """`{"time": …, "level": …, "logger": …, "message": …, <fields>}` on one line."""

    def __init__(self, context: dict[str, str]) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._context,
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


class Plain(logging.Formatter):
    """For people: `12:30:01 warning skyfed.images: message field=value`."""

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        fields = "".join(f" {k}={v}" for k, v in getattr(record, _FIELDS, {}).items())
        text = f"{clock} {record.levelname.lower()} {record.name}: {record.getMessage()}{fields}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def configure(*, level: str = "INFO", file: Path | None = None, json_lines: bool = True, **context: str) -> None:
    """Send all logs to `file` (appended) or stderr; `context` (node, process) stands on every JSON line."""
    handler: logging.Handler = (
        logging.FileHandler(file, encoding="utf-8") if file else logging.StreamHandler(sys.stderr)
    )
    handler.setFormatter(JsonLines(context) if json_lines else Plain())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Nobody prints these, and gathering them costs more than writing the line (Python's logging HOWTO, "Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # Libraries that log every step of their own.
    for name in ("alembic", "urllib3", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
