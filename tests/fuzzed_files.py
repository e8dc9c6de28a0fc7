"""Experiments' files, search spaces and configurations as a stranger may have written them, and what reads them.

Each kind of file has a whole example, which is broken somewhere: a value replaced, dropped or added, bytes changed, or
a single bit.
"""

import contextlib
import copy
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from autocompress.cli.snapshot import take
from autocompress.errors import AutoCompressError
from autocompress.nncf import CompressionConfig
from autocompress.nncf.translation import search_space_of, settings_of
from autocompress.plan import ExperimentPlan
from autocompress.records import LayerSize, ModelSizes
from autocompress.report.data import read_report_data
from autocompress.report.verdict import advice, findings, headline
from autocompress.result import CompressionResult
from autocompress.search import proposals
from autocompress.search_space import default_space, load_search_space, read_parameters
from autocompress.store import ExperimentDirectory, Ledger, Verdict
from autocompress.store.directory import read_json
from autocompress.store.journal import sealed
from tests.written import plan, propose, record

_RAW = {  # what `json.dumps` does not write
    "@nan": "NaN",
    "@infinite": "-Infinity",
    "@overflow": "1e999",
    "@digits": "9" * 5000,
    "@deep": "[" * 100_000 + "]" * 100_000,
    "@nested": '{"a":' * 70 + "1" + "}" * 70,
    "@nul": '"\\u0000"',
    "@half": '"\\ud800"',
    "@escape": '"trials/\\u0000/../../x"',
}
_WRONG = [
    *_RAW,
    None,
    True,
    False,
    0,
    1,
    -1,
    2**62,
    2**63,
    -(2**80),
    0.0,
    -0.5,
    1e308,
    5e-324,
    "",
    "x",
    "../../../x",
    "/etc/passwd",
    "..",
    "trials/../../x",
    "C:\\x",
    "os.system",
    "__import__('os').system('touch /tmp/x')",
    "collections:defaultdict",
    "ä" * 300,
    "1",
    "NaN",
    [],
    {},
    [None],
    [[]],
    {"_name": "l2"},
    {"__class__": "os"},
    {"__nni_type__": "bytes:gASVEAAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOULg=="},
]
_PIECES = [b"\x00", b"\xff", b"\xed\xa0\x80", b"{", b"}", b"[", b'"', b"\\", b"\n", b",", b"-", b"e9999", b"NaN"]
_MORE = ["x", "key", "checkpoint", "__class__", "_name", "schema_version", "../x"]

_EPOCHS = [{"epoch": number, "accuracy": 0.8 + number / 100, "accuracy_margin": 0.01} for number in (1, 2, 3)]
CURVE = "".join(sealed(json.dumps(epoch)) + "\n" for epoch in _EPOCHS)
NNCF = {
    "input_info": [{"sample_size": [1, 3, 8, 8], "type": "float", "filler": "random"}],
    "ignored_scopes": ["{re}head.*", "first"],
    "compression": [
        {
            "algorithm": "filter_pruning",
            "pruning_init": 0.1,
            "params": {"schedule": "exponential", "pruning_target": 0.4, "pruning_steps": 3, "filter_importance": "L1"},
        },
        {"algorithm": "quantization", "weights": {"bits": 8, "mode": "symmetric"}, "activations": {"bits": 8}},
        {"algorithm": "knowledge_distillation", "type": "softmax", "scale": 1.0, "temperature": 2.0},
    ],
    "accuracy_aware_training": {
        "mode": "adaptive_compression_level",
        "params": {"maximal_relative_accuracy_degradation": 1.0, "patience_epochs": 3, "lr_reduction_factor": 0.5},
    },
}
_LAYERS = (LayerSize("a", "Linear", 10, 10, 0.1), LayerSize("b", "Conv2d", 20, 30, None))


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: of the file, below the folder that `write` has filled.
        lines: whether it is JSON lines.
        read: everything that reads it; gives what it came to.
    """

    name: str
    lines: bool
    read: Callable[[Path], object]


def written(folder):
    """A whole experiment in `folder`, and the other kinds of files beside it."""
    directory = ExperimentDirectory(folder / "experiment")
    directory.write_settings(plan().to_dict())
    ledger = Ledger(directory)
    for _ in range(3):
        key, rate = propose(ledger)
        ledger.add(record(key, rate, feasible=rate < 0.58))
    found = CompressionResult(directory).best.key
    ledger.add_verdict(found, Verdict(0.894, 0.88, True))
    propose(ledger)
    trial = directory.trial(found)
    trial.write_record(record(found, 0.5, feasible=True))
    trial.write_sizes(ModelSizes(_LAYERS, _LAYERS[:1], 0.2, 0.1))
    (trial.path / "curve.jsonl").write_text(CURVE)
    space = default_space(["l2", "l1+qat", "qat"])
    (folder / "space.json").write_text(json.dumps(space.wire))
    (folder / "parameters.json").write_text(json.dumps(plan().trial_parameters(proposals(plan().searches, [])[0])))
    (folder / "nncf.json").write_text(json.dumps(NNCF))
    return found


def _experiment(folder):
    """What `status`, `trials`, `best`, `report` and `resume` read before any code of the experiment's module runs."""
    directory = ExperimentDirectory(folder / "experiment")
    known = ExperimentPlan.read(directory)
    answers = [known.threshold, known.space, known.searches]
    result = CompressionResult(directory)
    ledger = Ledger(directory)
    for key in [*ledger.open, *(each.key for each in ledger.records)]:
        files = directory.trial(key)
        answers += [files.record(), files.sizes(), files.curve(), files.traceback()]
    data = read_report_data(directory)
    answers += [headline(data), findings(data), advice(data), proposals(known.searches, ledger.records)]
    answers += [take(directory), result.records, result.baseline, result.threshold]
    with contextlib.suppress(AutoCompressError):  # nothing may be within the budget
        answers += [result.summary(), result.verdict]
    return answers


