"""The first trial of an NNI experiment shows the uncompressed model, at rate 0 of NNI's charts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nni.tuner import Tuner

from autocompress.engines.nni.stock import StockTuner
from autocompress.engines.nni.tuner import AdaptiveCompression
from autocompress.trial.uncompressed import is_uncompressed, uncompressed_parameters

_SendTrial = Callable[[int, dict[str, Any]], None]


class _First(list[dict[str, Any]]):
    """One trial before the others, whose list may be longer than what it holds (see `tuner.Unsent`)."""

    def __init__(self, first: dict[str, Any], others: list[dict[str, Any]]) -> None:
        super().__init__([first, *others])
        self._length = 1 + len(others)

    def __len__(self) -> int:
        return self._length


class UncompressedFirst(Tuner):  # type: ignore[misc]  # NNI is not typed
    """A tuner behind a first trial that it never hears of.

    Args:
        tuner: chooses all other trials.
        shown: whether the first trial was sent already, before a resume.
    """

    def __init__(self, tuner: AdaptiveCompression | StockTuner, *, shown: bool) -> None:
        self._tuner = tuner
        self._shown = shown
        self._own: set[int] = set()

    def generate_multiple_parameters(
        self, parameter_id_list: list[int], st_callback: _SendTrial | None = None, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """The first trial, then what the tuner generates."""
        if self._shown:
            return self._tuner.generate_multiple_parameters(parameter_id_list, st_callback=st_callback, **kwargs)
        self._shown = True
        first, *others = parameter_id_list
        self._own.add(first)
        generated = self._tuner.generate_multiple_parameters(others, st_callback=st_callback, **kwargs)
        return _First(uncompressed_parameters(), generated if others else [])

    def receive_trial_result(self, parameter_id: int, parameters: Any, value: Any, **kwargs: Any) -> None:
        """A final metric has arrived."""
        if parameter_id not in self._own:
            self._tuner.receive_trial_result(parameter_id, parameters, value, **kwargs)

    def trial_end(self, parameter_id: int, success: bool, **kwargs: Any) -> None:
        """A trial's process has ended."""
        if parameter_id not in self._own:
            self._tuner.trial_end(parameter_id, success, **kwargs)

    def adopt(self, parameter_id: int, parameters: Mapping[str, Any]) -> None:
        """A trial of before a resume runs again."""
        if is_uncompressed(parameters):
            self._own.add(parameter_id)
        else:
            self._tuner.adopt(parameter_id, parameters)

    def import_data(self, data: list[dict[str, Any]]) -> None:
        """Finished trials of before a resume."""
        self._tuner.import_data([trial for trial in data if not is_uncompressed(trial["parameter"])])

    def update_search_space(self, search_space: Any) -> None:
        """Passed on."""
        self._tuner.update_search_space(search_space)
