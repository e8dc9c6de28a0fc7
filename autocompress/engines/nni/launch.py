"""Starting NNI's manager on an experiment, and what NNI itself remembers of experiments."""

from __future__ import annotations

import time
from pathlib import Path

import requests
from nni.experiment import ExperimentConfig, launcher, rest
from nni.tools.nnictl.config_utils import Experiments

from autocompress.engines.nni.machines import is_remote
from autocompress.engines.nni.manager import Manager, new_url_prefix, start_manager
from autocompress.errors import EngineError


def launch_manager(action: str, experiment_id: str, config: ExperimentConfig, port: int, debug: bool) -> Manager:
    """Start a manager for an experiment and wait until it answers; `post_experiment` sets it to work.

    Args:
        action: "create", "resume" or "view".
        experiment_id: NNI's id.
        config: NNI's configuration, canonical.
        port: port on 127.0.0.1.
        debug: whether the manager logs at debug level.

    Raises:
        EngineError: the port is taken, or the manager does not start.
    """
    prefix = new_url_prefix()
    channel = None if action == "view" else Manager.tuner_channel_of(port, prefix)
    arguments = launcher.NniManagerArgs(action, experiment_id, config, port, debug, False, prefix, channel)
    log = Path(config.experiment_working_directory, experiment_id, "log")
    manager = start_manager(arguments, log, over_ssh=is_remote(config))
    _register(experiment_id, manager, config)
    return manager


def post_experiment(manager: Manager, config: ExperimentConfig) -> None:
    """Let the manager begin; it then waits for the tuner.

    Raises:
        EngineError: it refuses the configuration.
    """
    try:
        rest.post(manager.port, "/experiment", config.json(), manager.url_prefix)
    except requests.RequestException as error:
        answer = getattr(error.response, "text", "") if error.response is not None else ""
        raise EngineError(f"NNI's manager did not take the experiment: {answer or error}") from error


def known_to_nni(experiment_id: str, working_directory: Path) -> bool:
    """Whether NNI had written the experiment to its data base, or was killed before."""
    try:
        return launcher.get_stopped_experiment_config_json(experiment_id, str(working_directory)) is not None
    except Exception:  # noqa: BLE001 - no file, no table, no row: all the same here
        return False


def _register(experiment_id: str, manager: Manager, config: ExperimentConfig) -> None:
    """Enter it into NNI's list of experiments, for `nnictl` and the page's own list."""
    Experiments().add_experiment(
        experiment_id,
        manager.port,
        int(time.time() * 1000),
        config.training_service.platform,
        config.experiment_name,
        pid=manager.process.pid,
        logDir=str(config.experiment_working_directory),
        prefixUrl=manager.url_prefix,
    )
