"""What a run found out, as one plain object, and how it is shown."""
