"""Tests of the updater: trust, plan, transfer, install."""
