"""Removing filters and zeroing weights."""
