"""Making what is missing: a virtual environment a Python rival, a program a Go rival."""

import os
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.places import BIN, ENVIRONMENTS, PROGRAMS, SERVER
from bench.roster import Rival

INSTALL_S = 900


def install(rivals: Sequence[Rival], tell: Callable[[str], None]) -> dict[str, str]:
    """Install all of them; the reason for each that could not be."""
    failed: dict[str, str] = {}
    for rival in rivals:
        try:
            if rival.kind == "python":
                _environment(rival, tell)
            elif rival.kind == "go":
                _go_program(rival, tell)
        except FileNotFoundError as error:
            failed[rival.name] = f"not installed: {error.filename} is missing"
        except subprocess.SubprocessError as error:
            said = getattr(error, "stderr", b"") or b""
            last = said.decode(errors="replace").strip().splitlines()[-1:]
            failed[rival.name] = f"not installed: {' '.join(last) or error}"
    return failed


def _environment(rival: Rival, tell: Callable[[str], None]) -> None:
    place = ENVIRONMENTS / rival.name
    pins = PROGRAMS / "python" / "pins" / f"{rival.name}.txt"
    stamp = place / ".stamp"
    wanted = f"{sys.version}\n{pins.read_text(encoding='utf-8')}"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    tell(f"installing {rival.name}")
    venv.create(place, clear=True, with_pip=True)
    pip = (place / "bin" / "python", "-m", "pip", "install", "--quiet", "--requirement", pins)
    _run(*pip, "--disable-pip-version-check")
    stamp.write_text(wanted, encoding="utf-8")


def _go_program(rival: Rival, tell: Callable[[str], None]) -> None:
    sources = PROGRAMS / "go"
    newest = max(path.stat().st_mtime for path in sources.rglob("*") if path.is_file())
    targets = {BIN / rival.name: f"./{rival.name}"}
    if rival.server == "faktory":
        targets[SERVER] = "github.com/contribsys/faktory/cmd/faktory"
    for target, package in targets.items():
        if not target.exists() or target.stat().st_mtime < newest:
            tell(f"building {target.name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            _run("go", "build", "-buildvcs=false", "-o", target, package, at=sources)
            os.utime(target)


def _run(*command: str | Path, at: Path | None = None) -> None:
    subprocess.run(command, cwd=at, check=True, capture_output=True, timeout=INSTALL_S)
