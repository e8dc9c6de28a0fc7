"""The probe of a search: how sensitive each layer is, measured once, and kept for later searches on the same model.

Each result is on disk as soon as it is known, by a key that is a hash of all it depends on: a probe that was killed
goes on where it was, and a search with another budget, objective or engine finds it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

from torch import nn

from autocompress.argument_checks import AT_LEAST_1
from autocompress.compression.base import CompressionRequest
from autocompress.compression.measure import ReferenceModel
from autocompress.compression.model_state import copy_model, eval_mode, flatten_tensors, hash_tensors, require_gradients
from autocompress.compression.module import ModuleClass
from autocompress.compression.pruning.attention import split_attention
from autocompress.compression.pruning.channels import Channels
from autocompress.compression.pruning.groups import Coupling
from autocompress.compression.pruning.importance import ranked_couplings
from autocompress.compression.pruning.pruner import ALLOCATION, PROBED, FilterPruner, pruner_of
from autocompress.compression.pruning.sensitivity import (
    PROBE_SECONDS,
    CouplingProbe,
    Inputs,
    measured,
    probe_inputs,
    probe_of,
    ranking_arguments,
)
from autocompress.errors import StoreError
from autocompress.records import CouplingSensitivity, Sensitivity
from autocompress.registry import algorithm
from autocompress.search_space import AlgorithmSpace, SearchSpace, read_parameters
from autocompress.settings import AccuracyAwareSettings
from autocompress.store.journal import Journal
from autocompress.store.locks import lock
from autocompress.trial.process import PROGRESS_FILE
from autocompress.trial.spec import seed_everything
from autocompress.typed_fields import checked

_EPOCHS, _LEAST_SECONDS = 2, 2.0
"""Epochs that a probe may take, and its time where they are shorter."""

_REPORT_SECONDS = 20.0
_VERSION = 1
"""Part of the key; to be raised where the same model and inputs give other sensitivities."""

_logger = logging.getLogger("autocompress.probe")


def may_use_sensitivity(space: AlgorithmSpace) -> bool:
    """Whether trials of an algorithm may be allocated by the sensitivity of layers."""
    return any(space.may_have(ALLOCATION.name, each) for each in PROBED)


@dataclass(frozen=True)
class SearchProbe:
    """Measures what the trials of a search need.

    Attributes:
        module: the user's.
        settings: batches, widths, and the limit of a trial.
        reference_model: the uncompressed model.
        fingerprint: hash of the module's source text.
        epoch_seconds: of an epoch of training; None: not known.
        cache: where results are kept; None: nowhere.
    """

    module: ModuleClass
    settings: AccuracyAwareSettings
    reference_model: ReferenceModel
    fingerprint: str
    epoch_seconds: float | None = None
    cache: Path | None = field(default_factory=lambda: cache_directory())

    def run(self, space: SearchSpace) -> tuple[Sensitivity, ...]:
        """The sensitivities for each algorithm of a search space that may be allocated by them; empty: none is.

        Raises:
            AutoCompressError: the module has no inputs, or an algorithm cannot rank the model's filters.
        """
        requests = [self._request(each) for each in space.algorithms if may_use_sensitivity(each)]
        found = dict[str, Sensitivity]()
        for request in requests:
            new = self._measured(request, self.seconds / len(requests))
            before = found.setdefault(new.key, new)  # by the same ranking, of other layers
            others = tuple(each for each in new.couplings if before.of(each.layers[0]) is None)
            found[new.key] = dataclasses.replace(before, couplings=before.couplings + others)
        return tuple(found.values())

    @property
    def seconds(self) -> float:
        """The most that measuring may take: two epochs where their time is known, and half of what a trial may take."""
        epochs, limit = self.epoch_seconds, self.settings.maximal_trial_seconds
        most = PROBE_SECONDS if epochs is None else max(_LEAST_SECONDS, _EPOCHS * epochs)
        return most if limit is None else min(most, limit / 2)

    def _request(self, space: AlgorithmSpace) -> CompressionRequest:
        axis = space.axis()
        choice = read_parameters(space.parameters(None if axis is None else axis.high))
        part = next(each for each in choice.stages if isinstance(algorithm(each.name), FilterPruner))
        arguments = {**part.arguments, ALLOCATION.name: "sensitivity"}
        request = self.reference_model.request(part.name, part.rules, arguments, self.module)
        return pruner_of(request).translate(self.reference_model.original, request)

    def _measured(self, request: CompressionRequest, seconds: float) -> Sensitivity:
        seed_everything(0)
        started, model = time.monotonic(), copy_model(self.reference_model.original)
        inputs = probe_inputs(request, model, self.settings.probe_batches)
        key = self._key(request, inputs)
        split_attention(model, request.example_inputs)
        with _kept(self.cache, key) as kept, eval_mode(model), require_gradients(model):
            ranked, _ = ranked_couplings(model, request, Channels.of(model, request, self.reference_model.shapes))
            missing = [(coupling, scores) for coupling, scores in ranked if kept.of(coupling) is None]
            if missing:
                probe = self._prepared(kept, model, inputs, len(ranked), seconds)
                points = sum(len(probe.counts(coupling)) for coupling, _ in missing)
                with _progress(request.algorithm, points) as done:
                    for each in measured(probe, missing, done):
                        kept.add(each)
            found = [own for coupling, _ in ranked if (own := kept.of(coupling)) is not None]
        places = {name: place for place, name in enumerate(self.reference_model.shapes)}
        return Sensitivity(
            key=key,
            algorithm=request.algorithm,
            arguments=ranking_arguments(request.arguments),
            samples=kept.samples,
            seconds=round(time.monotonic() - started, 3),
            couplings=tuple(sorted(found, key=lambda each: places[each.layers[0]])),
        )

    def _prepared(
        self, kept: _Kept, model: nn.Module, inputs: Sequence[Inputs], couplings: int, seconds: float
    ) -> CouplingProbe:
        """The probe, which measures as a killed one did that it goes on with."""
        if kept.begun is None:
            compared = probe_of(self.module, model, inputs)
            probe = CouplingProbe.within(model, compared, couplings, self.settings.probe_widths, seconds)
            kept.begin(batches=probe.probe.batches, widths=probe.widths, samples=probe.probe.samples)
            return probe
        return CouplingProbe(model, probe_of(self.module, model, inputs[: kept.begun["batches"]]), kept.begun["widths"])

    def _key(self, request: CompressionRequest, inputs: Sequence[Inputs]) -> str:
        """Hash of what decides the result; not of the rules for layers, as each coupling is measured alone."""
        settings = [_VERSION, self.fingerprint, self.settings.probe_batches, self.settings.probe_widths]
        ranking = [request.algorithm, ranking_arguments(request.arguments)]
        digest = hashlib.sha256(json.dumps([*settings, *ranking], sort_keys=True).encode())
        hash_tensors(digest, self.reference_model.original.state_dict().items())
        hash_tensors(digest, (("", tensor) for tensor in flatten_tensors(inputs)))
        return digest.hexdigest()[:32]


def cache_directory() -> Path:
    """Where sensitivities are kept for later searches: `autocompress/sensitivities` in the user's cache directory."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "autocompress" / "sensitivities"


