"""Flow control in the SQLite broker."""
