"""Arguments that are of another kind than their annotations name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from autocompress.argument_checks import AT_LEAST_1, checked_arguments
from autocompress.errors import ConfigError


@dataclass
class Options:
    epochs: int = 1

    @classmethod
    def from_dict(cls, data):
        return cls(**data)


@checked_arguments
def takes(
    first: str,
    options: Options | None = None,
    path: str | Path = ".",
    rate: float = 0.5,
    jobs: Annotated[int, AT_LEAST_1] | None = None,
    flag: bool = False,
    on_end: Callable[[int], None] | None = None,
    space: Mapping[str, Any] | None = None,
    names: Sequence[str] = (),
    mode: Literal["fast", "slow"] = "fast",
    kind: type[Options] | None = None,
    anything: Any = None,
    **more: int,
):
    return first, options, path, rate, more


WRONG = [
    ({"first": 3}, "first must be a string; got 3 (int)"),
    (
        {"options": {"epochs": 2}},
        "options must be an Options or None; got {'epochs': 2} (dict): Options.from_dict makes one",
    ),
    ({"options": 2.0}, "options must be an Options or None; got 2.0 (float)"),
    ({"path": 5}, "path must be a path; got 5 (int)"),
    ({"rate": "0.5"}, "rate must be a number; got '0.5' (str)"),
    ({"rate": True}, "rate must be a number; got True (bool)"),
    ({"jobs": 0}, "jobs must be a whole number >= 1 or None; got 0 (int)"),
    ({"jobs": "2"}, "jobs must be a whole number >= 1 or None; got '2' (str)"),
    ({"jobs": 1.0}, "jobs must be a whole number >= 1 or None; got 1.0 (float)"),
    ({"flag": "no"}, "flag must be True or False; got 'no' (str)"),
    ({"flag": None}, "flag must be True or False; got None (NoneType)"),
    ({"on_end": 5}, "on_end must be a function or None; got 5 (int)"),
    ({"space": [1]}, "space must be a mapping or None; got [1] (list)"),
    ({"names": "ab"}, "names must be a sequence, each a string; got 'ab' (str)"),
    ({"names": ["a", 1]}, "names must be a sequence, each a string; got ['a', 1] (list)"),
    ({"mode": "quick"}, "mode must be one of 'fast', 'slow'; got 'quick' (str)"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_wrong_kinds(given, message):
    with pytest.raises(ConfigError) as refused:
        takes(**{"first": "x", **given})
    assert str(refused.value) == message


def test_right_kinds_are_passed_on_as_they_are():
    options = Options(3)
    given = {"path": Path("x"), "rate": 1, "jobs": np.int64(2), "flag": np.bool_(True), "names": ["a"], "more": 5}
    assert takes("x", options, **given, kind=3, anything=4, on_end=print, space={}) == (
        "x",
        options,
        Path("x"),
        1,
        {"more": 5},
    )
    assert takes("x", rate=np.float32(0.5))[3] == 0.5


def test_what_python_says_is_pythons():
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'first'"):
        takes()
    assert takes.__name__ == "takes"
