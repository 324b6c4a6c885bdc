"""Jobs, statuses and outcomes as the bytes that Redis keeps and its scripts read."""
