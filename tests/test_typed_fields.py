from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Any, Literal

import pytest

from autocompress.errors import StoreError
from autocompress.records import Baseline, Measurement, ModelSizes, TrialRecord
from autocompress.typed_fields import AT_LEAST_0, DIRECTORY_NAME, INNER_PATH, from_fields
from tests.fuzzed_files import Watch


@dataclasses.dataclass(frozen=True)
class Inner:
    number: int


@dataclasses.dataclass(frozen=True)
class Outer:
    rate: float = 0.5
    count: Annotated[int, AT_LEAST_0] = 1
    flag: bool = False
    name: str | None = None
    kind: Literal["a", 1] = "a"
    pairs: tuple[Inner, ...] = ()
    names: dict[str, str] = dataclasses.field(default_factory=dict)
    many: list[int] = dataclasses.field(default_factory=list)
    anything: Any = None


@pytest.mark.parametrize(
    ("name", "value", "as_read"),
    [
        ("rate", 1, 1.0),
        ("count", 0, 0),
        ("name", None, None),
        ("kind", 1, 1),
        ("pairs", [{"number": 3}], (Inner(3),)),
        ("pairs", (Inner(3),), (Inner(3),)),
        ("names", {"a": "b"}, {"a": "b"}),
        ("many", [1, 2], [1, 2]),
        ("anything", {"x": [None]}, {"x": [None]}),
    ],
)
def test_values_of_the_right_type(name, value, as_read):
    found = getattr(from_fields(Outer, {name: value}), name)
    assert (found, type(found)) == (as_read, type(as_read))


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("rate", "0.5", "a finite number; got '0.5'"),
        ("rate", True, "a finite number; got True"),
        ("rate", float("nan"), "a finite number; got nan"),
        ("rate", float("inf"), "a finite number; got inf"),
        pytest.param("rate", 10**5000, "a finite number; got an int too long to show", id="digits"),
        ("rate", None, "a finite number; got None"),
        ("count", -1, "a whole number >= 0; got -1"),
        ("count", 1.0, "a whole number below 2**63; got 1.0"),
        ("count", False, "a whole number below 2**63; got False"),
        ("count", 2**63, "a whole number below 2**63; got 9223372036854775808"),
        ("flag", 1, "true or false; got 1"),
        ("name", 3, "a string or null; got 3"),
        ("kind", True, "one of 'a', 1; got True"),
        ("kind", "b", "one of 'a', 1; got 'b'"),
        ("kind", [], "one of 'a', 1; got []"),
        ("pairs", {"number": 3}, "a list; got {'number': 3}"),
        ("pairs", [3], "an object; got [3]"),
        ("names", {"a": 1}, "a string; got {'a': 1}"),
        ("names", [], "an object; got []"),
        ("many", ["x"], "a whole number below 2**63; got ['x']"),
    ],
)
def test_values_of_another_type(name, value, rule):
    with pytest.raises(StoreError, match=f"^{re.escape(f'Outer: {name} must be {rule}')}$"):
        from_fields(Outer, {name: value})


def test_a_wrong_value_further_in_names_its_own_record():
    with pytest.raises(StoreError, match="Inner: number must be a whole number"):
        from_fields(Outer, {"pairs": [{"number": "x"}]})


@pytest.mark.parametrize("key", ["0123456789abcdef", "a", "l1@0.5", "12", "key-1_2"])
def test_keys_that_name_a_directory(key):
    assert DIRECTORY_NAME.holds(key)


@pytest.mark.parametrize(
    "key", ["", ".", "..", "../x", "a/b", "a\\b", "/a", ".hidden", "a\0", "a b", "ä", "x" * 65, "a\n", 3]
)
def test_keys_that_lead_elsewhere(key):
    assert not DIRECTORY_NAME.holds(key)


@pytest.mark.parametrize("path", ["trials/a/checkpoint", "a", "a/b.c"])
def test_paths_inside(path):
    assert INNER_PATH.holds(path)


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x", "a/../../x", "a\\..\\..\\x", "C:\\x", "C:x", "\\\\host\\x", ".."]
)
def test_paths_that_lead_out(path):
    assert not INNER_PATH.holds(path)


def test_what_a_file_holds_does_not_decide_what_is_compiled():
    """Annotations are texts that Python compiles, those of inner classes with those of the outer one."""
    inner = dataclasses.make_dataclass("inner", [("number", "int")])
    outer = dataclasses.make_dataclass("outer", [("inner", inner | None, None)])
    from_fields(outer, {"inner": None})
    with Watch.on() as seen:
        assert from_fields(outer, {"inner": {"number": 3}}).inner.number == 3
    assert seen == []


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"checkpoint": "../../x"}, "checkpoint must be a path inside the experiment's directory"),
        ({"checkpoint": "/etc"}, "checkpoint must be a path inside"),
        ({"key": "../../x"}, "key must be of letters"),
        ({"start_from": "../x"}, "start_from must be of letters"),
        ({"state": "done"}, "state must be one of 'completed', 'stopped', 'failed', 'lost'"),
        ({"accuracy": "0.9"}, "accuracy must be a finite number or null"),
        ({"feasible": "yes"}, "feasible must be true or false"),
        ({"epochs": -1}, "epochs must be a whole number >= 0"),
        ({"parameters": []}, "parameters must be an object"),
    ],
)
def test_records_of_trials(changes, rule):
    whole = TrialRecord("0123456789abcdef", "l1", "completed").to_dict()
    with pytest.raises(StoreError, match=f"^TrialRecord: {re.escape(rule)}"):
        TrialRecord.from_dict({**whole, **changes})


@pytest.mark.parametrize("kind", [Measurement, Baseline, ModelSizes, TrialRecord])
@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_a_record_is_an_object(kind, value):
    with pytest.raises(StoreError, match=f"^{kind.__name__} must be an object; got "):
        kind.from_dict(value)


def test_nothing_is_removed_of_nothing():
    empty = Measurement(0, 0, 0, 0)
    assert set(empty.removed_in(empty).values()) == {0.0}
