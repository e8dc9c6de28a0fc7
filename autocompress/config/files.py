"""Search spaces from files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autocompress.config.generator import AutoCompressionSearchSpaceGenerator
from autocompress.config.space import SearchSpace
from autocompress.errors import ConfigError
from autocompress.plain_json import parse

SearchSpaceSource = str | os.PathLike[str] | Mapping[str, Any] | AutoCompressionSearchSpaceGenerator | SearchSpace


def load_search_space(source: SearchSpaceSource) -> SearchSpace:
    """The search space of a JSON file, of a JSON object, or of a generator.

    Raises:
        ConfigError: the file cannot be read, is not JSON, or the search space breaks a rule; naming the file.
    """
    if isinstance(source, SearchSpace):
        return source
    if isinstance(source, AutoCompressionSearchSpaceGenerator):
        return SearchSpace.parse(source.dumps())
    if not isinstance(source, str | os.PathLike):
        return SearchSpace.parse(source)
    path = Path(source)
    try:
        return SearchSpace.parse(parse(path.read_bytes(), unique_keys=True))
    except OSError as error:
        raise ConfigError(f"search space file must be readable; got {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"search space file {path} must be UTF-8 text: {error}") from error
    except ValueError as error:
        raise ConfigError(f"search space file {path} must be JSON: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"search space file {path}: {error}") from error
