"""Ropeway's own client of Redis: asyncio, RESP2, automatic pipelining, Sentinel and Cluster.

```
client      what the broker calls, and `connect`: from an address to a client
cluster     standalone                routing by slot         one server, or the master of Sentinel
topology    sentinel                  who serves which slot; who the master is
node                                  one server: one shared connection, scripts, blocking calls
dial                                  opening a connection: TCP, TLS, socket file, handshake
link                                  one connection: pipelining, deadline
slots   replies   words   address     pure
```

Why not redis-py: concurrent callers of it wait for each other or need a connection each. Calls a
second over one connection (EVALSHA of a script that returns 1; uvloop; two shared cores; redis-py
8.1 with hiredis 3.5), by `python tests/brokers/redis_wire/client_speed.py`:

| concurrent callers | this client | redis-py | redis-py, 50 connections |
|---|---|---|---|
| 1 | 54,000 | 19,000 | 15,000 |
| 50 | 230,000 | 16,000 | 17,000 |
"""
