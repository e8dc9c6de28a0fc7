"""Checkpoints as a stranger might write them: valid ones, changes to them, and a watch over what loading them does."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import os
import resource
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn

from autocompress.compression.base import CompressionRequest, compressor
from autocompress.formats.checkpoint import save_checkpoint
from autocompress.layer_selector import LayerRule

INPUTS = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)
KINDS = ("float", "int8", "coded")


class Small(nn.Module):
    """A little of everything: convolution, norm, a tuple attribute, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def write_checkpoint(kind: str, folder: Path) -> Path:
    """A valid checkpoint: of a pruned model, an int8 model, or one whose tensors are stored as codes or sparse."""
    model = Small().eval()
    algorithm, rule = {
        "float": ("l1", LayerRule(("default",), rate=0.5)),
        "int8": ("qat", LayerRule(("default",), quant_types=("weight", "output"))),
        "coded": ("level", LayerRule(("default",), rate=0.9)),
    }[kind]
    compression = compressor(algorithm).compress(model, CompressionRequest(algorithm, (rule,), INPUTS))
    found = compression.model if compression.model is not None else model
    finished = compression.finish(found)
    finished = finished if isinstance(finished, nn.Module) else found
    if kind == "coded":
        with torch.no_grad():
            finished.head.weight.copy_(finished.head.weight.sign())
            finished.conv.weight.mul_(100).round_()
    save_checkpoint(finished.eval(), folder, Small())
    return folder


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None], weights: bytes | None = None) -> Path:
    """Change a checkpoint's description, or its weights, as somebody would who computes the checksums again."""
    file = folder / "structure.json"
    description = json.loads(file.read_text())
    if weights is not None:
        (folder / "weights.pt").write_bytes(weights)
        description["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    change(description)
    file.write_text(json.dumps(description | signed(description)))
    return folder


def signed(description: dict[str, Any]) -> dict[str, Any]:
    """The checksum that a description must have."""
    rest = {key: value for key, value in description.items() if key != "sha256"}
    return {"sha256": hashlib.sha256(json.dumps(rest, separators=(",", ":")).encode()).hexdigest()}


def saved(state: Any, **options: Any) -> bytes:
    """What `torch.save` writes."""
    file = io.BytesIO()
    torch.save(state, file, **options)
    return file.getvalue()


def outputs(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(*INPUTS)


@dataclass
class Watch:
    """What a process does while it is watched: imports, files opened, written or removed, programs, code compiled."""

    home: Path
    active: bool = False
    imports: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    executions: list[str] = field(default_factory=list)
    compiled: int = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event == "import":
            self.imports.append(str(arguments[0]))
        elif event == "open":
            self._opened(*arguments)
        elif event in _FILES:
            self.files.append(f"{event} {arguments!r}")
        elif event in _EXECUTIONS:
            self.executions.append(f"{event} {arguments!r}")
        elif event in ("compile", "exec"):
            self.compiled += 1

    def _opened(self, path: Any, mode: Any, flags: Any) -> None:
        if isinstance(path, int):
            return
        place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - which opens nothing itself
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
        own = place.startswith((str(self.home), sys.prefix, sys.base_prefix)) or place.endswith(".py")
        if writes or not own:
            self.files.append(f"open {place} {mode} {flags}")

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        self.active, path, modules = True, list(sys.path), set(sys.modules)
        try:
            yield
        finally:
            self.active = False
            self.imports += sorted(sys.modules.keys() - modules)  # importlib.import_module raises no event
            if sys.path != path:
                self.executions.append(f"sys.path {set(sys.path) - set(path)}")

    def clear(self) -> None:
        for seen in (self.imports, self.files, self.executions):
            seen.clear()
        self.compiled = 0

    @property
    def seen(self) -> list[str]:
        return [*self.imports, *self.files, *self.executions]


_FILES = {
    *(f"os.{name}" for name in ("remove", "rename", "rmdir", "mkdir", "link", "symlink", "chmod", "truncate", "utime")),
    "shutil.rmtree",
    "shutil.move",
    "shutil.copyfile",
}
_EXECUTIONS = {
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "os.putenv"),
    *("subprocess.Popen", "pty.spawn", "ctypes.dlopen", "socket.connect", "pickle.find_class", "marshal.loads"),
}


def watch(home: Path) -> Watch:
    """A watch of this process; an audit hook cannot be taken away again, but does nothing where it is not active."""
    found = Watch(home)
    sys.addaudithook(found)
    return found


@contextlib.contextmanager
def little_memory(more: int = 2 << 30) -> Iterator[None]:
    """Only so much more address space: what wants more than that fails instead of taking the machine's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def peak_bytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


CODE = "__import__('os').system('touch {canary}')"
NASTY: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 255, 1 << 31, (1 << 63) - 1, 1 << 63, 10**30, -0.0, 0.5, 1e308, 1e-320),
    *("", "x", "self", "forward", "__class__", "__init__", "_parameters", "training", "register_forward_hook"),
    *("import", "lambda", "a.b", "..", "../../x", "/etc/passwd", "canary_module", "canary_module.Thing", "os.system"),
    *(f'x", "z={CODE}', f"x={CODE}", f"x); {CODE}", f"x:{CODE}", f"\n{CODE}\n", f'a"]; {CODE}; self["b'),
    *("aten.from_file.default", "aten.set_.source_Tensor", "aten.zeros.default", "aten.manual_seed.default"),
    *("prim.Print.default", "getitem", "builtins.eval", "torch.load", "torch.ops.load_library", "dtype:load"),
    *(
        "collections.defaultdict",
        "builtins.eval",
        "\ud800",
        "\x00",
        "\x1b[2J",
        "\u202e",
        "\uff46\uff4f\uff52",
        "x" * 5000,
    ),
    *([], {}, [[]], [1, 2, 3], [-1], [1 << 40, 1 << 40], {"node": 0}, {"node": -1}, {"node": 10**9}),
    *({"torch": "dtype:float32"}, {"torch": "device:cuda"}, {"torch": "load"}, {"float": "nan"}, {"tuple": []}),
    *({"node": 0, "torch": "dtype:int8"}, {"type": "canary_module.Thing", "context": None}, {"__class__": "os"}),
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """All (container, key) of a JSON value."""
    found, left = [], [value]
    while left:
        each = left.pop()
        keys = list(each) if isinstance(each, dict) else range(len(each)) if isinstance(each, list) else ()
        for key in keys:
            found.append((each, key))
            left.append(each[key])
    return found


def mutate(description: dict[str, Any], random: Random, canary: Path) -> None:
    """Change a description somewhere."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        found = places(description)
        structural = [place for place in found if place[0] is not description]
        container, key = random.choice(structural if structural and random.random() < 0.9 else found)
        nasty = copy.deepcopy(random.choice(NASTY))
        if isinstance(nasty, str):
            nasty = nasty.replace("{canary}", str(canary))
        _CHANGES[random.randrange(len(_CHANGES))](container, key, nasty, random)


def _replace(container: Any, key: Any, nasty: Any, _: Random) -> None:
    container[key] = nasty


def _remove(container: Any, key: Any, _nasty: Any, _: Random) -> None:
    del container[key]


def _add(container: Any, _key: Any, nasty: Any, random: Random) -> None:
    if isinstance(container, dict):
        container[str(random.choice(NASTY))] = nasty
    else:
        container.insert(random.randrange(len(container) + 1), nasty)


def _rename(container: Any, key: Any, nasty: Any, _: Random) -> None:
    if isinstance(container, dict):
        container[str(nasty)] = container.pop(key)


def _swap(container: Any, key: Any, _: Any, random: Random) -> None:
    other = random.choice(list(container) if isinstance(container, dict) else range(len(container)))
    container[key], container[other] = container[other], container[key]


def _nudge(container: Any, key: Any, _: Any, random: Random) -> None:
    if type(container[key]) in (int, float):
        container[key] = random.choice((container[key] + 1, container[key] - 1, container[key] * 2, -container[key]))


def _wrap(container: Any, key: Any, _: Any, random: Random) -> None:
    for _depth in range(random.choice((1, 3, 300))):
        container[key] = [container[key]]


def _append(container: Any, key: Any, nasty: Any, _: Random) -> None:
    if isinstance(container[key], str):
        container[key] += str(nasty)


_CHANGES = (_replace, _replace, _replace, _remove, _add, _rename, _swap, _nudge, _wrap, _append)


def mutate_bytes(data: bytes, random: Random) -> bytes:
    """Change, cut or repeat some bytes, mostly where the archive's index and directory are."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 3, 20))):
        index = data.find(b"PK\x03\x04", 10)
        near = random.randrange(index) if random.random() < 0.5 else random.randrange(len(changed))
        place = min(near, len(changed) - 1)
        kind = random.randrange(5)
        if kind < 3:
            changed[place] = random.choice((0, 1, 0x7F, 0xFF, changed[place] ^ 1 << random.randrange(8)))
        elif kind == 3:
            changed[place : place + random.randrange(1, 9)] = b""
        else:
            changed[place:place] = changed[place : place + random.randrange(1, 64)]
    return bytes(changed)


def mutate_tensors(state: dict[str, Any], random: Random) -> dict[str, Any]:
    """Change what is stored by one name."""
    state = dict(state)
    name = random.choice(list(state))
    tensor = state[name]
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: tensor.double() if tensor.is_floating_point() else tensor.float(),
        lambda: tensor.to(torch.complex64),
        lambda: tensor.unsqueeze(0),
        lambda: tensor.flatten()[:1].expand(1 << 40) if tensor.numel() else tensor,
        lambda: tensor.flatten().as_strided((1 << 20,), (0,)) if tensor.numel() else tensor,
        lambda: torch.zeros(tensor.shape, device="meta"),
        lambda: tensor.float().to_sparse(),
        lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
        lambda: nn.Parameter(tensor.float()),
        lambda: {"a": [tensor, None, 1.5]},
        lambda: [[[[]]]],
        lambda: "text",
        lambda: torch.zeros(0),
        lambda: tensor.flip(0) if tensor.dim() else tensor,
        lambda: torch.float16,
    )
    way = random.randrange(len(kinds) + 2)
    if way == len(kinds):
        del state[name]
    elif way == len(kinds) + 1:
        state[random.choice(("forward", "conv.extra", "graph.x.y", f"{name}::codes", "__class__"))] = state.pop(name)
    else:
        state[name] = kinds[way]()
    return state


def repacked(data: bytes, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """The same archive, its records packed."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return file.getvalue()


def copied(folder: Path, to: Path) -> Path:
    """A checkpoint once more."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to)
    return to
