"""NNI as the engine: its experiment, its manager and web page, its tuner and assessor protocol."""

from autocompress.engines.nni.experiment import AutoCompressionExperiment

__all__ = ["AutoCompressionExperiment"]
