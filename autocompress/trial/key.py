"""The key of a trial: equal keys are never trained twice."""

from __future__ import annotations

import hashlib
import json
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
    content = {"module": fingerprint, "parameters": parameters, "threshold": threshold}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=float)
    return hashlib.sha256(text.encode()).hexdigest()[:_LENGTH]
