"""Tests of the campaigns, and a fixed sample of each."""
