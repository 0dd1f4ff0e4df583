"""Runs on the host: builds signed images and factory disks, makes keys, publishes repositories."""
