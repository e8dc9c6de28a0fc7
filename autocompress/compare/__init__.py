"""Comparing tuners: the same module, budget, objective, trial runner and number of trials for each."""
