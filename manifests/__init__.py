"""The documents all programs agree on: typed models, validation, JSON Schema."""
