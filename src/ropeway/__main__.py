"""`python -m ropeway` is the command `ropeway`."""

import sys

from ropeway.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
