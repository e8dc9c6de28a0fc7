from autocompress.budget import AccuracyBudget as AccuracyBudget
from autocompress.compare.compare_tuners import compare_tuners as compare_tuners
from autocompress.compression.layers import register_module as register_module
from autocompress.compression.module import AbstractAutoCompressionModule as AbstractAutoCompressionModule
from autocompress.engines.nni import AutoCompressionExperiment as AutoCompressionExperiment
from autocompress.engines.optuna.sampler import AdaptiveCompressionSampler as AdaptiveCompressionSampler
from autocompress.engines.optuna.study import CompressionStudy as CompressionStudy
from autocompress.errors import AutoCompressError as AutoCompressError
from autocompress.formats.checkpoint import load_compressed as load_compressed
from autocompress.formats.export import export as export
from autocompress.one_call import compress as compress
from autocompress.registry import register_algorithm as register_algorithm
from autocompress.result import CompressionResult as CompressionResult
from autocompress.search_space import AutoCompressionSearchSpaceGenerator as AutoCompressionSearchSpaceGenerator
from autocompress.trial.check import check_module as check_module
from autocompress.trial.one_step import prune as prune
from autocompress.trial.one_step import quantize as quantize
from autocompress.trial.one_step import sensitivity as sensitivity
from autocompress.trial.run import run_trial as run_trial

__version__: str
