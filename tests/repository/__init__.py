"""Tests of the repository on the publisher's side."""
