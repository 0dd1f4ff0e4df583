"""Fuzzing of every parser that reads bytes which Orbital did not write (docs/hostile.md)."""
