"""Compressing and measuring PyTorch models: the user's module, compressors, checkpoints. Decides nothing.

Import what is needed from its modules; this package itself imports nothing, so that the fast parts stay fast.
"""
