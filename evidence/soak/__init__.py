"""Soak: a device lives through updates, rollbacks, package changes and power cuts, unattended."""
