"""Termination: the boot decision and each boot loader, model-checked together."""
