"""Feature packages on the device: decisions, records, and real mounts where the host can."""
