"""How an experiment's directory begins, or is gone on with."""

from __future__ import annotations

import logging
import re
from contextlib import ExitStack

from nni.experiment import ExperimentConfig

from autocompress.compress.loading import ModuleReference
from autocompress.engines.nni.configuration import canonical_json, complete_config
from autocompress.engines.nni.manager import end_process, find_manager
from autocompress.engines.plan import ExperimentPlan
from autocompress.engines.preflight import announce, length_of
from autocompress.errors import StoreError
from autocompress.store import ExperimentDirectory
from autocompress.trial.child import measure_in_child

_logger = logging.getLogger("nni.autocompress")


def created(
    plan: ExperimentPlan,
    config: ExperimentConfig,
    experiment_id: str,
    module: ModuleReference,
    store: ExperimentDirectory,
    held: ExitStack,
    *,
    confirmed: bool = True,
) -> ExperimentPlan:
    """Make the directory, measure the uncompressed model, and write the plan down.

    Args:
        plan: checked, without a baseline.
        config: NNI's, which is completed in place.
        experiment_id: NNI's.
        module: the user's.
        store: the directory.
        held: what is to be let go when the experiment stops; the directory's lock is added.
        confirmed: whether a budget that is hardly meant is warned of only.

    Returns:
        the plan with its baseline.

    Raises:
        AutoCompressError: the directory is taken, or the model cannot be measured.
    """
    store.create()
    held.enter_context(store.locked())
    baseline = measure_in_child(plan.module, plan.search_space, store.path, plan.settings, confirmed=confirmed)
    complete_config(config, experiment_id, store.path, module, plan.space)
    engine = {"name": "nni", "id": experiment_id, "config": canonical_json(config)}
    plan = plan.with_baseline(baseline, engine)
    store.write_settings(plan.to_dict())
    announce(plan, _logger, length_of(plan, config.max_trial_number))
    return plan


def reopened(
    experiment_id: str, module: ModuleReference, store: ExperimentDirectory, held: ExitStack
) -> ExperimentPlan:
    """Take over a directory: end a manager that was left, repair the journal.

    Args:
        experiment_id: NNI's.
        module: the user's.
        store: the directory.
        held: what is to be let go when the experiment stops; the directory's lock is added.

    Raises:
        StoreError: there is no experiment, or somebody runs it.
    """
    plan = ExperimentPlan.from_dict(store.settings())
    held.enter_context(store.locked())
    end_process(find_manager(experiment_id))
    store.journal.repair()
    if module.fingerprint() != plan.measured.fingerprint:
        _logger.warning(
            "the module's source has changed since the experiment began; finished trials keep their results"
        )
    return plan


def written_config(plan: ExperimentPlan, store: ExperimentDirectory) -> tuple[str, ExperimentConfig]:
    """NNI's id and configuration of an experiment, from its plan; NNI's files are in the experiment's directory.

    Raises:
        StoreError: the plan is of another engine, or NNI does not accept the configuration.
    """
    experiment_id, config = plan.engine.get("id"), plan.engine.get("config")
    if plan.engine.get("name") != "nni" or not isinstance(config, dict):
        raise StoreError(f"{store.settings_path} does not hold an NNI experiment")
    if not isinstance(experiment_id, str) or not re.fullmatch(r"[\w-]+", experiment_id):
        raise StoreError(f"{store.settings_path}: NNI's id must be of letters and digits; got {experiment_id!r}")
    try:
        known = ExperimentConfig(**config)
    except Exception as error:  # NNI raises whatever it likes
        raise StoreError(f"{store.settings_path}: NNI does not accept the configuration: {error}") from error
    known.experiment_working_directory = str(store.path / "nni")
    return experiment_id, known
