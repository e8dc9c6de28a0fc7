"""Checks of the user's module in seconds, before a search."""
