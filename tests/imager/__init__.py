"""Tests of the image builder."""
