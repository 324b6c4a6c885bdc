"""The worker: takes jobs from a broker and runs them."""

from ropeway.errors import SoftTimeout
from ropeway.worker.options import WorkerOptions
from ropeway.worker.worker import Ended, Worker

__all__ = ["Ended", "SoftTimeout", "Worker", "WorkerOptions"]
