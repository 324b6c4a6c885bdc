"""Exit codes, and what an exception is for a person at a terminal: one line and a code."""

import errno
import os
from enum import IntEnum
from typing import cast

from ropeway import errors


class Exit(IntEnum):
    """The exit codes of every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    STORAGE = 4
    INTERRUPTED = 130  # 128 + SIGINT, as shells say it
    READER_GONE = 141  # 128 + SIGPIPE


EXIT_CODES = (
    "Exit codes: 0 done; 1 failed or refused; 2 wrong usage; 3 no such job, task, limit, worker or "
    "database; 4 the broker cannot be reached or its storage fails; 130 interrupted; 141 the "
    "reader of the output went away. Errors are one line on stderr; ROPEWAY_DEBUG=1 adds the "
    "traceback."
)


class Failure(Exception):
    """Ends the command with one line on stderr (none if the message is empty) and a code."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code


def usage(message: str) -> Failure:
    """The command line asks for something that cannot be meant."""
    return Failure(message, Exit.USAGE)


def missing(message: str) -> Failure:
    """What was named does not exist."""
    return Failure(message, Exit.NOT_FOUND)


_CODES: tuple[tuple[type[BaseException], Exit], ...] = (
    (errors.JobNotFound, Exit.NOT_FOUND),
    (errors.BrokerError, Exit.STORAGE),
    (errors.ConfigError, Exit.USAGE),
    (errors.CodecError, Exit.USAGE),
    (errors.RopewayError, Exit.FAILED),
    (TimeoutError, Exit.STORAGE),
    (ConnectionError, Exit.STORAGE),
)


def failure_of(error: BaseException) -> Failure:
    """The line and the code for an exception that a command let through.

    Every error that Ropeway raises says what is wrong and what to do; anything else is named
    with its type, since it is then a defect here or in the user's own code.
    """
    if isinstance(error, Failure):
        return error
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return failure_of(group.exceptions[0])
    if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ESHUTDOWN):
        return Failure("", Exit.READER_GONE)
    for kind, code in _CODES:
        if isinstance(error, kind):
            return Failure(one_line(str(error) or type(error).__name__), code)
    return Failure(one_line(f"{type(error).__name__}: {error}"))


def one_line(text: str) -> str:
    """The text with its line breaks and runs of spaces made single spaces."""
    return " ".join(text.split())


def debugging() -> bool:
    """Whether the user asked for tracebacks with ROPEWAY_DEBUG."""
    return os.environ.get("ROPEWAY_DEBUG", "") not in ("", "0")
