"""The smallest and most trusted program: decides, activates, health-checks, commits or falls back.

Standard library only. Runs on the device, first of all of Orbital's code.
"""
