from __future__ import annotations

import pytest

from autocompress.compress.base import CompressionRequest
from autocompress.compress.layers import FILTER_TYPES, LayerTarget, select_layers
from autocompress.compress.registry import compressor
from autocompress.compress.scopes import EVERYWHERE, Scopes
from autocompress.errors import ConfigError
from autocompress.testing.nets import Encoder

from .nets import IMAGE, build

ALL = (LayerTarget(("default",), rate=0.5),)
NAMES = ["encoder.layers.0.linear1", "encoder.layers.0.linear2", "encoder.layers.1.linear1", "encoder.layers.1.linear2"]
LAYERS = ["embedding", *NAMES, "head"]


@pytest.mark.parametrize(
    ("scopes", "selected"),
    [
        (EVERYWHERE, LAYERS),
        (Scopes(ignored=("head",)), LAYERS[:-1]),
        (Scopes(ignored=("encoder",)), ["embedding", "head"]),
        (Scopes(target=("encoder.layers.1",)), NAMES[2:]),
        (Scopes(target=("encoder",), ignored=("encoder.layers.0.linear1",)), NAMES[1:]),
        (Scopes(target=("{re}linear1$",)), [NAMES[0], NAMES[2]]),
        (Scopes(ignored=(r"{re}layers\.\d\.linear",)), ["embedding", "head"]),
        (Scopes(target=("head",), ignored=("nothing",), validate=False), ["head"]),
    ],
)
def test_what_is_left(scopes: Scopes, selected: list[str]) -> None:
    assert list(select_layers(Encoder(), ALL, FILTER_TYPES, scopes)) == selected


@pytest.mark.parametrize(
    ("scopes", "message"),
    [
        (Scopes(ignored=("encodr",)), r"ignored_scopes: 'encodr' matches nothing in the model \(close names: encoder"),
        (
            Scopes(target=("{re}linear3$",)),
            r"target_scopes: '{re}linear3\$' .* \(close names: encoder.layers.0.linear1,",
        ),
        (Scopes(target=("xyz",)), r"'xyz' matches nothing in the model \(names at its top: embedding, encoder, head\)"),
        (Scopes(target=("{re}(",)), r"must be followed by a regular expression; '{re}\('"),
        (Scopes(target=("head",), ignored=("head",)), "the scopes allow none of embedding, "),
    ],
)
def test_a_scope_that_is_no_use(scopes: Scopes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        select_layers(Encoder(), ALL, FILTER_TYPES, scopes)


def test_part_of_a_name_is_not_a_scope() -> None:
    with pytest.raises(ConfigError, match="'enc' matches nothing in the model"):
        Scopes(target=("enc",)).check(Encoder())


@pytest.mark.parametrize("name", ["l2", "level", "naive"])
def test_algorithms_heed_them(name: str) -> None:
    model, before = build("plain"), build("plain")
    rules = ALL if name != "naive" else (LayerTarget(("default",), quant_types=("weight",)),)
    request = CompressionRequest(name, rules, IMAGE, arguments={"ignored_scopes": ("conv1", "{re}head")})
    compressor(name).check(model, request)
    compression = compressor(name).compress(model, request)
    finished = compression.finish(compression.model)
    for layer in ("conv1", "head"):
        weight = finished.get_submodule(layer).weight
        kept = before.get_submodule(layer).weight[:, : weight.shape[1]] if layer == "conv1" else None
        assert weight.shape[0] == before.get_submodule(layer).weight.shape[0], layer
        assert kept is None or bool((weight == kept).all())
    changed = finished.get_submodule("conv2").weight
    assert changed.shape != before.get_submodule("conv2").weight.shape or bool(
        (changed != before.get_submodule("conv2").weight).any()
    )
