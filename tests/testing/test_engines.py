"""All engines hold what the shipped suite asks of an engine, and search alike; an engine that does not is found out."""

import dataclasses

import pytest

from autocompress.engines.base import engine_named, engine_names
from autocompress.errors import ConfigError
from autocompress.testing.engines import check_engine, check_refusals

RATES = [(0.65, "learning_rate"), (0.65, "learning_rate"), (0.65, "rate"), (0.6, "rate"), (0.6, "final")]
"""What the rule tries where the edge is at .62: two learning rates, down by .05 until it is crossed, the best again."""


@pytest.mark.slow
@pytest.mark.parametrize("name", engine_names())
def test_an_engine(name, tmp_path):
    assert check_engine(engine_named(name), tmp_path) == RATES


@pytest.mark.parametrize("name", engine_names())
def test_what_it_refuses(name, tmp_path):
    check_refusals(engine_named(name), tmp_path / "refused")


def test_an_engine_that_takes_every_option_is_found_out(tmp_path):
    engine = engine_named("nni-tuner")

    class Lenient(type(engine)):
        def create(self, request):
            return engine.create(dataclasses.replace(request, options={}))

    with pytest.raises(AssertionError, match="ConfigError must be raised; nothing was"):
        check_refusals(Lenient(), tmp_path / "refused")


def test_an_unknown_engine():
    with pytest.raises(ConfigError, match="unknown engine 'nnni'; did you mean 'nni'"):
        engine_named("nnni")
