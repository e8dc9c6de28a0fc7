"""The specification of a trial: its parameters, its key, its random numbers."""

from __future__ import annotations

import hashlib
import json
import numbers
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from autocompress.compression.module import ModuleClass
from autocompress.errors import ConfigError
from autocompress.records import Purpose
from autocompress.search import require_objective
from autocompress.search_space import AlgorithmChoice, read_parameters, requested_rate
from autocompress.settings import NNCF
from autocompress.store.ledger import SearchParameters
from autocompress.trial.fine_tuning import find_trainer
from autocompress.trial.optimization import Optimization


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's random numbers on all devices.

    Results are bit-exact on the same machine with the same number of threads.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # the same, but for a note to each kind of device that might turn up, which takes a hundred times as long
        torch.default_generator.manual_seed(seed)


@contextmanager
def preserved_rng_state() -> Iterator[None]:
    """Restore the states of all random number generators after the block."""
    states = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


_LENGTH = 16


def trial_key(fingerprint: str, parameters: Mapping[str, Any], threshold: float) -> str:
    """Hash of everything that determines a trial's result, 16 hexadecimal digits.

    The threshold is part of it, as a trial stops at the first epoch within it.
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


_SEARCH_KEYS = SearchParameters.__annotations__.keys()


@dataclass(frozen=True)
class Stage:
    """One algorithm of a trial; a mix has two, one after the other."""

    choice: AlgorithmChoice  # the algorithm, its rules for layers and its arguments
    epochs: int  # the most epochs of fine-tuning after it

    @property
    def name(self) -> str:
        """Of the algorithm."""
        return self.choice.name

    @property
    def several_rates(self) -> bool:
        """Whether several rules carry a sparsity, so that the rate is what is achieved over the whole model."""
        return sum(rule.rate is not None for rule in self.choice.rules) > 1


@dataclass(frozen=True)
class TrialSpec:
    """One trial's parameters with all defaults filled in."""

    stages: tuple[Stage, ...]  # the algorithms to apply one after the other, with their epochs
    # by the search, else the only sparsity; None where there are several or none
    requested_rate: float | None
    start_from: str | None  # key of the trial whose checkpoint to start from; None for the pretrained model
    seed: int  # seed of everything random
    recalibrates: bool  # estimate BatchNorm's statistics again where only the trainer has inputs
    evaluate_first: bool  # evaluate before the first epoch; if that is feasible, do not train at all
    validate_every_n_epochs: int  # also evaluates after the last epoch
    objective: str  # what the score measures
    purpose: Purpose = "rate"
    confidence: float = 0.5  # with which a model must be within the budget
    pruning_steps: int = 1  # in which filters are removed
    second_chance_epochs: int = 0  # of each stage, where it ends outside the budget within the noise
    optimization: Optimization = field(default_factory=Optimization)

    @classmethod
    def read(cls, module: ModuleClass, parameters: Mapping[str, Any]) -> TrialSpec:
        """Read the JSON object; the epochs are the module's own where none are given, else `default_epochs`."""
        choice = read_parameters(parameters)
        search = dict(parameters.get("search") or {})
        unknown = sorted(set(search) - _SEARCH_KEYS)
        if unknown:
            raise ConfigError(
                f"unknown keys under 'search': {', '.join(unknown)} (known: {', '.join(sorted(_SEARCH_KEYS))})"
            )
        search = {**NNCF, "purpose": "rate", **search}
        return cls(
            stages=tuple(Stage(part, _epochs(module, part.name, search)) for part in choice.stages),
            requested_rate=requested_rate(parameters),
            start_from=search.get("start_from"),
            seed=int(search.get("seed", 0)),
            recalibrates=bool(search["validate_before_training"]),
            evaluate_first=bool(search.get("initial", False) or search["validate_before_training"]),
            validate_every_n_epochs=int(search.get("validate_every_n_epochs", 1)),
            objective=require_objective(search.get("objective", "rate")),
            purpose=search["purpose"],
            confidence=float(search["confidence"]),
            pruning_steps=int(search["pruning_steps"]),
            second_chance_epochs=int(search.get("second_chance_epochs", 0)),
            optimization=Optimization.of(search),
        )


def _epochs(module: ModuleClass, algorithm: str, search: Mapping[str, Any]) -> int:
    """Those in the parameters, else the module's own, else the default if there is a trainer."""
    if search.get("epochs") is not None:
        return int(search["epochs"])
    epochs = module.post_compress_finetuning_epochs(algorithm)
    if epochs is None:
        epochs = search.get("default_epochs", 0) if find_trainer(module, algorithm) is not None else 0
    return int(epochs)
