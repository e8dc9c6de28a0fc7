"""The tuners that can be compared, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autocompress.errors import ConfigError, unknown_name

DEFAULT_TUNERS = ("adaptive", "tpe", "random", "grid", "evolution", "optuna-tpe", "optuna-gp")
"""Compared where none are named."""

Framework = Literal["adaptive", "nni", "optuna"]

_SHORT = {"grid": "GridSearch"}
_OPTUNA = "optuna-"
_INSTALL = {
    "Anneal": "nni[Anneal]",
    "DNGO": "nni[DNGO]",
    "PPO": "nni[PPOTuner]",
    "SMAC": "nni[SMAC]",
    "TPE_legacy": "nni[Anneal]",
    "CmaEs": "cmaes",
}


@dataclass(frozen=True)
class TunerName:
    """A tuner as users name it, and as its framework does."""

    label: str  # in tables: `adaptive`, `tpe`, `optuna-gp`
    framework: Framework  # whose it is
    name: str  # the framework's own name of it

    @property
    def install(self) -> str | None:
        """Package to install where the tuner cannot be imported; None where it is unknown."""
        return _INSTALL.get(self.name)


def tuner_named(label: str) -> TunerName:
    """The tuner of that name: `adaptive`, one of NNI's, or `optuna-` and one of Optuna's samplers.

    Raises:
        ConfigError: there is none.
    """
    text = label.strip().lower()
    if text in ("adaptive", "adaptivecompression"):
        return TunerName("adaptive", "adaptive", "AdaptiveCompression")
    if text.startswith(_OPTUNA):
        from autocompress.engines.optuna.storage import sampler_name

        return TunerName(text, "optuna", sampler_name(text.removeprefix(_OPTUNA)))
    return TunerName(text, "nni", _of_nni(text))


def _of_nni(text: str) -> str:
    from autocompress.engines.nni.builtin_tuners import builtin_tuner_names
    from autocompress.engines.optuna.storage import sampler_names

    known = {name.lower(): name for name in builtin_tuner_names()}
    wanted = _SHORT.get(text, text).lower()
    if wanted not in known:
        others = [f"{_OPTUNA}{name.lower()}" for name in sampler_names()]
        raise ConfigError(unknown_name("tuner", text, ["adaptive", *sorted(known), *_SHORT, *others]))
    return known[wanted]


def tuners_named(labels: str | Sequence[str]) -> list[TunerName]:
    """Several tuners, each once, from names or one comma-separated string."""
    texts = labels.split(",") if isinstance(labels, str) else labels
    named = [tuner_named(text) for text in texts if text.strip()]
    if not named:
        raise ConfigError(f"tuners must name at least one; got {labels!r}")
    return list(dict.fromkeys(named))
