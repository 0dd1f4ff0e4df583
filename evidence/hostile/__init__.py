"""Hostile and broken input, beside fuzzing: edited state, attacking repositories, failing disks."""
