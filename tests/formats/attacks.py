"""A list of attacks, and a process that suffers them: `python -m tests.formats.attacks CHECKPOINTS FOLDER`.

Each writes a checkpoint that would touch the file `canary`, import `canary_module`, take all memory or read what it
must not. The process prints as JSON what loading each came to.
"""

from __future__ import annotations

import encodings.cp437  # noqa: F401 - which zipfile takes for names that are not marked as UTF-8
import io
import json
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autocompress.errors import StoreError
from autocompress.formats.checkpoint import load_compressed

from . import strange
from .strange import Small, copied, peak_bytes, repacked, rewritten, saved

MODULE = """
open({canary!r}, "w").close()
from autocompress.compression.module import AbstractAutoCompressionModule
from tests.formats.strange import Small

class Thing(AbstractAutoCompressionModule):
    @classmethod
    def model(cls):
        return Small()

    @classmethod
    def evaluator(cls):
        return lambda model: 1.0
"""


@dataclass(frozen=True)
class Place:
    """Where an attack is written, and what it is after."""

    valid: Path
    folder: Path
    canary: Path

    @property
    def code(self) -> str:
        return f"__import__('os').system('touch {self.canary}')"

    def checkpoint(self, kind: str, change: Callable[[dict[str, Any]], Any] = lambda _: None, **more: Any) -> Path:
        return rewritten(copied(self.valid / kind, self.folder), change, **more)

    def weights(self, kind: str) -> dict[str, Any]:
        return dict(torch.load(self.valid / kind / "weights.pt", weights_only=True))


def node(description: dict[str, Any], op: str = "call_function", target: str = "") -> dict[str, Any]:
    return next(
        each for each in description["structure"]["nodes"] if each["op"] == op and target in each.get("target", "")
    )


def graph(change: Callable[[dict[str, Any], Place], Any]) -> Callable[[Place], Path]:
    """An attack by the graph of an int8 checkpoint."""
    return lambda place: place.checkpoint("int8", lambda found: change(found["structure"], place))


def call(change: Callable[[dict[str, Any], Place], Any], target: str = "") -> Callable[[Place], Path]:
    """An attack by one node of an int8 checkpoint."""
    return lambda place: place.checkpoint("int8", lambda found: change(node(found, target=target), place))


def layer(change: Callable[[dict[str, Any], Place], Any]) -> Callable[[Place], Path]:
    """An attack by what a float checkpoint says of a layer."""
    return lambda place: place.checkpoint("float", lambda found: change(found["structure"]["conv"], place))


def whole(change: Callable[[dict[str, Any], Place], Any]) -> Callable[[Place], Path]:
    """An attack by the rest of the description of a float checkpoint."""
    return lambda place: place.checkpoint("float", lambda found: change(found, place))


def stored(change: Callable[[dict[str, Any], Place], Any]) -> Callable[[Place], Path]:
    """An attack by how a tensor is stored."""
    return lambda place: place.checkpoint("coded", lambda found: change(next(iter(found["storage"].values())), place))


def tensor(change: Callable[[torch.Tensor], Any]) -> Callable[[Place], Path]:
    """An attack by a tensor of a float checkpoint."""

    def attack(place: Place) -> Path:
        state = place.weights("float")
        return place.checkpoint("float", weights=saved({**state, "conv.weight": change(state["conv.weight"])}))

    return attack


def data(change: Callable[[bytes, Place], bytes]) -> Callable[[Place], Path]:
    """An attack by the bytes of the weights."""
    return lambda place: place.checkpoint(
        "float", weights=change((place.valid / "float" / "weights.pt").read_bytes(), place)
    )


def text(change: Callable[[str], str]) -> Callable[[Place], Path]:
    """An attack by the text of the description, its checksum as it was."""

    def attack(place: Place) -> Path:
        folder = copied(place.valid / "float", place.folder)
        file = folder / "structure.json"
        file.write_text(change(file.read_text()))
        return folder

    return attack


def reference(**fields: Any) -> Callable[[Place], Path]:
    """An attack by the module that a checkpoint names; the file lies beside the weights."""

    def attack(place: Place) -> Path:
        def change(found: dict[str, Any]) -> None:
            file = str(place.folder / "canary_module.py")
            known = {"file": file, "name": "canary_module", "root": str(place.folder), "class_name": "Thing"}
            found["module"] = known | {
                key: value.format(here=place.folder, code=place.code) if isinstance(value, str) else value
                for key, value in fields.items()
            }

        folder = place.checkpoint("float", change)
        (folder / "canary_module.py").write_text(MODULE.format(canary=str(place.canary)))
        return folder

    return attack


