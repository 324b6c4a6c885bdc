"""Where handlers run (loop, thread, process), and what the end of a run means."""
