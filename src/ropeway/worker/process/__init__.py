"""A worker as a process: health, logging, signals of the system, several processes."""
