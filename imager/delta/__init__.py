"""Making deltas, on the host."""
