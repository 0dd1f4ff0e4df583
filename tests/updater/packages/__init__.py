"""Tests of feature packages on the device."""
