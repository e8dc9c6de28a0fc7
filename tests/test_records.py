from __future__ import annotations

import dataclasses
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.errors import StoreError
from autocompress.records import SCHEMA_VERSION, Baseline, Measurement, Preflight, Proposal, TrialRecord

MEASUREMENT = Measurement(parameters=72_608, nonzero_parameters=72_000, macs=2_000_000, bytes=295_000)
BASELINE = Baseline(0.9867, None, True, MEASUREMENT, "abc123", 1.25)
PROPOSAL = Proposal("l1", 0.35, 0.05, -1, 0.5, "0123456789abcdef", 7, 3, initial=False)
RECORD = TrialRecord("0123456789abcdef", "l1", "completed")
RECORDS = [MEASUREMENT, BASELINE, PROPOSAL, RECORD]

each = pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)

text = st.text(max_size=20)
keys = st.from_regex(r"[0-9A-Za-z_-]{1,64}", fullmatch=True)
paths = st.lists(keys, min_size=1, max_size=3).map("/".join)
numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**53)
json_values = st.recursive(
    st.none() | st.booleans() | counts | numbers | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
measurements = st.builds(Measurement, counts, counts, counts, counts)
anything = st.one_of(
    measurements,
    st.builds(Baseline, numbers, st.none() | numbers, st.booleans(), measurements, text, numbers),
    st.builds(
        Proposal,
        text,
        st.none() | numbers,
        numbers,
        st.sampled_from([-1, 0, 1]),
        numbers,
        st.none() | keys,
        counts,
        counts,
        st.booleans(),
    ),
    st.builds(
        TrialRecord,
        keys,
        text,
        st.sampled_from(["completed", "stopped", "failed", "lost"]),
        parameters=st.dictionaries(text, json_values, max_size=4),
        requested_rate=st.none() | numbers,
        accuracy=st.none() | numbers,
        accuracy_margin=st.none() | numbers,
        accuracy_error=st.none() | numbers,
        feasible=st.booleans(),
        score=st.none() | numbers,
        bytes=st.none() | counts,
        epochs=counts,
        start_from=st.none() | keys,
        seconds=numbers,
        checkpoint=st.none() | paths,
        error=st.none() | text,
    ),
)


@pytest.mark.parametrize("record", [BASELINE, RECORD], ids=["baseline", "trial"])
def test_records_from_before_errors_were_known_are_read(record):
    older = record.to_dict()
    assert older.pop("accuracy_error") is None
    assert type(record).from_dict(older) == record


@settings(deadline=None)
@given(anything)
def test_a_record_comes_back_from_json_as_it_was(record):
    line = json.dumps(record.to_dict(), allow_nan=False)
    assert type(record).from_dict(json.loads(line)) == record


@each
def test_a_record_tells_all_its_fields_and_the_schema_version(record):
    names = [field.name for field in dataclasses.fields(record)]
    assert list(record.to_dict()) == ["schema_version", *names]
    assert record.to_dict()["schema_version"] == SCHEMA_VERSION == 1


@each
@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_schema_version(record, version):
    message = f"{type(record).__name__}: schema_version must be 1; got {version!r}"
    with pytest.raises(StoreError, match=f"^{re.escape(message)}$"):
        type(record).from_dict({**record.to_dict(), "schema_version": version})


@each
def test_no_schema_version(record):
    data = record.to_dict()
    del data["schema_version"]
    with pytest.raises(StoreError, match="schema_version must be 1; got None"):
        type(record).from_dict(data)


@each
def test_an_unknown_field(record):
    with pytest.raises(StoreError, match=f"^{type(record).__name__}: .*unexpected keyword argument 'colour'"):
        type(record).from_dict({**record.to_dict(), "colour": "red"})


@each
def test_a_missing_field(record):
    data = record.to_dict()
    name = dataclasses.fields(record)[0].name
    del data[name]
    with pytest.raises(StoreError, match=f"^{type(record).__name__}: .*missing .*{name!r}"):
        type(record).from_dict(data)


def test_fields_with_defaults_may_be_missing():
    data = {"schema_version": 1, "key": "0123456789abcdef", "algorithm": "l1", "state": "completed"}
    assert TrialRecord.from_dict(data) == RECORD


def test_a_broken_measurement_in_a_baseline():
    data = BASELINE.to_dict()
    del data["measurement"]["macs"]
    with pytest.raises(StoreError, match=r"^Measurement: .*missing .*'macs'"):
        Baseline.from_dict(data)


@each
def test_from_dict_leaves_its_argument_alone(record):
    data = record.to_dict()
    before = json.dumps(data)
    type(record).from_dict(data)
    assert json.dumps(data) == before


@each
def test_a_record_does_not_change(record):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, dataclasses.fields(record)[0].name, 1)


def test_a_baseline_with_its_preflight():
    preflight = Preflight((0.96, 0.97), 0.01, 0.1, 0.5, step_seconds=0.2, warnings=("noisy",))
    baseline = dataclasses.replace(BASELINE, preflight=preflight)
    again = Baseline.from_dict(json.loads(json.dumps(baseline.to_dict())))
    assert again == baseline
    assert (again.noise, BASELINE.noise) == (0.01, None)


def test_an_error_is_short_and_cannot_control_a_terminal():
    record = dataclasses.replace(RECORD, error="ValueError: \x1b[31m" + "x" * 50_000_000)
    assert len(record.error) <= 2000
    assert record.error.startswith("ValueError: xxx")
    assert TrialRecord.from_dict(record.to_dict()) == record
    told = TrialRecord.from_dict({**RECORD.to_dict(), "error": "\x1b]0;x\x07gone"})
    assert told.error == "gone"
