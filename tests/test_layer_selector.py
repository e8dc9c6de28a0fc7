"""Selectors of layers: what they refuse, and how they read. Their keys: `search_space/test_space.py`."""

import pytest

from autocompress.errors import ConfigError
from autocompress.layer_selector import LayerRule, LayerSelector


def test_a_rule_selects_something():
    with pytest.raises(ConfigError, match="must have op_types or op_names; got neither"):
        LayerRule(rate=0.5)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (((), ("a:b",)), "a name in op_names must be a string without ':' that is not empty; got 'a:b'"),
        ((("Conv2d", "Conv2d"),), "op_types must not name anything twice"),
        ((("Conv2d",), (), ("wieght",)), "unknown quant type 'wieght'; did you mean 'weight'?"),
    ],
)
def test_names_that_no_key_can_carry(lists, message):
    with pytest.raises(ConfigError) as caught:
        LayerSelector(*lists)
    assert message in str(caught.value)


def test_as_it_reads_in_messages():
    assert str(LayerSelector(("Conv2d",), ("a.b",))) == "op_types ['Conv2d'], op_names ['a.b']"
    assert str(LayerRule((), ("a",), ("weight",), quant={"quant_bits": 4})) == "op_names ['a'], quant_types ['weight']"
