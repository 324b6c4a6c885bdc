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
"""
