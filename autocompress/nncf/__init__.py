"""NNCF's interface: configuration files by NNCF's names and with its defaults, controllers and training loops."""

from autocompress.import_hooks import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
