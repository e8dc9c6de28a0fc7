"""ptq: post-training quantization to a real int8 model."""

from __future__ import annotations

from autocompress.algorithms.qat import Qat


class Ptq(Qat):
    """Makes the int8 model that `qat` makes, from ranges measured on calibration data, without training.

    Sources: as of `qat`; Krishnamoorthi 2018, arXiv:1806.08342, section 3.
    """

    name = "ptq"
    trains = False  # finished as it is calibrated


ALGORITHM = Ptq()
