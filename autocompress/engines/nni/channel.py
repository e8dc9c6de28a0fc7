"""The trial's side of NNI: its parameters come from NNI, its results go to NNI."""

from __future__ import annotations

import logging
from typing import Any

import nni

from autocompress.engines.nni.wire_format import from_page_parameters

_logger = logging.getLogger(__name__)


class NniChannel:
    """Connects `autocompress.trial` to the NNI manager that started the process."""

    def parameters(self) -> dict[str, Any]:
        """The parameters that the tuner generated."""
        return from_page_parameters(nni.get_next_parameter())

    def report_epoch(self, result: dict[str, Any]) -> None:
        """Report an intermediate result. If NNI has gone, the trial continues: its record on disk counts."""
        try:
            nni.report_intermediate_result(result)
        except OSError as error:
            _logger.warning("NNI did not take an intermediate result: %s", error)

    def report_final(self, result: dict[str, Any]) -> None:
        """Report the final result, `default` being the score."""
        try:
            nni.report_final_result(result)
        except OSError as error:
            _logger.warning("NNI did not take the final result: %s", error)
