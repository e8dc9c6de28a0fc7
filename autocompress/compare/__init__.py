"""Comparing tuners: the same module, budget, objective, trial runner and number of trials for each."""

from autocompress.report.comparison import Comparison

__all__ = ["Comparison"]
