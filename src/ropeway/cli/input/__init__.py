"""What the command line says: apps, arguments as JSON, durations, times and sizes."""
