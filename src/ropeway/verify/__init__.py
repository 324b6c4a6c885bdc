"""`ropeway verify URL`: kills what it started, and counts what was lost, doubled or out of order.

Producers and workers are processes, as a user would run them. A nemesis kills, freezes and
restarts them. Each handler and producer writes what it does into a ledger, a file that no broker
touches; when all is quiet the checker compares ledger, records and a witness inside the store.
docs/verify.md says what must hold, and which function of `checks` says so.

run ── storm (producer.py, subject.py in worker processes, faults/) ── quiet ── probes
 └── ledger.py ── history.py (runs, faults) ── checks/ ── report.py
"""
