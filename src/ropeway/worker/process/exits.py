"""What the exit code of a worker process says, and what its supervisor tells it."""

from typing import Final

EXIT_OK: Final = 0
EXIT_ERROR: Final = 1
EXIT_CONFIG: Final = 2
"""The program or an option is wrong: another start would end the same way."""
EXIT_RECYCLED: Final = 75
"""`max_jobs` or `max_memory_bytes` was reached: start another one (EX_TEMPFAIL of sysexits.h)."""

ID_VARIABLE: Final = "ROPEWAY_WORKER_ID"
"""The id that the supervisor chose, so that it can hand the leases of a dead child back."""
PARENT_VARIABLE: Final = "ROPEWAY_SUPERVISOR_PID"
"""The supervisor's process id: a child whose parent is another one stops."""
