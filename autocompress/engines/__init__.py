"""Engines run the trials and translate; they decide nothing."""
