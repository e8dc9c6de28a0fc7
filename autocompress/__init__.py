"""autocompress: the highest compression rate of a PyTorch model within an accuracy budget.

Importing this package imports neither torch, nni nor optuna: each public name of `__init__.pyi` is imported when it is
first used. NNCF's interface is in `autocompress.nncf`, Optuna's in `autocompress.optuna`, trackers in
`autocompress.tracking`, errors in `autocompress.errors`, conformance suites in `autocompress.testing`.
"""

from autocompress.import_hooks import PreparingFinder, lazy_names

PreparingFinder.install()

__version__ = "0.1.0.dev0"
__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
