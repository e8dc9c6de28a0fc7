"""What is compared, written down, so that a comparison can be gone on with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autocompress.compare.names import TunerName
from autocompress.compare.order import SearchOrder
from autocompress.compress.loading import ModuleReference
from autocompress.config import AccuracyAwareSettings
from autocompress.errors import ConfigError, StoreError
from autocompress.records import Baseline
from autocompress.store.files import read_json, write_json
from autocompress.trial.child import measure_in_child

_logger = logging.getLogger("autocompress.compare")


def begun(home: Path, wanted: Mapping[str, Any], reference: ModuleReference) -> Baseline:
    """The uncompressed model, measured once for all searches; what is compared is written down beside it.

    Args:
        home: the comparison's directory, which is there, and held.
        wanted: what is compared, as JSON.
        reference: the user's module.

    Raises:
        StoreError: the directory belongs to another comparison, or cannot be written.
        AutoCompressError: the model cannot be measured.
    """
    path = home / "plan.json"
    if not path.exists():
        if any(entry.name != ".lock" for entry in home.iterdir()):
            raise StoreError(f"the directory must be empty, or of this comparison; {home} holds other files")
        settings = AccuracyAwareSettings.from_dict(wanted["settings"])
        measured = measure_in_child(wanted["module"], wanted["search_space"], home.parent, settings)
        write_json(path, {**wanted, "baseline": measured.to_dict()})
        for warning in measured.preflight.warnings if measured.preflight is not None else ():
            _logger.warning("%s", warning)
    known = read_json(path)
    _require_same(home, wanted, known)
    baseline = Baseline.from_dict(known.get("baseline", {}))
    if baseline.fingerprint != reference.fingerprint():
        raise StoreError(f"{home} must be of the same module, whose source has changed: name another directory")
    return baseline


def _require_same(home: Path, wanted: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        if not (_same_search(value, known.get(name)) if name == "settings" else known.get(name) == value):
            raise StoreError(
                f"{home} must be of the same comparison; its {name} is another one: name another directory"
            )


def _same_search(wanted: Any, known: Any) -> bool:
    try:
        return AccuracyAwareSettings.from_record(wanted).searches_like(AccuracyAwareSettings.from_record(known))
    except ConfigError:  # damaged, or of another version
        return False


def order(home: Path, wanted: Mapping[str, Any], baseline: Baseline, tuner: TunerName, seed: int) -> SearchOrder:
    """One search of the comparison."""
    return SearchOrder(
        tuner=tuner,
        settings=AccuracyAwareSettings.from_dict({**wanted["settings"], "seed": seed}),
        directory=home / tuner.label / str(seed),
        baseline=baseline,
        **{name: wanted[name] for name in ("trials", "engine", "module", "search_space", "objective")},
    )
