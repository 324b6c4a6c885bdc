"""Runs tests in forked processes: pytest is imported once, Ropeway anew in each of them.

A fork costs milliseconds where a new interpreter with pytest costs a second, and leaves nothing of
one changed module to the next.
"""

import contextlib
import gc
import importlib.abc
import importlib.machinery
import os
import pickle
import signal
import sys
import tempfile
import traceback
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType

import anyio  # noqa: F401 - these four are imported for the forks
import apsw  # noqa: F401
import hypothesis
import msgspec  # noqa: F401
import pytest
from coverage import Coverage

KILLED_BY_TIME = -signal.SIGALRM
START_S = 60
OPTIONS = ("-q", "-x", "--assert=plain", "-p", "no:cacheprovider")


@dataclass
class Trace:
    """Which tests ran each line of the modules, and how long each test took."""

    tests: dict[Path, dict[int, set[str]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def touching(self, path: Path, lines: Sequence[int] | None = None) -> list[str]:
        """The tests that ran one of the lines (None: any line), the fastest first.

        All tests for what runs at import alone: the definitions of records.
        """
        by_line = self.tests[path]
        chosen = set[str]().union(*(by_line.get(line, ()) for line in lines or by_line)) - {""}
        if lines is None and not chosen:
            chosen = set(self.seconds)
        return sorted(chosen, key=lambda test: self.seconds[test])


class Tracer:
    """A pytest plugin that notes the time of each test, and tells coverage which one runs."""

    def __init__(self, coverage: Coverage, seconds: dict[str, float]) -> None:
        self._coverage = coverage
        self._seconds = seconds

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Everything until the next test counts for this one."""
        self._coverage.switch_context(item.nodeid)
        try:
            return (yield)
        finally:
            self._coverage.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up set-up, call and tear-down."""
        self._seconds[report.nodeid] += report.duration


class Choice:
    """A pytest plugin that runs only the given tests, in the given order.

    The alarm ends the process when a test takes far longer than it did on the unchanged code.
    """

    def __init__(self, tests: Sequence[str], seconds: Mapping[str, float]) -> None:
        self._rank = {test: n for n, test in enumerate(tests)}
        self._seconds = seconds

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Replace what was collected."""
        chosen = [item for item in items if item.nodeid in self._rank]
        items[:] = sorted(chosen, key=lambda item: self._rank[item.nodeid])

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Wind the alarm up again."""
        signal.alarm(20 + int(10 * self._seconds[item.nodeid]))


class Compiled(importlib.machinery.SourceFileLoader):
    """Loads a module from code that is there already, as if it came from the module's file."""

    def __init__(self, fullname: str, path: str, code: CodeType) -> None:
        super().__init__(fullname, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        """Return the code, whatever the file says."""
        del fullname
        return self._code


class Replaced(importlib.abc.MetaPathFinder):
    """Gives one module other code than its file has."""

    def __init__(self, path: Path, code: CodeType) -> None:
        self._path = path
        self._code = code

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find as usual, and answer for the one module."""
        del target
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.origin != str(self._path):
            return None
        spec.loader = Compiled(fullname, str(self._path), self._code)
        return spec


def trace(tests: Sequence[str], modules: Sequence[Path]) -> Trace:
    """Run the tests on the unchanged code. Exits when one of them fails."""

    def run() -> int:
        found = Trace()
        coverage = Coverage(data_file=None, config_file=False, include=[str(m) for m in modules])
        coverage.start()
        code = _pytest(tests, Tracer(coverage, found.seconds))
        coverage.stop()
        data = coverage.get_data()
        for path in modules:
            lines = data.contexts_by_lineno(str(path))
            found.tests[path] = {line: set(names) for line, names in lines.items()}
        found.seconds = dict(found.seconds)
        output.write_bytes(pickle.dumps(found))
        return code

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "trace")
        if _forked(run, quiet=False) != 0:
            sys.exit("the tests fail without any change: mend them first")
        return pickle.loads(output.read_bytes())  # noqa: S301 - written a moment ago


def run_changed(
    path: Path,
    code: Callable[[], CodeType],
    tests: Sequence[str],
    traced: Trace,
    *,
    quiet: bool = True,
) -> int:
    """Run the tests on a module changed to `code`: pytest's exit code, or `KILLED_BY_TIME`."""

    def changed() -> int:
        signal.alarm(START_S)
        sys.meta_path.insert(0, Replaced(path, code()))
        files = dict.fromkeys(test.partition("::")[0] for test in tests)
        return _pytest(list(files), Choice(tests, traced.seconds))

    return _forked(changed, quiet=quiet)


def _pytest(arguments: Sequence[str], plugin: object) -> int:
    # The same examples for every change, and none made smaller: one failure is enough.
    hypothesis.settings.register_profile(
        "mutation",
        deadline=None,
        derandomize=True,
        database=None,
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    os.environ["HYPOTHESIS_PROFILE"] = "mutation"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        temporary = f"--basetemp={folder}/pytest"
        return int(pytest.main([*OPTIONS, temporary, *arguments], plugins=[plugin]))


def _forked(run: Callable[[], int], *, quiet: bool) -> int:
    """Run in a fork with a process group of its own, of which nothing is left afterwards."""
    gc.freeze()
    pid = os.fork()
    if pid == 0:
        _child(run, quiet=quiet)
    try:
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _child(run: Callable[[], int], *, quiet: bool) -> None:
    os.setsid()
    code = 3
    try:
        if quiet:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        code = run()
    except Exception:  # noqa: BLE001 - nothing above this frame would print it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)
