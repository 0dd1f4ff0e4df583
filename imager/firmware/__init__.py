"""How boards of each kind of firmware boot: boot artifacts, and what the factory writes."""
