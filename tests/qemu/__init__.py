"""Tests of the QEMU harness."""
