"""`ropeway bench`: how fast a broker is on this machine, measured as a user's program would see it.

The jobs are enqueued by the public API and run by the worker of `ropeway worker`, with its default
leases, retention, logging and middleware; every handler takes an argument, and its result is
stored. Whether anything was lost or repeated is told by the handlers' own ledger. The bench works
in a queue of its own, `bench-<random>`, which it purges at its end; other queues are left alone.
"""
