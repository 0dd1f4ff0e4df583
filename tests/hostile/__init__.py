"""Hostile and broken input: fuzzing, repositories that attack, edited state, full disks."""
