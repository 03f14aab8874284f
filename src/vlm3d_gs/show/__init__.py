"""Pictures, films and pages of a scene."""
