"""Flow control as tests: limits, fair shares, bounds, batches."""
