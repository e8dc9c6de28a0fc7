"""The key of a trial: equal keys are never trained twice."""

from __future__ import annotations

import hashlib
import json
import numbers
from collections.abc import Mapping
from typing import Any

_LENGTH = 16


def trial_key(fingerprint: str, parameters: Mapping[str, Any], threshold: float) -> str:
    """Hash of everything that determines a trial's result, 16 hexadecimal digits.

    Args:
        fingerprint: hash of the module's source text.
        parameters: the trial's JSON object: algorithm, options, rate, lr factor, start, seed, epochs.
        threshold: the worst tolerable accuracy; a trial leaves at the first epoch within it.
    """
    content = {"module": fingerprint, "parameters": _canonical(parameters), "threshold": threshold}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_LENGTH]


def _canonical(value: Any) -> Any:
    """The value as JSON with whole numbers as integers: NNI's manager, being JavaScript, turns 1.0 into 1."""
    if isinstance(value, Mapping):
        return {str(name): _canonical(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(entry) for entry in value]
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    number = float(value)
    return int(number) if number.is_integer() else number
