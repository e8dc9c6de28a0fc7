"""Test utilities: modules whose accuracy is a closed form of their rate, and conformance suites."""

from autocompress.testing.fakes import Curve, CurveModule, CurveNet, cliff, flat, knee, never, noisy

__all__ = ["Curve", "CurveModule", "CurveNet", "cliff", "flat", "knee", "never", "noisy"]
