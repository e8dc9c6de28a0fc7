"""For tests of users and our own: modules whose accuracy is a closed form of their rate."""

from autocompress.testing.curves import Curve, cliff, flat, knee, never, noisy
from autocompress.testing.fakes import CurveModule, CurveNet

__all__ = ["Curve", "CurveModule", "CurveNet", "cliff", "flat", "knee", "never", "noisy"]
