"""What searches are configured with in `tests.benchmarks.answers`: parts of names, and what they stand for."""

import json
import sys
from dataclasses import dataclass, field
from typing import Any

from autocompress.errors import ConfigError
from autocompress.search_space import load_search_space
from autocompress.settings import AccuracyAwareSettings
from tests.benchmarks.peers import PEERS

PARTS = {
    "default": {},
    "nncf": {"preset": "nncf"},
    "global": {"parameter::allocation": "global"},
    "sensitivity": {"parameter::allocation": "sensitivity"},
    "least damage": {"parameter::allocation": "least_damage"},
    "constant": {"fine_tuning_schedule": "constant"},
    "linear": {"fine_tuning_schedule": "linear"},
    "cosine": {"fine_tuning_schedule": "cosine"},
    "lr .01": {"FASHION_MNIST_LR": "0.01"},
    "learning rates": {"learning_rate_factors": [1, 1 / 3, 1 / 10]},
    "distillation": {"knowledge_distillation": {"type": "auto", "scale": 0.5, "temperature": 2.0, "loss_scale": 0.5}},
    "no distillation": {"knowledge_distillation": None},
    "second chance": {"second_chance": True},
    "no second chance": {"second_chance": False},
    "look beyond": {"look_beyond": True},
    "paired": {"FASHION_MNIST_PER_SAMPLE": "1"},
    "three steps": {"pruning_steps": 3},
    "ema": {"weight_averaging": "ema"},
    "swa": {"weight_averaging": "swa"},
}
CONFIGURATIONS = (
    "default",
    "nncf",
    "nncf + lr .01",
    "nncf + linear",
    "nncf + linear + distillation",
    "nncf + sensitivity",
    *(
        f"default + {part}"
        for part in (
            "global",
            "sensitivity",
            "least damage",
            "no second chance",
            "look beyond",
            "paired",
            "paired + look beyond",
            "three steps",
            "ema",
            "swa",
            "learning rates",
            "no distillation",
            "cosine",
            "constant",
        )
    ),
)


@dataclass(frozen=True)
class Configuration:
    """What a search is run with.

    Attributes:
        peer: whether another library searches, which has its own.
        settings: that differ from the defaults.
        arguments: of the algorithm, by their keys in a search space.
        environment: variables of the example.
    """

    peer: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def named(cls, name):
        """The configuration of a name; ConfigError for an unknown part."""
        first, *others = name.split(" + ")
        found = cls(peer=first in PEERS)
        for part in others if found.peer else (first, *others):
            for each, value in _stands_for(part).items():
                kind = found.arguments if "::" in each else found.environment if each.isupper() else found.settings
                kind[each] = value
        return found

    def checked_settings(self, seed):
        """All settings of a search; of a peer's those that it shares with ours."""
        return AccuracyAwareSettings.from_dict({**({} if self.peer else self.settings), "seed": seed})

    def search_space(self, rate_of):
        sparsity = {"config_list::Conv2d:Linear::::sparsity": {"_type": "uniform", "_value": [0.0, 0.95]}}
        arguments = {"parameter::rate_of": rate_of, **self.arguments}
        fixed = {name: {"_type": "choice", "_value": [value]} for name, value in arguments.items()}
        option = {"_name": "l2", **sparsity, **fixed}
        return load_search_space({"algorithm_name": {"_type": "choice", "_value": [option]}})


def _stands_for(part):
    name, equals, value = part.partition("=")
    if not equals and part not in PARTS:
        known = ", ".join((*PARTS, *PEERS))
        raise ConfigError(f"a part of a configuration must be one of {known}, or name=value; got {part!r}")
    try:
        return {name: json.loads(value)} if equals else PARTS[part]
    except ValueError:
        return {name: value}


def known(names, rate_of):
    """Those that the installed version can search; a line is printed for each other."""
    kept = []
    for name in names:
        configuration = Configuration.named(name)
        try:
            configuration.checked_settings(0)
            configuration.search_space(rate_of)
        except ConfigError as error:
            print(f"left out: {name}: {str(error).partition(' (known')[0]}", file=sys.stderr)
        else:
            kept.append(name)
    return kept
