"""The rescue system's program: diagnosis, decision, repairs. `docs/rescue.md` is its guide."""
