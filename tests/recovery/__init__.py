"""Tests of the program that decides at boot."""
