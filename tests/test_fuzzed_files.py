"""Files that somebody else wrote are data: our errors, or an answer; nothing is imported, run or written."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autocompress.errors import AutoCompressError, StoreError
from tests.fuzzed_files import Watch, attempt, broken, flipped, kinds, written

NAMES = [kind.name.rpartition("/")[2] for kind in kinds("any")]
EXAMPLES = 40
"""Of each kind; `python -m tests.benchmarks.fuzz_files` tries more."""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    found = dict(zip(NAMES, kinds(written(folder)), strict=True))
    for kind in found.values():
        kind.read(folder)  # what is imported when it is needed
    return folder, found


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_file_is_read_and_does_nothing_else(experiment, name):
    folder, found = experiment
    path = folder / found[name].name
    answer = attempt(found[name], folder, path.read_bytes())
    assert not isinstance(answer, AutoCompressError), answer


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_broken_file(experiment, name, data):
    folder, found = experiment
    whole = (folder / found[name].name).read_bytes()
    attempt(found[name], folder, data.draw(broken(whole, lines=found[name].lines)))


@pytest.mark.parametrize("name", ["journal.jsonl", "experiment.json", "record.json", "layers.json", "curve.jsonl"])
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_flipped_bit_is_found_or_changes_nothing(experiment, name, data):
    folder, found = experiment
    whole = (folder / found[name].name).read_bytes()
    known = repr(attempt(found[name], folder, whole))
    answer = attempt(found[name], folder, flipped(whole, data.draw(st.integers(0, 8 * len(whole) - 1))))
    assert isinstance(answer, StoreError) or repr(answer) == known


@pytest.mark.parametrize(
    "code",
    ["import this", "open(path, 'w')", "exec('1')", "eval('1')", "__import__('os').system('true')", "path.unlink()"],
)
def test_the_watch_sees(tmp_path, code):
    """What the test above could not fail without."""
    path = tmp_path / "file"
    path.touch()
    compiled = compile(code, "attack", "exec")
    with Watch.on() as seen:
        exec(compiled)
    assert len(seen) > 1, "exec itself is one"
