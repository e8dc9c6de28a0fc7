"""Modules with all kinds of state: what a save writes can be loaded and is the same; the rest is refused when saved."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from autocompress.compression.state_values import DTYPES
from autocompress.errors import StoreError
from autocompress.formats.checkpoint import load_compressed, save_checkpoint

NAMES = (
    *(
        "w",
        "w::values",
        "w::codes",
        "w::bitmap",
        "w::values::values",
        "import",
        "class",
        "lambda",
        "a b",
        "a\nb",
        "a\0",
    ),
    *("ä", "\u4e2d", "\ud800", "x" * 2000, "training_", "_extra", "bias", "0", "-", "\u202e"),
)
LAYOUTS = ("plain", "plain", "transposed", "expanded", "part", "conjugated", "negative", "windows", "empty")
WRONG_TENSORS = ("sparse", "meta", "quantized", "subclass", "complex32")


class Wrapped(torch.Tensor):
    """A kind of tensor that no checkpoint knows."""


@dataclass(frozen=True)
class Tensor:
    """How a tensor is to be made."""

    dtype: str
    shape: tuple[int, ...]
    values: int
    layout: str
    cut: bool
    """Whether the compressed model's is smaller."""

    def make(self, seed: int, *, small: bool = False) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        shape = (0, *self.shape) if self.layout == "empty" else self.shape
        if small and self.cut and shape:
            shape = (shape[0] // 2, *shape[1:])
        number = torch.randint(0, self.values, shape, generator=generator)
        if self.values > 100:
            number = number.double() / 7
        wrong = _wrong(self.layout, number)
        return wrong if wrong is not None else _laid_out(self.layout, number.to(DTYPES[self.dtype]))

    def is_cut(self) -> bool:
        return self.make(0, small=True).shape != self.make(0).shape


def _wrong(layout: str, number: torch.Tensor) -> torch.Tensor | None:
    if layout == "sparse":
        return number.float().to_sparse()
    if layout == "meta":
        return number.float().to("meta")
    if layout == "quantized":
        return torch.quantize_per_tensor(number.float(), 0.1, 0, torch.quint8)
    if layout == "complex32":
        return number.to(torch.complex32)
    return number.float().as_subclass(Wrapped) if layout == "subclass" else None


def _laid_out(layout: str, tensor: torch.Tensor) -> torch.Tensor:
    if layout == "transposed":
        return tensor.transpose(0, -1) if tensor.dim() > 1 else tensor
    if layout == "expanded":
        return (
            tensor.flatten()[:1].expand(7, *[1] * tensor.dim()).expand(7, *tensor.shape) if tensor.numel() else tensor
        )
    if layout == "part":
        return torch.cat([tensor.flatten(), tensor.flatten()])[tensor.numel() :].reshape(tensor.shape)
    if layout == "conjugated" and tensor.is_complex():
        return tensor.conj()
    if layout == "negative" and tensor.is_complex():
        return tensor.conj().imag if tensor.dtype in (torch.complex64, torch.complex128) else tensor
    if layout == "windows" and tensor.numel() > 3:
        return tensor.flatten().as_strided((tensor.numel() - 2, 3), (1, 1))
    return tensor


@dataclass(frozen=True)
class Plan:
    """How a module is to be made."""

    tensors: dict[str, tuple[str, Tensor]]
    """Name -> parameter, buffer or passing (a buffer that is not persistent), and what it is."""
    tied: tuple[str, ...]
    """Names by which the first tensor goes, too."""
    extra: Any
    children: dict[str, Plan] = field(default_factory=dict)
    shared: str | None = None
    """Name by which the first child goes, too."""
    version: int = 1

    def make(self, seed: int, *, small: bool) -> nn.Module:
        return self._made(itertools.count(1000 * seed), small)

    def _made(self, seeds: Any, small: bool) -> nn.Module:
        module = KINDS[self.extra is not NOTHING, self.version]()
        for name, (kind, tensor) in self.tensors.items():
            _register(module, name, kind, tensor.make(next(seeds), small=small and kind != "passing"))
        first = next(iter(self.tensors), None)
        for name in self.tied if first is not None else ():
            module.__dict__[_home(module, first)][name] = module.__dict__[_home(module, first)][first]
            if first in module._non_persistent_buffers_set:
                module._non_persistent_buffers_set.add(name)
        if self.extra is not NOTHING:
            module.extra = _filled(self.extra, seeds)
        for name, child in self.children.items():
            module.add_module(name, child._made(seeds, small))
        if self.shared and self.children:
            module.add_module(self.shared, next(iter(module.children())))
        return module

    def is_wrong(self, path: str = "") -> bool:
        """Whether it cannot be stored: for what it holds, or as JSON cannot have the name of what has changed."""
        kinds = [(kind, tensor.layout) for kind, tensor in self.tensors.values()]
        wrong = any(layout in WRONG_TENSORS and (kind != "passing" or layout == "subclass") for kind, layout in kinds)
        cut = [name for name, (kind, tensor) in self.tensors.items() if kind != "passing" and tensor.is_cut()]
        names = [*cut, *self.tied] if cut[:1] == list(self.tensors)[:1] else cut
        odd = any(_is_odd(each) for each in (*names, path)) if cut else False
        children = [(name, child) for name, child in self.children.items()]
        children += [(self.shared, child) for child in list(self.children.values())[:1] if self.shared]
        below = any(child.is_wrong(f"{path}.{name}".lstrip(".")) for name, child in children)
        return wrong or odd or _is_wrong(self.extra, 0) or below


def _is_odd(name: str) -> bool:
    return len(name) > 1024 or any(character in name for character in "\n\0\ud800")


def _home(module: nn.Module, name: str) -> str:
    return "_parameters" if name in module._parameters else "_buffers"


def _register(module: nn.Module, name: str, kind: str, tensor: torch.Tensor) -> None:
    if kind == "parameter" and (tensor.is_floating_point() or tensor.is_complex() or not tensor.is_quantized):
        learns = type(tensor) is torch.Tensor and tensor.dtype in (torch.float32, torch.float64)
        tensor = tensor.detach() if not learns else tensor
        if type(tensor) is torch.Tensor:
            module.register_parameter(name, nn.Parameter(tensor, requires_grad=learns))
            return
    module.register_buffer(name, tensor, persistent=kind != "passing")


class Base(nn.Module):
    """A module whose state is of an older version converts it."""

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        if metadata.get("version") != self._version:
            for name in [name for name in state if name.startswith(prefix)]:
                state[name] = torch.zeros(1)
        super()._load_from_state_dict(state, prefix, metadata, *rest)


class Newer(Base):
    _version = 3


class Extra:
    extra: Any = None

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


class BaseExtra(Extra, Base):
    pass


class NewerExtra(Extra, Newer):
    pass


KINDS = {(False, 1): Base, (False, 3): Newer, (True, 1): BaseExtra, (True, 3): NewerExtra}
NOTHING = object()
EXAMPLES = int(os.environ.get("AUTOCOMPRESS_EXAMPLES", "100"))


def _filled(value: Any, seeds: Any) -> Any:
    """A plain value with its tensors."""
    if isinstance(value, Tensor):
        return value.make(next(seeds))
    if type(value) in (list, tuple):
        return type(value)(_filled(each, seeds) for each in value)
    if isinstance(value, dict):
        return type(value)((key, _filled(each, seeds)) for key, each in value.items())
    return value


def _is_wrong(value: Any, depth: int) -> bool:
    if isinstance(value, Tensor):
        return value.layout in WRONG_TENSORS
    if type(value) in (list, tuple):
        return depth >= 16 or any(_is_wrong(each, depth + 1) for each in value)
    if type(value) in (dict, OrderedDict):
        keys = all(type(key) is str for key in value)
        return depth >= 16 or not keys or any(_is_wrong(each, depth + 1) for each in value.values())
    if type(value) is int:
        return value.bit_length() > 2000
    return value is not NOTHING and value is not None and type(value) not in (bool, float, str)


@st.composite
def tensors(draw, wrong=True):
    wrongs = WRONG_TENSORS if wrong and draw(st.integers(0, 11)) == 0 else ()
    return Tensor(
        draw(st.sampled_from(sorted(DTYPES))),
        tuple(draw(st.lists(st.sampled_from((1, 2, 5, 17)), max_size=3))),
        draw(st.sampled_from((1, 2, 60, 1000))),
        draw(st.sampled_from(wrongs or LAYOUTS)),
        draw(st.integers(0, 3)) == 0,
    )


NUMBERS = st.integers() | st.sampled_from((2**31, -(2**63), 2**64, 2**1999, -(2**1999)))
ODD = (b"bytes", {1}, 2**2001, torch.Size([1]), torch.float32, {1: 2}, {None: 1}, 1j, range(3))
DEEP = (0, [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]])
LEAVES = st.none() | st.booleans() | NUMBERS | st.floats() | st.sampled_from(("", "ä", "\ud800", "x" * 300)) | tensors()
PLAIN = st.recursive(
    LEAVES | st.sampled_from([*DEEP, *ODD]),
    lambda each: (
        st.lists(each, max_size=3)
        | st.lists(each, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from(NAMES), each, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES), each, max_size=3).map(OrderedDict)
    ),
    max_leaves=5,
)


