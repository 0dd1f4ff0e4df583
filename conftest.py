"""Options and fixtures for every test."""

pytest_plugins = ["qemu.fixtures"]
