"""The rescue system: what is in it, and its boot artifact."""
