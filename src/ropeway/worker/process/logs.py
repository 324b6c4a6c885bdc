"""Formatters for the standard library's logging: lines for people, JSON for machines.

Records of a job carry `job_id` and `task`; both formats show them. Setting logging up is left to
the program.
"""

import json
import logging
import time
from typing import Final

_JOB_FIELDS: Final = ("job_id", "task")
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class HumanFormatter(logging.Formatter):
    """`12:30:01.123 WARNING 0197… crawl.fetch failed: ValueError: no`, local time."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback below it where the record has one."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        job = [str(getattr(record, name)) for name in _JOB_FIELDS if hasattr(record, name)]
        words = [f"{clock}.{record.msecs:03.0f}", f"{record.levelname:<7}", *job]
        return _with_trace(self, record, " ".join([*words, record.getMessage()]))


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC), level, logger, message, and all extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON; values that JSON lacks are written as text."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, object] = {
            "time": f"{seconds}.{min(999, int(record.msecs)):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {k: v for k, v in vars(record).items() if k not in _STANDARD and k not in fields}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, ensure_ascii=False)


def _with_trace(formatter: logging.Formatter, record: logging.LogRecord, line: str) -> str:
    if record.exc_info:
        line = f"{line}\n{formatter.formatException(record.exc_info)}"
    if record.stack_info:
        line = f"{line}\n{record.stack_info}"
    return line
