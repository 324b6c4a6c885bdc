"""Flow control: which job runs next, and how many at once. Pure; a store keeps what is said here.

`rules` is what a store is told to enforce, `limit` the arithmetic of one limit and one key, `fair`
that of fair queues, `options` what a program writes.
"""
