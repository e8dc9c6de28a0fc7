"""Convert NNI's configuration to an experiment's plan, and complete it for NNI."""

from __future__ import annotations

import logging
import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nni.experiment import ExperimentConfig
from nni.experiment.config import AlgorithmConfig
from nni.experiment.config.utils import is_missing

from autocompress.compression.module_loading import ModuleReference
from autocompress.engines.nni.builtin_tuners import create_builtin_tuner, require_assessor, require_tuner
from autocompress.engines.nni.manager import is_remote, remote_command
from autocompress.engines.nni.wire_format import flattened
from autocompress.errors import ConfigError
from autocompress.plan import ADAPTIVE_TUNER, ExperimentPlan
from autocompress.search_space import SearchSpace, load_search_space
from autocompress.settings import AccuracyAwareSettings
from autocompress.trial.process import GRACE_SECONDS

_logger = logging.getLogger("nni.autocompress")
_CHANNEL = "autocompress.engines.nni.wire_format:NniChannel"
_NO_ALGORITHM = "_none_"  # NNI's placeholder, so that `config.tuner.name = ...` can be written


def plan_experiment(
    config: ExperimentConfig, module: ModuleReference, settings: AccuracyAwareSettings, objective: str | None
) -> ExperimentPlan:
    """The plan of a configuration: everything is checked that needs no model."""
    if config.search_space is None and config.search_space_file is None:
        raise ConfigError("the search space must be given: config.search_space or config.search_space_file")
    space = load_search_space(config.search_space if config.search_space is not None else config.search_space_file)
    tuner = _name(config.tuner, "tuner")
    tuner = ADAPTIVE_TUNER if tuner is None else require_tuner(tuner)
    arguments = _arguments(config.tuner)
    if tuner == ADAPTIVE_TUNER:
        _log_fixed_variables(space)
        settings = settings.with_changes(arguments)
    else:
        _check_builtin_tuner(config, tuner, arguments, space)
    assessor = _name(config.assessor, "assessor")
    return ExperimentPlan.of(
        module.to_dict(),
        space,
        settings,
        objective,
        tuner,
        tuner_arguments=arguments,
        assessor=ADAPTIVE_TUNER if assessor is None else require_assessor(assessor),
        assessor_arguments=_arguments(config.assessor),
    )


def _log_fixed_variables(space: SearchSpace) -> None:
    for algorithm in space.algorithms:
        for key, value in algorithm.fixed_variables:
            _logger.warning(
                "the adaptive search of %s moves the sparsity only; %s stays at %r", algorithm.name, key, value
            )


def complete_config(
    config: ExperimentConfig,
    experiment_id: str,
    directory: Path,
    module: ModuleReference,
    space: SearchSpace,
    seconds: float | None = None,
) -> None:
    """Fill in NNI's configuration in place: the trial command, NNI's directory, and the defaults.

    A trial that its limit of `maximal_trial_seconds` has not ended is ended by NNI.
    """
    if seconds is not None and config.max_trial_duration is None:
        config.max_trial_duration = math.ceil(seconds + GRACE_SECONDS)
    if is_missing(config.trial_concurrency):
        config.trial_concurrency = 1
    if str(config.trial_code_directory) == ".":
        config.trial_code_directory = module.root
    config.search_space = flattened(space.wire)
    config.search_space_file = None
    if is_remote(config):
        config.trial_command = remote_command(config, experiment_id, module.root, _CHANNEL, sys.executable)
        if config.nni_manager_ip is None:
            config.nni_manager_ip = "127.0.0.1"  # there, where its port is forwarded: see manager_hook.js
    place_config(config, directory)
    for kind in ("tuner", "assessor"):
        if _name(getattr(config, kind), kind) is None:
            setattr(config, kind, AlgorithmConfig(name=ADAPTIVE_TUNER, class_args={}))
    config.experiment_name = config.experiment_name or f"{module.class_name} (default metric: score)"


def place_config(config: ExperimentConfig, directory: Path) -> None:
    """Fill in, in place, what depends on where the experiment's directory is now: it may have been moved."""
    config.experiment_working_directory = str(directory / "nni")
    if not is_remote(config):
        command = [sys.executable, "-m", "autocompress.trial", str(directory), "--channel", _CHANNEL]
        config.trial_command = shlex.join(command)
        services = config.training_service
        for service in services if isinstance(services, list) else [services]:
            if isinstance(getattr(service, "trial_command", None), str):  # NNI has copied it there
                service.trial_command = config.trial_command


def canonical_json(config: ExperimentConfig) -> dict[str, Any]:
    """The configuration as JSON, validated by NNI."""
    return dict(_accepted(config.json))


def canonical(config: ExperimentConfig) -> ExperimentConfig:
    """A validated copy of the configuration with NNI's defaults filled in."""
    return _accepted(config.canonical_copy)


def _accepted(check: Callable[[], Any]) -> Any:
    try:
        return check()
    except Exception as error:  # NNI raises errors of many types
        raise ConfigError(f"NNI does not accept the configuration: {error}") from error


def _name(algorithm: Any, kind: str) -> str | None:
    name, class_name = getattr(algorithm, "name", None), getattr(algorithm, "class_name", None)
    if name is None and class_name is not None:
        raise ConfigError(f"{kind} must be named; custom classes are not taken: got class_name {class_name!r}")
    return None if name in (None, _NO_ALGORITHM) else str(name)


def _arguments(algorithm: Any) -> dict[str, Any]:
    return dict(getattr(algorithm, "class_args", None) or {})


def _check_builtin_tuner(config: ExperimentConfig, tuner: str, arguments: dict[str, Any], space: SearchSpace) -> None:
    builtin = create_builtin_tuner(tuner, arguments, seed=0)
    try:
        builtin.update_search_space(flattened(space.wire))
    except Exception as error:  # NNI's tuners raise errors of many types
        raise ConfigError(f"tuner {tuner!r} cannot take this search space: {error}") from error
    if config.max_trial_number is None and config.max_experiment_duration is None:
        raise ConfigError(
            f"tuner {tuner!r} does not end by itself: config.max_trial_number or config.max_experiment_duration "
            "must be set"
        )
