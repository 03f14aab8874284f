"""The embedded critic: model, data, training."""
