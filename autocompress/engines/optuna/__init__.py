"""Optuna as an engine: the search rule as a sampler, and studies of our own trials."""
