from __future__ import annotations

import math
import re

import pytest

from autocompress.arguments import Argument
from autocompress.errors import ConfigError

EPOCHS = Argument("epochs", 1, minimum=1)
SCALE = Argument("scale", 1e-4)
MODE = Argument("mode", "normal", options=("normal", "global"))
FLAG = Argument("flag", False)
SCOPES = Argument("scopes", ())


@pytest.mark.parametrize(
    ("argument", "value", "checked"),
    [
        (EPOCHS, 3, 3),
        (EPOCHS, 3.0, 3),
        (SCALE, 1, 1),
        (SCALE, 0.0, 0.0),
        (MODE, "global", "global"),
        (FLAG, True, True),
        (SCOPES, ["a", "{re}b"], ("a", "{re}b")),
        (SCOPES, "a", ("a",)),
        (SCOPES, [], ()),
    ],
)
def test_allowed_values(argument, value, checked):
    answer = argument.check(value)
    assert (answer, type(answer)) == (checked, type(checked))


@pytest.mark.parametrize(
    ("argument", "value", "rule"),
    [
        (EPOCHS, 0, "a whole number >= 1"),
        (EPOCHS, 1.5, "a whole number >= 1"),
        (EPOCHS, True, "a whole number >= 1"),
        (EPOCHS, "2", "a whole number >= 1"),
        (SCALE, -1e-9, "a finite number >= 0"),
        (SCALE, math.inf, "a finite number >= 0"),
        (SCALE, None, "a finite number >= 0"),
        (MODE, "Global", "one of 'normal', 'global'"),
        (FLAG, 1, "true or false"),
        (SCOPES, [1], "a list of texts"),
        (SCOPES, 1, "a list of texts"),
    ],
)
def test_refused_values(argument, value, rule):
    with pytest.raises(ConfigError, match=f"^{re.escape(f'{argument.name} must be {rule}; got {value!r}')}$"):
        argument.check(value)
