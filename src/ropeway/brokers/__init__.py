"""The brokers: one module or package each, independent of each other."""
