"""SOG, PlayCanvas' web format."""
