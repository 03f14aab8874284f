"""A run's folder: its log, its record, its checkpoint, and its progress."""
