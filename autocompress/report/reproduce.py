"""How to run the same search again."""

from __future__ import annotations

import shlex
from typing import Any

from autocompress.config import AccuracyAwareSettings
from autocompress.report.story import Story

_BY_OPTION = {
    "maximal_relative_accuracy_degradation": "--max-relative-drop",
    "maximal_absolute_accuracy_degradation": "--max-absolute-drop",
    "seed": "--seed",
}


def command(story: Story) -> str:
    """The command line of the same search; the search space is in `space.json`."""
    settings, engine = story.settings["settings"], story.settings["engine"]
    words = ["autocompress", "run", _module(story), "--search-space", "space.json"]
    words += ["--engine", "optuna"] if engine.get("name") == "optuna" else []
    words += ["--objective", story.objective]
    for name, option in _BY_OPTION.items():
        words += [] if settings[name] is None else [option, f"{settings[name]:g}"]
    if story.tuner != "AdaptiveCompression":
        words += ["--tuner", story.tuner, "--trials", str(len(story.records))]
    return shlex.join(words)


def changed_settings(story: Story) -> list[tuple[str, Any]]:
    """Name and value of the settings that are not the defaults and have no option of their own."""
    defaults = AccuracyAwareSettings().to_dict()
    given = story.settings["settings"]
    return [(name, given[name]) for name in defaults if name not in _BY_OPTION and given[name] != defaults[name]]


def _module(story: Story) -> str:
    module = story.settings["module"]
    place = module.get("file") or module.get("module")
    return f"{place}:{module['class_name']}"
