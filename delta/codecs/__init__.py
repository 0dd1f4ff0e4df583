"""The ways in which a payload describes the bytes that are not copied: one module each."""
