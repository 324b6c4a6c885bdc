"""What goes wrong on purpose: processes that are killed, frozen and restarted, networks that fail.

nemesis.py ── strikes ── fleet.py (processes, started by forks.py) · network.py (through proxy.py)
"""