@st.composite
def plans(draw, depth=0):
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=7))
    first, rest = names[: draw(st.integers(0, len(names)))], names
    children = rest[len(first) : len(first) + (2 if depth < 2 else 0)]
    others = rest[len(first) + len(children) :]
    kinds = st.sampled_from(("parameter", "buffer", "buffer", "passing"))
    return Plan(
        {name: (draw(kinds), draw(tensors())) for name in first},
        tuple(others[:1]) if draw(st.booleans()) else (),
        draw(PLAIN) if draw(st.integers(0, 3)) == 0 else NOTHING,
        {name: draw(plans(depth=depth + 1)) for name in children},
        others[1] if len(others) > 1 and draw(st.booleans()) else None,
        draw(st.sampled_from((1, 3))),
    )


def same(first: Any, second: Any) -> bool:
    """Equal in type, shape, and to the bit."""
    if isinstance(first, torch.Tensor):
        alike = isinstance(second, torch.Tensor) and (first.shape, first.dtype) == (second.shape, second.dtype)
        return alike and torch.equal(_bytes(first), _bytes(second))
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second or (first != first and second != second)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    dense = tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    return dense.flatten().view(torch.uint8)


def sharing(module: nn.Module) -> set[frozenset[str]]:
    groups = dict[int, set[str]]()
    named = module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    for name, tensor in itertools.chain(*named):
        groups.setdefault(id(tensor), set()).add(name)
    return {frozenset(group) for group in groups.values()}


def refusal(model: nn.Module, path: Path, original: nn.Module, *, plain: bool) -> StoreError | None:
    try:
        save_checkpoint(model, path, original, plain=plain)
    except StoreError as error:
        return error
    return None


@settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), database=None)
@given(plan=plans(), plain=st.booleans())
def test_it_comes_back_or_is_refused_when_it_is_saved(plan, plain):
    model, original = plan.make(1, small=True), plan.make(2, small=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint")
        refused = refusal(model, path, original, plain=plain)
        assert (refused is not None) == plan.is_wrong(), refused
        if refused is not None:
            assert str(refused).isprintable()
            assert len(str(refused)) < 400
            assert list(Path(folder).iterdir()) == []
            return
        loaded = load_compressed(path, original)
        if plain:
            assert same(dict(torch.load(path / "weights.pt", weights_only=True)), dict(model.state_dict()))
    wanted, found = model.state_dict(), loaded.state_dict()
    assert wanted.keys() == found.keys()
    assert [name for name, value in wanted.items() if not same(value, found[name])] == []
    assert sharing(loaded) == sharing(model)
    assert [each.requires_grad for each in loaded.parameters()] == [each.requires_grad for each in model.parameters()]
