"""For tests of users and our own: modules whose accuracy is a closed form of their rate."""

from autocompress.testing.fakes import Curve, CurveModule, CurveNet, cliff, flat, knee, never, noisy

__all__ = ["Curve", "CurveModule", "CurveNet", "cliff", "flat", "knee", "never", "noisy"]
