"""Finished models as files: checkpoints and exports."""
