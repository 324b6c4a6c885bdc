"""The witnesses of the stores that `ropeway verify` knows."""
