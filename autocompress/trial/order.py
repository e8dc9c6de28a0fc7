"""What a trial is asked to do, read from its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autocompress.compress.layers import LayerTarget
from autocompress.compress.module import ModuleClass
from autocompress.config import AlgorithmChoice, KnowledgeDistillation, read_parameters
from autocompress.errors import ConfigError
from autocompress.search import require_objective
from autocompress.trial.training import find_trainer

_SEARCH_KEYS = frozenset(
    {
        "compression_rate",
        "lr_factor",
        "start_from",
        "seed",
        "epochs",
        "default_epochs",
        "initial",
        "validate_before_training",
        "validate_every_n_epochs",
        "objective",
        "knowledge_distillation",
    }
)


@dataclass(frozen=True)
class Stage:
    """One algorithm of a trial; a mix has two, one after the other.

    Attributes:
        choice: the algorithm, its rules for layers and its arguments.
        epochs: the most epochs of fine-tuning after it.
    """

    choice: AlgorithmChoice
    epochs: int

    @property
    def name(self) -> str:
        """Of the algorithm."""
        return self.choice.name

    @property
    def targets(self) -> tuple[LayerTarget, ...]:
        """The rules that choose layers, as the compressors take them."""
        return tuple(
            LayerTarget(
                op_types=tuple(rule.op_types),
                op_names=tuple(rule.op_names),
                rate=rule.sparsity,
                exclude=rule.exclude,
                quant_types=rule.quant_types or (),
                quant=rule.quant,
            )
            for rule in self.choice.rules
        )

    @property
    def several_rates(self) -> bool:
        """Whether several rules carry a sparsity, so that the rate is what is achieved over the whole model."""
        return sum(rule.sparsity is not None for rule in self.choice.rules) > 1


@dataclass(frozen=True)
class TrialOrder:
    """One trial's parameters, with everything that was left out filled in.

    Attributes:
        stages: the algorithms to apply one after the other, with their epochs.
        requested_rate: what the search asked for; else the only sparsity; None where there are several or none.
        lr_factor: factor on the learning rates of fine-tuning.
        start_from: key of the trial whose checkpoint to start from; None for the pretrained model.
        seed: seed of everything random.
        evaluate_first: evaluate before the first epoch; if that is feasible, do not train at all.
        validate_every_n_epochs: evaluate after each so many epochs, and after the last.
        objective: what the score measures.
        distillation: how the uncompressed model teaches the compressed one; None: it does not.
    """

    stages: tuple[Stage, ...]
    requested_rate: float | None
    lr_factor: float
    start_from: str | None
    seed: int
    evaluate_first: bool
    validate_every_n_epochs: int
    objective: str
    distillation: KnowledgeDistillation | None = None

    @classmethod
    def read(cls, module: ModuleClass, parameters: Mapping[str, Any]) -> TrialOrder:
        """Read the JSON object; the epochs are the module's own where none are given, else `default_epochs`.

        Raises:
            ConfigError: the parameters name an unknown algorithm, objective or key.
        """
        choice = read_parameters(parameters)
        search = dict(parameters.get("search") or {})
        unknown = sorted(set(search) - _SEARCH_KEYS)
        if unknown:
            raise ConfigError(
                f"unknown keys under 'search': {', '.join(unknown)} (known: {', '.join(sorted(_SEARCH_KEYS))})"
            )
        rate = search.get("compression_rate")
        distillation = search.get("knowledge_distillation")
        return cls(
            stages=tuple(Stage(part, _epochs(module, part.name, search)) for part in choice.stages),
            requested_rate=choice.requested_rate() if rate is None else float(rate),
            lr_factor=float(search.get("lr_factor", 1.0)),
            start_from=search.get("start_from"),
            seed=int(search.get("seed", 0)),
            evaluate_first=bool(search.get("initial", False) or search.get("validate_before_training", False)),
            validate_every_n_epochs=int(search.get("validate_every_n_epochs", 1)),
            objective=require_objective(search.get("objective", "rate")),
            distillation=None if distillation is None else KnowledgeDistillation.from_dict(distillation),
        )


def _epochs(module: ModuleClass, algorithm: str, search: Mapping[str, Any]) -> int:
    """Those that are asked for, else the module's own, else the default where something trains."""
    if search.get("epochs") is not None:
        return int(search["epochs"])
    epochs = module.post_compress_finetuning_epochs(algorithm)
    if epochs is None:
        epochs = search.get("default_epochs", 0) if find_trainer(module, algorithm) is not None else 0
    return int(epochs)
