"""Where things are: the rivals' programs in the repository, what is made of them beside it."""

from pathlib import Path
from typing import Final

BENCH: Final = Path(__file__).resolve().parent
PROGRAMS: Final = BENCH / "rivals"
MADE: Final = BENCH / ".rivals"  # not in version control
ENVIRONMENTS: Final = MADE
BIN: Final = MADE / "bin"
SERVER: Final = BIN / "server" / "faktory"
RESULTS: Final = BENCH / "results"
