"""What the source report says about one file, and about many: plain functions, no queue."""

import hashlib
import io
import tokenize
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

HEAD_BYTES = 8192  # a binary file shows within them, so that a large one is not read to its end
TOP = 8


class CannotMeasure(Exception):
    """The file is not what this report is about; reading it again would not change that.

    The message begins with the kind of the trouble, up to the first colon.
    """


@dataclass(frozen=True)
class Stats:
    """One text file. `tokens` is 0 unless it is Python."""

    path: str
    size_bytes: int
    lines: int
    tokens: int
    sha256: str


def stats_of(path: str) -> Stats:
    """Read one file and measure it.

    Raises:
        CannotMeasure: it is binary, no UTF-8 text, or Python that cannot be read as tokens.
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        head = file.read(HEAD_BYTES)
        if b"\0" in head:
            raise CannotMeasure(f"binary: a NUL byte at offset {head.index(0)}")
        data = head + file.read()
    if path.endswith(".py"):
        tokens = _tokens(data)
    else:
        tokens = 0
        try:
            data.decode()
        except UnicodeDecodeError as error:
            raise CannotMeasure(f"not UTF-8: {error.reason} at offset {error.start}") from error
    lines = data.count(b"\n") + (not data.endswith(b"\n") and bool(data))
    return Stats(path, len(data), lines, tokens, hashlib.sha256(data).hexdigest())


def _tokens(data: bytes) -> int:
    try:
        return sum(1 for _ in tokenize.tokenize(io.BytesIO(data).readline))
    except (SyntaxError, tokenize.TokenError, UnicodeDecodeError) as error:
        raise CannotMeasure(f"not Python: {error}") from error


@dataclass
class Totals:
    """The sums that do not depend on the order in which files were measured."""

    files: int = 0
    size_bytes: int = 0
    lines: int = 0
    tokens: int = 0
    failed: dict[str, int] = field(default_factory=dict[str, int])  # kind → files
    digest: str = ""  # SHA-256 of every path with its SHA-256, sorted


@dataclass
class Package:
    """The files below one folder of the root."""

    name: str
    files: int
    lines: int
    tokens: int


@dataclass
class Report:
    """What the merging job makes of all files."""

    totals: Totals
    largest: list[Stats]
    packages: list[Package]
    examples: dict[str, str]  # kind of failure → one path


def report_of(root: str, measured: Iterable[Stats], failed: Iterable[tuple[str, str]]) -> Report:
    """Sum up measured files, and failed ones as (kind, path)."""
    totals = Totals()
    packages: dict[str, Package] = {}
    everything = sorted(measured, key=lambda stats: stats.path)
    digest = hashlib.sha256()
    for stats in everything:
        totals.files += 1
        totals.size_bytes += stats.size_bytes
        totals.lines += stats.lines
        totals.tokens += stats.tokens
        digest.update(f"{stats.path} {stats.sha256}\n".encode())
        name = _package_of(root, stats.path)
        package = packages.setdefault(name, Package(name, 0, 0, 0))
        package.files += 1
        package.lines += stats.lines
        package.tokens += stats.tokens
    totals.digest = digest.hexdigest()
    examples: dict[str, str] = {}
    kinds: Counter[str] = Counter()
    for kind, path in sorted(failed):
        kinds[kind] += 1
        examples.setdefault(kind, path)
    totals.failed = dict(kinds)
    return Report(
        totals,
        sorted(everything, key=lambda stats: (-stats.tokens, -stats.lines))[:TOP],
        sorted(packages.values(), key=lambda package: -package.lines)[:TOP],
        examples,
    )


def _package_of(root: str, path: str) -> str:
    parts = Path(path).relative_to(root).parts
    return parts[0] if len(parts) > 1 else "(top)"


def plain_report(root: str, paths: Iterable[str]) -> Report:
    """The same report without any queue: one process, one loop."""
    measured: list[Stats] = []
    failed: list[tuple[str, str]] = []
    for path in paths:
        try:
            measured.append(stats_of(path))
        except (CannotMeasure, OSError) as error:
            failed.append((kind_of(type(error).__name__, str(error)), path))
    return report_of(root, measured, failed)


def kind_of(type_: str, message: str) -> str:
    """What kind of failure an error is: the first word of ours, the type of any other."""
    if type_.endswith(CannotMeasure.__name__):
        return message.partition(":")[0]
    return type_.rpartition(".")[2]
