"""Telling others of a search while it runs: your own callbacks, TensorBoard, MLflow, Weights & Biases."""

from autocompress.tracking.callback import Callback
from autocompress.tracking.following import notify_callbacks

__all__ = ["Callback", "notify_callbacks"]
