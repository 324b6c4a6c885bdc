"""`concurrency="auto"`: how many jobs are in flight, found while they run."""
