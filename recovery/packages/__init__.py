"""Feature packages on the device: verified, mounted, isolated, and switched as a set."""
