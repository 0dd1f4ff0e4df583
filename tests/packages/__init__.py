"""Programs inside packages."""