def _space(folder):
    space = load_search_space(folder / "space.json")
    return space, plan().settings.searches(space), [algorithm.fixed_variables for algorithm in space.algorithms]


def _parameters(folder):
    return read_parameters(read_json(folder / "parameters.json"))


def _nncf(folder):
    config = CompressionConfig.from_json(folder / "nncf.json")
    with contextlib.suppress(AutoCompressError):  # what is right for a loop may not be for an experiment
        return config, settings_of(config), search_space_of(config)
    return config


def kinds(best_key):
    """All of them; `best_key` is what `written` gave."""
    trial = f"experiment/trials/{best_key}"
    return [
        Kind("experiment/journal.jsonl", True, _experiment),
        Kind("experiment/experiment.json", False, _experiment),
        Kind(f"{trial}/record.json", False, _experiment),
        Kind(f"{trial}/layers.json", False, _experiment),
        Kind(f"{trial}/curve.jsonl", True, _experiment),
        Kind("space.json", False, _space),
        Kind("parameters.json", False, _parameters),
        Kind("nncf.json", False, _nncf),
    ]


@st.composite
def broken(draw, whole, *, lines):
    """The text of a file, broken in up to three places."""
    how = draw(st.sampled_from(["values", "values", "values", "bytes", "both"]))
    data = whole if how == "bytes" else _mutated(draw, whole, lines)
    for _ in range(0 if how == "values" else draw(st.integers(1, 2))):
        place = draw(st.integers(0, len(data)))
        kept = draw(st.integers(0, 3))
        data = data[:place] + draw(st.sampled_from(_PIECES) | st.binary(max_size=3)) + data[place + kept :]
    return data[: draw(st.integers(0, len(data)))] if how == "both" else data


def _mutated(draw, whole, lines):
    """Values are broken as a writer might break them, with the right checksum where the file has one."""
    documents = [json.loads(line) for line in whole.splitlines()] if lines else [json.loads(whole)]
    has_checksum = [document.pop("checksum", None) is not None for document in documents]
    for _ in range(draw(st.integers(1, 2))):
        number = draw(st.integers(0, len(documents) - 1))
        documents[number] = _replaced(draw, copy.deepcopy(documents[number]))
    text = [json.dumps(each) for each in documents]
    for name, raw in _RAW.items():
        text = [each.replace(f'"{name}"', raw) for each in text]
    text = [sealed(each) if seal and each[0] == "{" else each for each, seal in zip(text, has_checksum, strict=True)]
    return "".join(f"{each}\n" for each in text).encode()


def flipped(whole, bit):
    """A file in which one bit has changed."""
    data = bytearray(whole)
    data[bit // 8] ^= 1 << bit % 8
    return bytes(data)


def _replaced(draw, document):
    places = list(_places(document))
    wrong = copy.deepcopy(draw(st.sampled_from(_WRONG)))
    if not places:
        return wrong
    home, name = draw(st.sampled_from(places))
    action = draw(st.sampled_from(["replace", "replace", "replace", "drop", "add", "rename", "move"]))
    if action == "drop":
        del home[name]
    elif action == "replace":
        home[name] = wrong
    elif action == "move":
        home[name] = copy.deepcopy(draw(st.sampled_from(places)))[0]
    elif isinstance(home, list):
        home.insert(name, wrong)
    elif action == "add":
        home[draw(st.sampled_from(_MORE))] = wrong
    else:
        home[wrong if isinstance(wrong, str) else str(name) + "x"] = home.pop(name)
    return document


def _places(document):
    """Every object and list with each of its keys."""
    if not isinstance(document, dict | list):
        return
    for name in list(document) if isinstance(document, dict) else range(len(document)):
        yield document, name
        yield from _places(document[name])


_RUNS = {"import", "compile", "exec", "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork"}
_CHANGES = {f"os.{name}" for name in ("remove", "rename", "mkdir", "rmdir", "chmod", "link", "symlink", "truncate")}


class Watch:
    """Sees what Python does while a file is read: imports, code that is made or run, processes, files written.

    Python cannot forget a hook, so there is one, which looks while `on` is entered.
    """

    _seen = None
    _installed = False

    @classmethod
    def _hook(cls, event, arguments):
        if cls._seen is None:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in _RUNS | _CHANGES or writes:
            cls._seen.append((event, str(arguments[:2])[:200]))

    @classmethod
    @contextlib.contextmanager
    def on(cls):
        if not cls._installed:
            cls._installed = True
            sys.addaudithook(cls._hook)
        seen = cls._seen = []
        try:
            yield seen
        finally:
            cls._seen = None


def attempt(kind, folder, data):
    """Read a broken file: what it came to, or our error. Anything else that is raised or done is a failure."""
    path = folder / kind.name
    whole = path.read_bytes()
    path.write_bytes(data)
    try:
        with Watch.on() as seen:
            try:
                answer = kind.read(folder)
            except AutoCompressError as error:
                answer = error
                str(error).encode()  # it can be printed
    finally:
        path.write_bytes(whole)
    assert not seen, seen
    return answer
