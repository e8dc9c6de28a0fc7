"""Following a search while it runs: callbacks of your own, TensorBoard, MLflow, Weights & Biases."""

from autocompress.tracking.callback import Callback, notify_callbacks
from autocompress.tracking.mlflow import MlflowCallback
from autocompress.tracking.tensorboard import TensorBoardCallback
from autocompress.tracking.wandb import WandbCallback

__all__ = ["Callback", "MlflowCallback", "TensorBoardCallback", "WandbCallback", "notify_callbacks"]
