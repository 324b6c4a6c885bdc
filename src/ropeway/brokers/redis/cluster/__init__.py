"""A store spread over a Redis Cluster: each queue is a shard of its own, in one slot.

What is one step on one server is several here, each of which may be repeated: nothing is lost when
a client dies between them, and nothing is done twice.
"""
