"""NNCF-style configuration files: JSON with comments, by NNCF's names and with its defaults."""

from autocompress.nncf.config import CompressionConfig
from autocompress.nncf.search_translation import all_scopes, options_of, search_space_of, settings_of

__all__ = ["CompressionConfig", "all_scopes", "options_of", "search_space_of", "settings_of"]
