"""Campaigns that test the promises, and the document that their figures make. Host only."""
