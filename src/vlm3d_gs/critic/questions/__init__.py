"""The questions to a critic."""
