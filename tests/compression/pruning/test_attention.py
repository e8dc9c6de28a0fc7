"""Attention with projections of its own: the same results as PyTorch's, heads that can be removed, and the way back."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from autocompress.compression.base import CompressionRequest, compressor, layer_shapes
from autocompress.compression.pruning.attention import (
    SplitAttention,
    joined_attention,
    split,
    split_attention,
)
from autocompress.errors import CompressionError
from autocompress.formats.checkpoint import load_compressed, save_checkpoint
from autocompress.layer_selector import LayerRule

WIDTH, HEADS, BATCH, QUERIES, KEYS = 12, 3, 2, 4, 5
X = torch.randn(BATCH, QUERIES, WIDTH, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """An attention between two linear layers; what it is given beside an input is its mask for each head."""

    def __init__(self, kind: type[nn.MultiheadAttention] = nn.MultiheadAttention, **options: Any) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        self.attention = kind(WIDTH, HEADS, batch_first=True, **options)
        self.position, self.head = nn.Parameter(torch.randn(QUERIES, WIDTH)), nn.Linear(WIDTH, 5)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.norm(self.embed(x).view(-1, QUERIES, WIDTH) + self.position)
        return self.head(x + self.attention(x, x, x, attn_mask=mask)[0]).mean(1)


def pair(**options: Any) -> tuple[nn.MultiheadAttention, SplitAttention]:
    attention = nn.MultiheadAttention(WIDTH, HEADS, **options)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(torch.randn_like(parameter) / 3)
    twin: Any = copy.deepcopy(attention)
    split(twin)
    return attention, twin


def calls(attention: nn.MultiheadAttention, *, batched: bool) -> Any:
    """Arguments of every kind: masks of booleans and numbers for all heads or for each, weights or none."""
    first = attention.batch_first or not batched

    def drawn(length: int, width: int) -> torch.Tensor:
        shape = (BATCH, length, width) if batched else (length, width)
        return torch.randn(shape if first else (length, BATCH, width))

    samples = BATCH if batched else 1
    inputs = drawn(QUERIES, WIDTH), drawn(KEYS, attention.kdim), drawn(KEYS, attention.vdim)
    hidden = torch.rand(samples * HEADS, QUERIES, KEYS) > 0.6
    hidden[..., 0] = False
    padding = torch.zeros((BATCH, KEYS) if batched else (KEYS,), dtype=torch.bool)
    padding[..., -2:] = True
    causal = torch.ones(QUERIES, KEYS).triu(1).bool()
    masks = (None, hidden[0], hidden, hidden * -1.5, causal)
    for mask, pad, weights, average in itertools.product(masks, (None, padding, padding * -2.0), *[(True, False)] * 2):
        yield (
            inputs,
            {
                "attn_mask": mask,
                "key_padding_mask": pad,
                "need_weights": weights,
                "average_attn_weights": average,
                "is_causal": mask is causal,
            },
        )


@pytest.mark.filterwarnings("ignore:Support for mismatched")
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_first": True},
        {"bias": False, "add_zero_attn": True},
        {"kdim": 6, "vdim": 10, "add_bias_kv": True},
        {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True},
    ],
    ids=str,
)
def test_results_are_those_of_pytorch(options: dict[str, Any], batched: bool) -> None:
    attention, twin = pair(**options)
    for inputs, keywords in calls(attention, batched=batched):
        for wanted, found in zip(attention(*inputs, **keywords), twin(*inputs, **keywords), strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("weights", [True, False])
def test_half_precision_and_autocast(weights: bool) -> None:
    attention, twin = pair(batch_first=True)
    mask = torch.ones(QUERIES, QUERIES).triu(1).bool()
    keywords = {"need_weights": weights, "attn_mask": mask}
    half = [copy.deepcopy(each).bfloat16()(*[X.bfloat16()] * 3, **keywords) for each in (attention, twin)]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = [each(X, X, X, **keywords) for each in (attention, twin)]
    for wanted, found in (half, mixed):
        for one, other in zip(wanted, found, strict=True):
            torch.testing.assert_close(other, one, atol=2e-2, rtol=2e-2)  # two of the last digits


def test_gradients_are_those_of_pytorch() -> None:
    attention, twin = pair(batch_first=True, dropout=0.0)
    for each in (attention, twin):
        each(X, X, X)[0].square().sum().backward()
    rows = torch.cat([twin.q_proj.weight.grad, twin.k_proj.weight.grad, twin.v_proj.weight.grad])
    torch.testing.assert_close(rows, attention.in_proj_weight.grad)


@pytest.mark.parametrize("batch_first", [True, False])
def test_pytorchs_encoder_takes_its_ordinary_path(batch_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=batch_first)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=batch_first).eval()
    twin = copy.deepcopy(encoder)
    assert split_attention(twin) == {}
    x = X if batch_first else X.transpose(0, 1)
    padding = torch.tensor([[False] * QUERIES, [False, False, True, True]])
    for keywords in ({}, {"src_key_padding_mask": padding}):
        for gradient in (True, False):
            with torch.set_grad_enabled(gradient):
                torch.testing.assert_close(twin(x, **keywords), encoder(x, **keywords), atol=1e-5, rtol=1e-5)
    twin.layers[0].self_attn.remove_heads([1])
    assert twin(x, src_key_padding_mask=padding).shape == x.shape


def test_pytorchs_transformer_computes_the_same() -> None:
    model = nn.Transformer(WIDTH, 2, 1, 1, 16, dropout=0.0, batch_first=True)
    twin = copy.deepcopy(model)
    split_attention(twin)
    causal = nn.Transformer.generate_square_subsequent_mask(QUERIES)
    torch.testing.assert_close(twin(X, X, tgt_mask=causal), model(X, X, tgt_mask=causal))


@pytest.mark.parametrize("options", [{}, {"kdim": 6}, {"add_bias_kv": True, "bias": False}], ids=str)
def test_what_is_joined_again_has_the_same_names_and_values(options: dict[str, Any]) -> None:
    attention, twin = pair(**options)
    model = nn.ModuleList([twin])
    assert joined_attention(model)[0] is twin
    assert type(twin) is nn.MultiheadAttention
    assert vars(twin).keys() == vars(attention).keys()
    wanted, found = attention.state_dict(), twin.state_dict()
    assert list(wanted) == list(found)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert twin.num_heads == HEADS


def test_frozen_shared_and_hooked_attentions_stay_so() -> None:
    model, seen = nn.ModuleList([nn.MultiheadAttention(WIDTH, HEADS)] * 2).eval(), []
    model[0].requires_grad_(False)
    model[0].register_forward_hook(lambda *_: seen.append(1))
    assert split_attention(model) == {}
    model[0](X, X, X)
    assert model[0] is model[1]
    assert seen == [1]
    assert not any(part.training or part.weight.requires_grad for part in model[0].layers.values())
    joined_attention(model)
    assert not any(parameter.requires_grad for parameter in model.parameters())


class _Own(nn.MultiheadAttention):
    pass


def test_what_is_left_alone_has_a_reason() -> None:
    tied, own, computed = (kind(WIDTH, HEADS) for kind in (nn.MultiheadAttention, _Own, nn.MultiheadAttention))
    other = nn.MultiheadAttention(WIDTH, HEADS)
    other.in_proj_weight = tied.in_proj_weight
    weight_norm(computed, "in_proj_weight")
    model = nn.ModuleDict({"tied": tied, "other": other, "own": own, "computed": computed})
    reasons = split_attention(model)
    assert reasons.keys() == set(model)
    assert reasons["tied"] == "tied shares parameters with another layer; it keeps its heads"
    assert reasons["own"].startswith("own is a _Own, which may compute something else")
    assert not any(isinstance(module, SplitAttention) for module in model.modules())


def test_a_model_that_reads_the_packed_weight_keeps_its_attention() -> None:
    class Reads(Net):
        def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
            return super().forward(x, mask) + self.attention.in_proj_weight.view(3, WIDTH, WIDTH).mean()

    model = Reads()
    reasons = split_attention(model, (X,))
    assert "the model fails with separate projections in it" in reasons["attention"]
    assert type(model.attention) is nn.MultiheadAttention


@pytest.mark.parametrize("options", [{}, {"add_bias_kv": True}, {"kdim": 6, "bias": False}], ids=str)
def test_a_head_that_is_removed_is_one_at_zero(options: dict[str, Any]) -> None:
    _, twin = pair(**options, batch_first=True)
    inputs = X, torch.randn(BATCH, KEYS, twin.kdim), torch.randn(BATCH, KEYS, WIDTH)
    channels = slice(WIDTH // HEADS, 2 * WIDTH // HEADS)
    zeroed = copy.deepcopy(twin)
    with torch.no_grad():
        zeroed.out_proj.weight[:, channels] = 0
    _, weights = twin(*inputs, average_attn_weights=False)
    twin.remove_heads([1])
    output, left = twin(*inputs, average_attn_weights=False)
    torch.testing.assert_close(output, zeroed(*inputs)[0])
    torch.testing.assert_close(left, weights[:, [0, 2]])
    assert twin.is_sound
    assert (twin.num_heads, twin.embed_dim, twin.q_proj.out_features) == (2, WIDTH, 2 * WIDTH // HEADS)
    joined_attention(nn.ModuleList([twin]))
    assert isinstance(twin, SplitAttention)
    for wrong in ([2], [0, 1]):
        with pytest.raises(ValueError, match="heads must be some of range"):
            twin.remove_heads(wrong)


def compressed(model: nn.Module, rate: float, *inputs: torch.Tensor, **request: Any) -> Any:
    rules = (LayerRule(("default",), rate=rate),)
    return compressor("l2").compress(model, CompressionRequest("l2", rules, inputs, **request))


def test_heads_are_removed_saved_and_removed_again(tmp_path: Path) -> None:
    original = Net().eval()
    model, shapes = copy.deepcopy(original), layer_shapes(original)
    rules = (LayerRule(op_names=tuple(f"attention.{name}_proj" for name in "qkv"), rate=1 / 3),)
    compression = compressor("l2").compress(model, CompressionRequest("l2", rules, (X,), original=shapes))
    assert model.attention.num_heads == 2
    assert compression.achieved_rate(model) == pytest.approx(1 / 3)
    save_checkpoint(model, tmp_path / "checkpoint", original)
    loaded = load_compressed(tmp_path / "checkpoint", original)
    assert torch.equal(loaded(X), model.eval()(X))
    assert compression.achieved_rate(loaded) == pytest.approx(1 / 3)
    compressed(loaded, 2 / 3, X, original=shapes)
    assert loaded.attention.num_heads == 1
    assert type(original.attention) is nn.MultiheadAttention


def test_attention_that_lost_no_head_is_pytorchs_again() -> None:
    model = Net()
    names = list(model.state_dict())
    compression = compressed(model, 0.0, X)
    assert list(model.state_dict()) == names
    assert compression.achieved_rate(model) == 0


def test_heads_with_masks_of_their_own_stay() -> None:
    reason = "an attn_mask of three dimensions holds one for each head, so that all heads must stay"
    with pytest.raises(CompressionError, match=reason):
        compressed(Net(), 0.4, X, torch.randn(BATCH * HEADS, QUERIES, QUERIES))


@pytest.mark.slow
@pytest.mark.parametrize("weights", [True, False])
def test_graphs_and_onnx(weights: bool, tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = pair(batch_first=True)[1].eval()
            self.attention.remove_heads([0])

        def forward(self, x: torch.Tensor) -> Any:
            return self.attention(x, x, x, need_weights=weights)[: 1 + weights]

    model, batch = Both().eval(), {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(model, (X,), dynamic_shapes=(batch,), strict=False)
    torch.onnx.export(model, (X,), tmp_path / "a.onnx", dynamo=True, dynamic_shapes=(batch,), verbose=False)
    more = torch.randn(5, QUERIES, WIDTH)
    run = onnxruntime.InferenceSession(tmp_path / "a.onnx").run(None, {"x": more.numpy()})
    torch.testing.assert_close(program.module()(more), model(more))
    torch.testing.assert_close(tuple(map(torch.from_numpy, run)), model(more), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="aot_eager", fullgraph=True)(more), model(more))


@pytest.mark.slow
def test_a_model_without_some_heads_becomes_int8() -> None:
    model = Net().eval()
    split_attention(model)
    model.attention.remove_heads([1])
    wanted = model(X)
    rule = LayerRule(("default",), quant_types=("weight", "output"), quant={"quant_bits": {"weight": 8, "output": 8}})
    compression = compressor("qat").compress(model, CompressionRequest("qat", (rule,), (X,)))
    finished = compression.finish(compression.model)
    int8 = [weight for weight in finished.weights() if weight.dtype == torch.int8]
    assert (2 * WIDTH // HEADS, WIDTH) in {tuple(weight.shape) for weight in int8}
    assert (finished(X) - wanted).abs().max() < 0.1 * wanted.abs().max()
