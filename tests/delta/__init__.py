"""Tests of deltas: format, codecs, rewriting, matching."""
