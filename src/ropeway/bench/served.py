"""The bench's app as its worker process imports it: `ropeway worker ropeway.bench.served:app`."""

import os
from pathlib import Path

from ropeway import Ropeway
from ropeway.bench.ledger import Ledger
from ropeway.bench.tasks import PLACE_VARIABLE, make_subject

app: Ropeway[Ledger] = make_subject(None, Path(os.environ[PLACE_VARIABLE])).app
