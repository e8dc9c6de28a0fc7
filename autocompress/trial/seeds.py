"""Making a trial repeatable."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's random numbers (all devices).

    Results are bit-exact on the same machine at the same number of threads.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # the same, but for a note to each kind of device that might turn up, which takes a hundred times as long
        torch.default_generator.manual_seed(seed)


@contextmanager
def unchanged_randomness() -> Iterator[None]:
    """Whatever the block draws, the random numbers after it are those that would have come without it."""
    states = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
