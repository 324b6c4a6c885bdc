"""Flow control in the memory broker."""
