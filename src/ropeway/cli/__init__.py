"""The command line: `ropeway …` or `python -m ropeway …`.

One file a group of commands; `main.py` puts them together. Answers go to stdout, everything else
to stderr; errors are one line. Every command takes --json, with one document on stdout, except
those that stream (`enqueue --stdin`, `jobs logs`), which print one document a line.

Exit codes: 0 done; 1 failed or refused; 2 wrong usage; 3 no such job, queue, worker or database;
4 the broker cannot be reached or its storage fails; 130 interrupted; 141 the reader of the output
went away.
"""

import sys


def main() -> None:
    """Run the command line of this process and exit with its code."""
    from ropeway.cli.main import main as run

    sys.exit(run())
