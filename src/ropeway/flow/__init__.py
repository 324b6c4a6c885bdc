"""Flow control: which job runs next, and how many at once. Pure; a store keeps what is said here.

`options` is what a program writes, `rules` what a store is told to enforce. `limit` is the
arithmetic of one limit and one key, `gate` all keys that jobs count under, `queue` the limits of a
queue itself, `fair` the turns of tenants, `pace` the estimate of when a full queue has room.
"""
