"""Thousands of changed checkpoints: each is refused, or is a model; nothing is run, imported or touched."""

from __future__ import annotations

import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .fuzzing import WAYS, Fuzz
from .strange import KINDS, peak_bytes


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory):
    made = Fuzz(tmp_path_factory.mktemp("fuzz"))
    yield made
    made.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=60, suppress_health_check=list(HealthCheck), database=None)
@given(random=st.randoms(use_true_random=False))
def test_it_is_refused_or_a_model(fuzz, kind, way, random):
    before = peak_bytes()
    found = fuzz.example(kind, way, random)
    assert found.error is None, found.error
    assert (found.imports, found.files, found.executions) == ([], [], [])
    assert "canary_module" not in sys.modules
    assert not fuzz.canary.exists()
    assert found.answer in (("refused", "same") if way == "accident" else ("refused", "same", "other")), found
    assert peak_bytes() - before < 300 << 20
