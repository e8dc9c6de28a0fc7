"""One changed checkpoint after the other."""

from __future__ import annotations

import copy
import encodings.cp437  # noqa: F401 - which zipfile takes for names that are not marked as UTF-8
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from autocompress.errors import StoreError
from autocompress.formats.checkpoint import load_compressed

from . import strange
from .attacks import MODULE
from .strange import KINDS, Small, little_memory, mutate, mutate_bytes, mutate_tensors, outputs, saved, signed

WAYS = ("description", "tensors", "bytes", "accident")
"""What is changed: what a stranger describes or stores, with checksums that fit; or anything, with those of before."""

LONGEST = 1000
"""Characters of a message, with the path of a temporary directory and the list of element types."""


@dataclass(frozen=True)
class Example:
    """What loading a changed checkpoint came to.

    Attributes:
        answer: `refused`, `same`: the same outputs to the bit, `other`: another model, or `raised`.
        imports: modules that were imported meanwhile.
        files: that were opened, written or removed, its own not counted.
        executions: programs, libraries and whatever else ran.
        error: why it is wrong.
    """

    answer: str
    imports: list[str]
    files: list[str]
    executions: list[str]
    error: str | None = None


class Fuzz:
    """Checkpoints to be changed, in a directory of their own."""

    def __init__(self, folder: Path) -> None:
        self.canary, self._valid, self._changed = folder / "canary", folder / "valid", folder / "changed"
        (folder / "canary_module.py").write_text(MODULE.format(canary=str(self.canary)))
        sys.path.append(str(folder))
        self._states, self._descriptions, self._bytes, self._wanted = {}, {}, {}, {}
        for kind in KINDS:
            place = strange.write_checkpoint(kind, self._valid / kind)
            self._descriptions[kind] = json.loads((place / "structure.json").read_text())
            self._bytes[kind] = (place / "weights.pt").read_bytes()
            self._states[kind] = dict(torch.load(place / "weights.pt", weights_only=True))
            self._wanted[kind] = outputs(load_compressed(place, Small()))
        self._changed.mkdir()
        self._watch = strange.watch(folder)
        self._model = Small()

    def close(self) -> None:
        """Leave `sys.path` as it was."""
        sys.path.remove(str(self.canary.parent))

    def example(self, kind: str, way: str, random: Random) -> Example:
        """Change a checkpoint, load it, and compute with what is loaded."""
        self._write(kind, way, random)
        self._watch.clear()
        answer, error, model = "refused", None, None
        try:
            with little_memory(), self._watch.on():
                model = load_compressed(self._changed, self._model)
        except StoreError as refused:
            if self._watch.compiled:
                error = "something was compiled before it was refused"
            if not str(refused).isprintable() or len(str(refused)) > LONGEST:
                error = f"its message is no sentence: {refused!r}"
        except BaseException as unexpected:  # noqa: BLE001 - any other is a failure
            answer, error = "raised", f"{type(unexpected).__name__}: {unexpected}"
        if model is not None:
            answer = self._compared(model, self._wanted[kind])
        watch = self._watch
        return Example(answer, [*watch.imports], [*watch.files], [*watch.executions], error)

    def _compared(self, model: Any, wanted: torch.Tensor) -> str:
        try:
            with little_memory(), self._watch.on():
                found = outputs(model)
        except Exception:  # noqa: BLE001 - another model may fail, as torch's operators do
            return "other"
        same = isinstance(found, torch.Tensor) and found.dtype == wanted.dtype and torch.equal(found, wanted)
        return "same" if same else "other"

    def _write(self, kind: str, way: str, random: Random) -> None:
        description, data = copy.deepcopy(self._descriptions[kind]), self._bytes[kind]
        if way == "tensors":
            data = saved(mutate_tensors(self._states[kind], random))
        if way == "bytes" or (way == "accident" and random.random() < 0.5):
            data = mutate_bytes(data, random)
        elif way in ("description", "accident"):
            mutate(description, random, self.canary)
        if way != "accident":
            description["weights_sha256"] = hashlib.sha256(data).hexdigest()
            description |= signed(description)
        text = json.dumps(description).encode()
        (self._changed / "structure.json").write_bytes(text)
        (self._changed / "weights.pt").write_bytes(data)
