"""The first trial on NNI's page: the uncompressed model, at rate 0 of its charts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nni.tuner import Tuner

from autocompress.engines.nni.builtin_tuners import BuiltinTuner
from autocompress.engines.nni.tuner import AdaptiveCompression
from autocompress.engines.nni.wire_format import from_page_parameters, to_page_parameters
from autocompress.trial.baseline import is_uncompressed, uncompressed_parameters

_SendTrial = Callable[[int, dict[str, Any]], None]


class _Answer(list[dict[str, Any]]):
    """Trials in the page's format, of the length that NNI requested (see `DeferredParameters`)."""

    def __init__(self, first: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
        super().__init__(to_page_parameters(parameters) for parameters in (*first, *others))
        self._length = len(first) + len(others)

    def __len__(self) -> int:
        return self._length


class BaselineFirstTuner(Tuner):  # type: ignore[misc]  # NNI is not typed
    """A tuner behind a first trial that it does not know: the uncompressed model."""

    def __init__(self, tuner: AdaptiveCompression | BuiltinTuner, *, begun: bool) -> None:
        self._tuner = tuner
        self._begun = begun
        self._own: set[int] = set()

    def generate_multiple_parameters(
        self, parameter_id_list: list[int], st_callback: _SendTrial | None = None, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """The baseline trial, then what the tuner generates."""
        first, others = [], list(parameter_id_list)
        if not self._begun:
            self._begun = True
            self._own.add(others.pop(0))
            first = [uncompressed_parameters()]

        def send(parameter_id: int, parameters: dict[str, Any]) -> None:
            if st_callback is not None:
                st_callback(parameter_id, to_page_parameters(parameters))

        generated = self._tuner.generate_multiple_parameters(others, st_callback=send, **kwargs) if others else []
        return _Answer(first, generated)

    def receive_trial_result(self, parameter_id: int, parameters: Any, value: Any, **kwargs: Any) -> None:
        """Pass a final metric on."""
        if parameter_id not in self._own:
            self._tuner.receive_trial_result(parameter_id, from_page_parameters(parameters), value, **kwargs)

    def trial_end(self, parameter_id: int, success: bool, **kwargs: Any) -> None:
        """Pass the end of a trial on."""
        if parameter_id not in self._own:
            self._tuner.trial_end(parameter_id, success, **kwargs)

    def adopt(self, parameter_id: int, parameters: Mapping[str, Any]) -> None:
        """Take over a trial that runs again after a resume."""
        if is_uncompressed(parameters):
            self._own.add(parameter_id)
        else:
            self._tuner.adopt(parameter_id, from_page_parameters(parameters))

    def import_data(self, data: list[dict[str, Any]]) -> None:
        """Pass on the trials that finished before a resume."""
        others = (trial for trial in data if not is_uncompressed(trial["parameter"]))
        self._tuner.import_data([{**trial, "parameter": from_page_parameters(trial["parameter"])} for trial in others])

    def update_search_space(self, search_space: Any) -> None:
        """Passed on."""
        self._tuner.update_search_space(search_space)
