"""Feature packages, built and read back for real."""
