"""Runs on the device: checks for, verifies and installs updates into the inactive slot."""