class Runs:
    """Pickled, it runs a program."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __reduce__(self) -> Any:
        return eval, (self._code,)


def index_of(change: Callable[[bytes, Place], bytes]) -> Callable[[bytes, Place], bytes]:
    """Another index in the archive."""

    def changed(old: bytes, place: Place) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(old)) as before, zipfile.ZipFile(file, "w") as after:
            for entry in before.infolist():
                content = before.read(entry)
                after.writestr(entry.filename, change(content, place) if entry.filename.endswith(".pkl") else content)
        return file.getvalue()

    return changed


def torchscript(_: bytes, place: Place) -> bytes:
    file = place.folder.with_suffix(".torchscript")
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), str(file))
    return file.read_bytes()


def link(name: str, to: str) -> Callable[[Place], Path]:
    def attack(place: Place) -> Path:
        folder = place.checkpoint("float")
        (folder / name).unlink()
        (folder / name).symlink_to(to or place.valid / "float" / name)
        return folder

    return attack


def pipe(place: Place) -> Path:
    folder = place.checkpoint("float")
    (folder / "weights.pt").unlink()
    os.mkfifo(folder / "weights.pt")
    return folder


def index_as(*parts: bytes) -> Callable[[Place], Path]:
    """An attack by another index, written by hand."""
    return data(index_of(lambda old, p: b"\x80\x02" + b"".join(parts) + b"."))


def named(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def views_of_one(_: Any) -> bytes:
    """Ten thousand tensors of flags, all of one record: each copied would be 10 GB."""
    flags = torch.zeros(1 << 20, dtype=torch.bool)
    return saved({f"{name}": flags[name:] for name in range(10_000)})


def overlapping(old: bytes, _: Place) -> bytes:
    """Its directory says that each record lies where the first one does."""
    changed, first = bytearray(old), old.index(b"PK\x01\x02")
    for place in [found.start() for found in re.finditer(b"PK\x01\x02", old)]:
        changed[place + 42 : place + 46] = old[first + 42 : first + 46]
    return bytes(changed)


def directory_of(size: int) -> Callable[[bytes, Place], bytes]:
    """Its end says that the archive's directory has so many bytes."""

    def changed(old: bytes, _: Place) -> bytes:
        end = old.rindex(b"PK\x06\x06")
        return old[: end + 40] + size.to_bytes(8, "little") + old[end + 48 :]

    return changed


def folder(name: str) -> Callable[[Place], Path]:
    def attack(place: Place) -> Path:
        found = place.checkpoint("float")
        (found / name).unlink()
        (found / name).mkdir()
        return found

    return attack


