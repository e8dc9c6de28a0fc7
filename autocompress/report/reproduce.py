"""How to run the same search again."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from autocompress.config import AccuracyAwareSettings
from autocompress.report.story import Story

_BY_OPTION = {
    "maximal_relative_accuracy_degradation": "--max-relative-drop",
    "maximal_absolute_accuracy_degradation": "--max-absolute-drop",
    "seed": "--seed",
}


@dataclass(frozen=True)
class Recipe:
    """How to run the same search again.

    Attributes:
        what: the kind of file that is needed.
        file: its name.
        content: its content, as JSON.
        command: the command line, or the lines of Python.
        changed: settings that must be given besides, by name.
    """

    what: str
    file: str
    content: Any
    command: str
    changed: list[tuple[str, Any]]


def recipe(story: Story) -> Recipe:
    """Of an experiment or a study its command line; of a training loop what makes it."""
    engine = story.settings["engine"]
    if engine.get("name") == "inprocess":
        return Recipe("configuration", "config.json", engine["config"], _loop(story), [])
    space = story.settings["search_space"]
    return Recipe("search space", "space.json", space, _command(story), _changed_settings(story))


def _loop(story: Story) -> str:
    settings = story.settings["settings"]
    names = ("minimal_compression_rate", "maximal_compression_rate", "validate_before_training", "seed")
    given = ", ".join(f"{name}={settings[name]!r}" for name in names)
    preflight = "" if settings["preflight"] else ", preflight=False"
    return "\n".join(
        [
            'config = CompressionConfig.from_json("config.json")',
            "compression_ctrl, model = create_compressed_model(model, config)",
            f"loop = create_accuracy_aware_training_loop(config, compression_ctrl, {story.baseline.accuracy!r},",
            f"    {given})",
            f"loop.run(model, train_epoch_fn, validate_fn, configure_optimizers_fn{preflight})",
        ]
    )


def _command(story: Story) -> str:
    settings, engine = story.settings["settings"], story.settings["engine"]
    words = ["autocompress", "run", _module(story), "--search-space", "space.json"]
    words += ["--engine", "optuna"] if engine.get("name") == "optuna" else []
    words += ["--objective", story.objective]
    for name, option in _BY_OPTION.items():
        words += [] if settings[name] is None else [option, f"{settings[name]:g}"]
    if (
        AccuracyAwareSettings.from_dict(settings).budget.unusual(
            story.baseline.accuracy, higher_is_better=story.baseline.higher_is_better
        )
        is not None
    ):
        words.append("--yes")
    words += [] if settings["preflight"] else ["--no-preflight"]
    if story.tuner != "AdaptiveCompression":
        words += ["--tuner", story.tuner, "--trials", str(len(story.records))]
    return shlex.join(words)


def _changed_settings(story: Story) -> list[tuple[str, Any]]:
    """Name and value of the settings that are not the defaults and have no option of their own."""
    defaults = AccuracyAwareSettings().to_dict()
    given = story.settings["settings"]
    return [
        (name, given[name])
        for name in defaults
        if name not in {*_BY_OPTION, "preflight"} and given[name] != defaults[name]
    ]


def _module(story: Story) -> str:
    module = story.settings["module"]
    place = module.get("file") or module.get("module")
    return f"{place}:{module['class_name']}"
