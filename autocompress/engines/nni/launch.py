"""Start NNI's manager on an experiment, and read what NNI stores about experiments."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

import requests
from nni.experiment import ExperimentConfig, launcher, rest
from nni.tools.nnictl.config_utils import Experiments
from nni.tools.nnictl.constants import NNI_HOME_DIR

from autocompress.engines.nni.manager import (
    Manager,
    make_private_directory,
    make_private_file,
    new_url_prefix,
    start_manager,
)
from autocompress.engines.nni.remote import is_remote
from autocompress.errors import EngineError


def launch_manager(action: str, experiment_id: str, config: ExperimentConfig, port: int, debug: bool) -> Manager:
    """Start a manager ("create", "resume" or "view") and wait until it answers; `post_experiment` starts its work."""
    prefix = new_url_prefix()
    arguments = launcher.NniManagerArgs(action, experiment_id, config, port, debug, False, prefix, None)
    log = Path(config.experiment_working_directory, experiment_id, "log")
    manager = start_manager(arguments, log, over_ssh=is_remote(config))
    _register(experiment_id, manager, config)
    return manager


def make_logs_private(experiment_id: str, config: ExperimentConfig) -> None:
    """Create NNI's directory and log of an experiment before NNI does, readable by their owner only."""
    for directory in (home := Path(config.experiment_working_directory), home / experiment_id):
        make_private_directory(directory)
    make_private_directory(home / experiment_id / "log")
    make_private_file(home / experiment_id / "log" / "experiment.log")


def post_experiment(manager: Manager, config: ExperimentConfig) -> None:
    """Let the manager begin; it then waits for the tuner."""
    try:
        rest.post(manager.port, "/experiment", config.json(), manager.url_prefix)
    except requests.RequestException as error:
        answer = getattr(error.response, "text", "") if error.response is not None else ""
        raise EngineError(f"NNI's manager did not take the experiment: {answer or error}") from error


def exists_in_nni(experiment_id: str, working_directory: Path) -> bool:
    """Whether NNI has written the experiment to its data base.

    NNI's own query unpickles what the data base holds.
    """
    path = working_directory / experiment_id / "db" / "nni.sqlite"
    query = "select count(*) from ExperimentProfile where id = ?"
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as base:
            return bool(base.execute(query, (experiment_id,)).fetchone()[0])
    except sqlite3.Error:  # no file or no table
        return False


def _register(experiment_id: str, manager: Manager, config: ExperimentConfig) -> None:
    """Enter it into NNI's private list of experiments, for `nnictl` and the page."""
    home = Path(NNI_HOME_DIR)
    if not home.exists():
        make_private_directory(home)
    make_private_file(home / ".experiment", b"{}")
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
