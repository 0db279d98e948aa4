"""Log set-up, once per process: one structured line an event on standard error. Secrets never reach an event."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Literal

import structlog

from rpcmesh.observe.error_log import ErrorLog

# Tracebacks tell lines of code and never the values of variables: a request's headers or a key may be among those.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def configure(
    level: str = "info", style: Literal["auto", "json", "console"] = "auto", errors: Path | None = None
) -> None:
    """``auto`` is for people on a terminal and JSON everywhere else.

    Warnings and errors go to the file ``errors`` too, whatever ``level`` says.
    """
    as_json = style == "json" or (style == "auto" and not sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(pad_event_to=24, exception_formatter=structlog.dev.plain_traceback)
    )
    least = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.StackInfoRenderer(),
            *([ErrorLog(errors).processor, _dropping(least)] if errors else []),
            *([_TRACEBACKS] if as_json else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(min(least, logging.WARNING) if errors else least),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _dropping(least: int) -> structlog.typing.Processor:
    """Ends here what the log level leaves out, once the error log has it."""

    def drop(_: object, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if logging.getLevelNamesMapping().get(name.upper(), logging.CRITICAL) < least:
            raise structlog.DropEvent
        return event

    return drop
