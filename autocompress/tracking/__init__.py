"""Telling others of a search while it runs: your own callbacks, TensorBoard, MLflow, Weights & Biases."""

from autocompress.tracking.callback import Callback
from autocompress.tracking.following import following

__all__ = ["Callback", "following"]
