"""Search spaces from files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autocompress.config.generator import AutoCompressionSearchSpaceGenerator
from autocompress.config.space import SearchSpace
from autocompress.errors import ConfigError

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
        text = path.read_text(encoding="utf-8")
        return SearchSpace.parse(json.loads(text, object_pairs_hook=_unique))
    except OSError as error:
        raise ConfigError(f"search space file must be readable; got {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"search space file {path} must be UTF-8 text: {error}") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"search space file {path} must be JSON: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"search space file {path}: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are unique; JSON itself would silently keep the last of equal ones."""
    read: dict[str, Any] = {}
    for key, value in pairs:
        if key in read:
            raise ConfigError(f"an object must have each key once; got {key!r} twice")
        read[key] = value
    return read
