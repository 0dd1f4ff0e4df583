"""Tests of the command line layer."""
