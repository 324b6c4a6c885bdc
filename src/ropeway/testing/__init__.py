"""What others need to test with Ropeway: a clock moved by hand, the contract suite, the model.

`ropeway.testing.contract` and `ropeway.testing.model` need pytest, anyio and hypothesis, so
nothing of them is imported here.
"""
