"""Everything that needs no boot."""
