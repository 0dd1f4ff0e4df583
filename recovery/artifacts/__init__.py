"""Whether a boot artifact is whole, by what it carries itself: one module a kind. Pure."""
