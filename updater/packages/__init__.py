"""Feature packages: what a change of the set should be, and the one transaction that makes it."""