class _Begun(TypedDict):
    """How a probe measures, chosen when it began."""

    batches: Annotated[int, AT_LEAST_1]
    widths: Annotated[int, AT_LEAST_1]
    samples: Annotated[int, AT_LEAST_1]


class _Kept:
    """What has been measured by one key; on disk where there is a journal."""

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal
        self._couplings: list[CouplingSensitivity] = []
        self.begun: dict[str, Any] | None = None
        for event in [] if journal is None else _events(journal):
            if event["event"] == "begin":
                self.begun = checked(_Begun, str(journal and journal.path), event)
            elif self.begun is not None:
                self._couplings.append(CouplingSensitivity.from_dict(event["coupling"]))

    @property
    def samples(self) -> int:
        """On which was measured."""
        return 0 if self.begun is None else int(self.begun["samples"])

    def of(self, coupling: Coupling) -> CouplingSensitivity | None:
        """The sensitivity of a coupling; None where it has not been measured."""
        same = (each for each in self._couplings if each.layers == coupling.members and each.width == coupling.width)
        return next(same, None)

    def begin(self, **choices: int) -> None:
        """Note how the probe measures."""
        self.begun = choices
        self._append("begin", **choices)

    def add(self, found: CouplingSensitivity) -> None:
        """Note a result."""
        self._couplings.append(found)
        self._append("coupling", coupling=found.to_dict())

    def _append(self, event: str, **content: Any) -> None:
        if self._journal is not None:
            try:
                self._journal.append(event, **content)
            except StoreError as error:
                _logger.warning("sensitivities are not kept for later searches: %s", error)
                self._journal = None


def _events(journal: Journal) -> list[dict[str, Any]]:
    """What was measured before; a damaged file is measured anew."""
    try:
        journal.repair()
        return journal.read()
    except StoreError as error:
        _logger.warning("%s: the sensitivities are measured again", error)
        journal.path.unlink()
        return []


@contextlib.contextmanager
def _kept(cache: Path | None, key: str) -> Iterator[_Kept]:
    """What is kept by a key, while no other process measures the same."""
    with contextlib.ExitStack() as held:
        journal = None
        if cache is not None:
            try:
                cache.mkdir(parents=True, exist_ok=True)
                held.enter_context(lock(cache / f"{key}.lock", None))
                journal = Journal(cache / f"{key}.jsonl")
            except OSError as error:
                _logger.warning("sensitivities are not kept for later searches: %s", error)
        yield _Kept(journal)


@contextlib.contextmanager
def _progress(name: str, points: int) -> Iterator[Callable[[], None]]:
    """Show how far a probe is: in the file of a display, as a bar on a terminal, else in a line now and then."""
    what, file = f"measuring how sensitive each layer is ({name})", os.environ.get(PROGRESS_FILE)
    if file is None and sys.stderr.isatty():
        from rich.console import Console  # slow to import
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=points)
            yield lambda: bar.advance(task)
        return
    count, written = itertools.count(1), [time.monotonic()]

    def note() -> None:
        done = next(count)
        if file is not None:
            Path(file).write_text(json.dumps({"what": what, "done": done, "of": points}), encoding="utf-8")
        elif time.monotonic() - written[0] > _REPORT_SECONDS:
            print(f"{what}: {done} of {points}", file=sys.stderr, flush=True)
            written[0] = time.monotonic()

    yield note