LAUGHS = [
    *(b"}", b"(", named("a"), b"](", *[b"N"] * 1000, b"eq\x01"),
    *(named(f"b{number}") + b"h\x01" for number in range(1000)),
    b"u",
]
"""A list of a thousand values by a thousand names, which are looked through one by one."""
SPEC = json.dumps([1, {"type": "canary_module.Thing", "context": None, "children_spec": []}])
HUGE = [10**6, 10**6]
ATTACKS: dict[str, Callable[[Place], Path]] = {
    "code in an argument's default": graph(lambda g, p: g.update(arguments=[f"x={p.code}"])),
    "code in an argument's annotation": graph(lambda g, p: g.update(arguments=[f"x:{p.code}"])),
    "code after an argument's quotes": graph(lambda g, p: g.update(arguments=[f'x", "z={p.code}'])),
    "code in a keyword of the model": graph(
        lambda g, p: g.update(
            arguments=["a"], in_spec={"tuple": [{"tuple": []}, {"dict": {f"a': {p.code}, 'b": None}}]}
        )
    ),
    "a keyword of Python as an argument": graph(lambda g, p: g.update(arguments=["lambda"])),
    "a container that is imported, as pytree writes it": graph(lambda g, p: g.update(in_spec=SPEC)),
    "a container that is imported": graph(lambda g, p: g.update(out_spec={"canary_module.Thing": []})),
    "a container that calls a default": graph(lambda g, p: g.update(out_spec={"collections.defaultdict": [None]})),
    "containers without end": graph(
        lambda g, p: g.update(out_spec=json.loads('{"tuple": [' * 60 + "null" + "]}" * 60))
    ),
    "more results than there are": graph(lambda g, p: g.update(out_spec={"tuple": [None] * 3})),
    "code in a keyword of a node": call(lambda n, p: n.update(kwargs={f"x={p.code}, y": 1})),
    "a keyword that an operator has not": call(lambda n, p: n.update(kwargs={"nothing": 1})),
    "code in a text argument": call(lambda n, p: n["args"].append(f"'+{p.code}+'")),
    "code in a node's name": call(lambda n, p: n.update(name=f"x; {p.code}")),
    "code in a tensor's name": graph(
        lambda g, p: g["tensors"].update({f'x"]; {p.code}; y["': {"shape": [1], "dtype": "int8"}})
    ),
    "code in what a node takes": lambda p: p.checkpoint(
        "int8", lambda found: node(found, "get_attr").update(target=f'x"); {p.code}; ("')
    ),
    "a node that takes a method": lambda p: p.checkpoint(
        "int8", lambda found: node(found, "get_attr").update(target="forward.__globals__")
    ),
    "a tensor in place of a method": graph(lambda g, p: g["tensors"].update(forward={"shape": [1], "dtype": "int8"})),
    "a tensor in place of the parameters": graph(
        lambda g, p: g["tensors"].update(_parameters={"shape": [1], "dtype": "int8"})
    ),
    "a method is called": call(lambda n, p: n.update(op="call_method", target="__reduce__")),
    "a module is called": call(lambda n, p: n.update(op="call_module", target="canary_module")),
    "Python's eval is called": call(lambda n, p: n.update(target="builtins.eval", args=[p.code], kwargs={})),
    "an operator that reads a file": call(
        lambda n, p: n.update(target="aten.from_file.default", args=["/etc/passwd", True, 10], kwargs={})
    ),
    "an operator that loads a library": call(lambda n, p: n.update(target="load_library", args=["/tmp/x.so"])),
    "an operator of another library": call(lambda n, p: n.update(target="torchvision.nms.default")),
    "an operator that takes over memory": call(lambda n, p: n.update(target="aten.set_.source_Tensor")),
    "an operator that views memory at will": call(lambda n, p: n.update(target="aten.as_strided.default")),
    "an operator that writes into another tensor": call(lambda n, p: n.update(target="aten.add.out")),
    "an attribute of the operators' namespace": call(lambda n, p: n.update(target="aten.__class__.__init__")),
    "an operator that draws random numbers": call(
        lambda n, p: n.update(target="aten.dropout.default", args=[n["args"][0], 0.5, True], kwargs={})
    ),
    "memory that nobody has written to": call(
        lambda n, p: n.update(target="aten.empty.memory_format", args=[[1000, 1000]], kwargs={})
    ),
    "memory like another's that nobody has written to": call(
        lambda n, p: n.update(target="aten.empty_like.default", args=[{"node": 0}], kwargs={})
    ),
    "places in memory before an image": call(
        lambda n, p: n.update(
            target="aten.upsample_nearest2d.default", args=[{"node": 0}, [9, 9], -1.0, -1.0], kwargs={}
        )
    ),
    "places in memory behind an image": call(
        lambda n, p: n.update(
            target="aten._upsample_bilinear2d_aa.default", args=[{"node": 0}, [9, 9], False, 1e-30, 1e-30], kwargs={}
        )
    ),
    "places in memory by what is computed": call(
        lambda n, p: n.update(target="aten.upsample_nearest1d.default", args=[{"node": 0}, [9], {"node": 0}], kwargs={})
    ),
    "an argument in place of torch": graph(
        lambda g, p: g.update(arguments=["torch"], in_spec={"tuple": [{"tuple": [None]}, {"dict": {}}]})
    ),
    "an argument in place of pytree": graph(
        lambda g, p: g.update(arguments=["fx_pytree"], in_spec={"tuple": [{"tuple": [None]}, {"dict": {}}]})
    ),
    "a number of seventy bits": call(lambda n, p: n["args"].append(1 << 70)),
    "a text that is multiplied": call(lambda n, p: n.update(target="mul", args=["x", 10**9], kwargs={})),
    "a text in place of a node": call(lambda n, p: n.update(args=["x"])),
    "a node that takes itself": call(lambda n, p: n.update(args=[{"node": 99_999}])),
    "a device that has no memory": call(lambda n, p: n["args"].append({"torch": "device:meta"})),
    "a constant that is a function": call(lambda n, p: n["args"].append({"torch": "dtype:load"})),
    "arguments without end": call(lambda n, p: n["args"].append(json.loads("[" * 60 + "]" * 60))),
    "more nodes than anybody writes": graph(lambda g, p: g.update(nodes=[{"op": "placeholder"}] * 100_001)),
    "a huge tensor of a graph": graph(lambda g, p: next(iter(g["tensors"].values())).update(shape=HUGE)),
    "an attribute that is a method": layer(lambda f, p: f["attributes"].update(forward=1)),
    "an attribute that is a hook": layer(lambda f, p: f["attributes"].update(_forward_hooks=1)),
    "an attribute of Python's own": layer(lambda f, p: f["attributes"].update(__class__=1)),
    "an attribute that is a flag": layer(lambda f, p: f["attributes"].update(training=1)),
    "an attribute that is not there": layer(lambda f, p: f["attributes"].update(anything=1)),
    "an attribute of another kind": layer(lambda f, p: f["attributes"].update(out_channels=[1, 2])),
    "an attribute that is a text": layer(lambda f, p: f["attributes"].update(out_channels=p.code)),
    "a tensor that is a method": layer(lambda f, p: f["tensors"].update(forward={"shape": [1], "dtype": "float32"})),
    "a huge tensor": layer(lambda f, p: f["tensors"]["weight"].update(shape=HUGE)),
    "a tensor of a type that is a function": layer(lambda f, p: f["tensors"]["weight"].update(dtype="load")),
    "a quantizer of a billion bits": layer(
        lambda f, p: f["quantizers"].update(input={"bits": 10**9, "start_step": 0, "symmetric": False})
    ),
    "a quantizer of another place": layer(
        lambda f, p: f["quantizers"].update(forward={"bits": 8, "start_step": 0, "symmetric": False})
    ),
    "an attribute of seventy bits": layer(lambda f, p: f["attributes"].update(out_channels=1 << 70)),
    "a submodule that is not there": whole(lambda d, p: d["structure"].update({"__init__.__globals__": {}})),
    "an unknown key": whole(lambda d, p: d.update(run=p.code)),
    "an unknown kind": whole(lambda d, p: d.update(kind="pickle")),
    "a version that is no number": whole(lambda d, p: d.update(schema_version=2.0)),
    "a huge tensor, stored sparsely": stored(lambda how, p: how.update(shape=HUGE)),
    "a huge tensor of few codes": stored(lambda how, p: how.update(shape=HUGE, count=10**12, sparse=False)),
    "more codebooks than bytes": stored(lambda how, p: how.update(codebooks=1 << 32)),
    "a module beside the weights": reference(),
    "a module by a relative file": reference(file="canary_module.py", root="."),
    "a module by a path that climbs": reference(file="{here}/deep/../canary_module.py", root="{here}/deep"),
    "a module by a name that climbs": reference(name="../canary_module"),
    "a module whose class is code": reference(class_name="Thing(); {code}"),
    "a module that is no reference": reference(file=["canary_module.py"]),
    "a pickle of old": lambda p: p.checkpoint("float", weights=pickle.dumps(Runs(p.code))),
    "an archive of old": lambda p: p.checkpoint(
        "float", weights=saved({"x": Runs(p.code)}, _use_new_zipfile_serialization=False)
    ),
    "code in the archive's index": lambda p: p.checkpoint("float", weights=saved({"x": Runs(p.code)})),
    "a program in the archive's index": data(
        index_of(lambda old, p: b"\x80\x02cos\nsystem\nX\x05\x00\x00\x00touch\x85R.")
    ),
    "a memory bomb in the archive's index": data(index_of(lambda old, p: b"\x80\x02}r\xff\xff\xff\xff.")),
    "a text longer than the index": data(index_of(lambda old, p: b"\x80\x02X\xff\xff\xff\x7fab.")),
    "an index without end": index_as(b"]" * (1 << 24)),
    "texts that Python imports a decoder for": index_as(b"Vtext\n0S'text'\n0"),
    "an index that ends nowhere": index_as(b"N0" * (1 << 20)),
    "a list in itself": index_as(b"}", named("a"), b"]q\x01h\x01as"),
    "a few lists in many places": index_as(*LAUGHS),
    "a dictionary in itself": index_as(b"}q\x01", named("a"), b"h\x01s"),
    "a name that is a number": index_as(b"}K\x01Ns"),
    "more of an index than there is": index_as(b"00000"),
    "a number of many digits": index_as(b"}", named("a"), b"\x8a\xff", b"\xff" * 255, b"s"),
    "versions that are none": index_as(
        b"ccollections\nOrderedDict\n)R}", named("_metadata"), b"}", named(""), b"K\x01ssb"
    ),
    "an attribute of a dictionary": index_as(b"ccollections\nOrderedDict\n)R}", named("update"), b"K\x01sb"),
    "flags that are copied often": lambda p: p.checkpoint("float", weights=views_of_one(p)),
    "records on top of each other": data(overlapping),
    "an archive's directory larger than the file": data(directory_of(1 << 40)),
    "an archive's directory that is empty": data(directory_of(0)),
    "more numbers than a record has": data(
        index_of(lambda old, p: re.sub(rb"(cpuq.)K.", lambda found: found[1] + b"M\xff\x7f", old, flags=re.DOTALL))
    ),
    "a script of torch's": data(torchscript),
    "records that are packed": data(lambda old, p: repacked(saved({"conv.weight": torch.zeros(1 << 24)}))),
    "a tensor that repeats one number": tensor(lambda t: torch.zeros(1).expand(1 << 40)),
    "a sparse tensor": tensor(lambda t: t.to_sparse()),
    "a quantized tensor": tensor(lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)),
    "a tensor without memory": tensor(lambda t: t.to("meta")),
    "a tensor of another type": tensor(lambda t: t.double()),
    "a text in place of a tensor": tensor(lambda t: "text"),
    "a text longer than memory": text(lambda old: old[:-2] + " " * (1 << 26) + old[-2:]),
    "the same key twice": text(lambda old: old.replace('"kind": "float"', '"kind": "int8", "kind": "float"')),
    "a number that is none": text(lambda old: old.replace('"schema_version": 2', '"schema_version": NaN')),
    "a number without end": text(lambda old: old.replace('"schema_version": 2', '"schema_version": 1e999')),
    "a number of a million digits": text(lambda old: old.replace('"schema_version": 2', f'"x": {"9" * 10**6}')),
    "ten million lists": text(lambda old: old[:-2] + ', "x": [' + "[]," * 10**7 + "[]]}"),
    "lists without end": text(lambda old: "[" * 10**6),
    "half a character": text(lambda old: old.replace('"conv"', '"\\ud800"')),
    "weights by a link": link("weights.pt", ""),
    "weights from a device": link("weights.pt", "/dev/zero"),
    "a description by a link": link("structure.json", "/etc/passwd"),
    "weights from a pipe": pipe,
    "weights that are a directory": folder("weights.pt"),
    "a description that is a directory": folder("structure.json"),
}


def main(valid: Path, folder: Path) -> dict[str, Any]:
    sys.path.insert(0, str(folder))  # canary_module could be imported
    canary = folder / "canary"
    (folder / "canary_module.py").write_text(MODULE.format(canary=str(canary)))
    for kind in strange.KINDS:
        load_compressed(valid / kind, Small())
    planted = {name: attack(Place(valid, folder / str(n), canary)) for n, (name, attack) in enumerate(ATTACKS.items())}
    watch, before, found = strange.watch(folder), peak_bytes(), {}
    for name, path in planted.items():
        watch.clear()
        model = None if "module" in name and "called" not in name else Small()
        try:
            with watch.on():
                load_compressed(path, model)
            answer = "loaded"
        except StoreError as error:
            answer = f"StoreError: {error}"
        except BaseException as error:  # noqa: BLE001 - any other is a failure
            answer = f"{type(error).__name__}: {error}"
        found[name] = {"answer": answer[:500], "seen": watch.seen, "compiled": watch.compiled}
    return {
        "attacks": found,
        "canary": canary.exists(),
        "imported": "canary_module" in sys.modules,
        "bytes": peak_bytes() - before,
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
