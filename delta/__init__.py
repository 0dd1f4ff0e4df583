"""Deltas on the device: making a piece of a new image out of a base image and a payload."""
