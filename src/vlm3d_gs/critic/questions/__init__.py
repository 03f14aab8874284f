"""What a critic is asked."""
