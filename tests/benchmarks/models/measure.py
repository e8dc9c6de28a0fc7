"""One algorithm on one model, in a process of its own: what is removed, how long and how much memory that takes, and
whether the smaller model is as good as the uncompressed one: it runs, trains, is loaded again and exported."""

import resource
import tempfile
import time
import traceback
from pathlib import Path

import torch
from torch import nn

from autocompress.compression.measure import ReferenceModel
from autocompress.compression.model_state import eval_mode, flatten_tensors, forward_outputs
from autocompress.compression.module import argument_inputs
from autocompress.errors import AutoCompressError, first_line
from autocompress.formats.export import export
from autocompress.registry import algorithm as registered
from autocompress.testing.conformance import check_outputs, check_reload, compress
from autocompress.testing.zoo import ZooModule

RATES = (0.5, 0.25, 0.75)
MEBIBYTE = 1 << 20


class TookTooLong(BaseException):
    """The time limit of a step; a BaseException, so that nothing that is measured catches it."""


def module_of(entry):
    """The user's module of a model: one batch of two samples, and a trainer that makes the outputs small."""

    class Module(ZooModule):
        build = staticmethod(entry.build)

        @classmethod
        def model(cls):
            torch.manual_seed(0)
            return entry.build().eval()

        @classmethod
        def example_inputs(cls):
            return entry.inputs(1)

        @classmethod
        def calibration_data(cls):
            given = entry.inputs(2)
            return [(given,) if isinstance(given, tuple) else given]

        @classmethod
        def sparsifying_trainer(cls, compress_algorithm_name):
            def train(model, optimizer, criterion, epoch):
                optimizer.zero_grad()
                backward(model.eval(), argument_inputs(model, entry.inputs(2), "inputs"))
                optimizer.step()

            return train

    Module.__name__ = "".join(filter(str.isidentifier, entry.name))
    return Module


def backward(model, inputs):
    """The gradients of the outputs' mean square, in eval mode, in which detectors need no targets."""
    with eval_mode(model), torch.enable_grad():
        outputs = [each for each in flatten_tensors(model(*inputs)) if each.requires_grad]
        sum(each.double().square().mean() for each in outputs if each.numel()).backward()


class Measurements:
    """The row of one model and algorithm, as far as it is known.

    Args:
        report: called with the row after each step.
        seconds: limit of each step, of processor time.
    """

    def __init__(self, report, seconds):
        self.row, self._report, self._seconds = {}, report, seconds

    def step(self, name, function):
        """Run a step; what it raises is its result. Returns its value, None if it has none."""
        limit_time(self._seconds)
        value, result = None, True
        try:
            value = function()
        except AutoCompressError as error:
            result = str(error)
        except TookTooLong:
            result = f"took more than {self._seconds} s"
        except Exception as error:  # noqa: BLE001 - what is found
            where = traceback.extract_tb(error.__traceback__)[-1]
            result = f"{type(error).__name__}: {first_line(error)} ({Path(where.filename).name}, line {where.lineno})"
            self.row["uncaught"] = name
        if result is not True or name not in ("built", "compressed"):
            self.row[name] = result
        self._report(self.row)
        return value


def measured(entry, algorithm, rates, exports, report, seconds):
    """Fill a row and report it after each step.

    Args:
        entry: of the catalog.
        algorithm: its registered name.
        rates: of a pruner; the model at the first is checked.
        exports: whether to write ONNX.
        report: called with the row.
        seconds: limit of each step.
    """
    found, module = Measurements(report, seconds), module_of(entry)
    reference = found.step("built", lambda: ReferenceModel.of(module))
    if reference is None:
        return
    own = peak_of(lambda: forward_outputs(reference.original, reference.inputs))
    embeddings = sum(each.weight.numel() for each in set_of(reference.original, nn.Embedding))
    found.row |= {"parameters": reference.size.parameters, "embeddings": embeddings, "macs": reference.size.macs}
    found.row |= {"mebibytes": round(own)}
    for rate in rates if registered(algorithm).kind != "quantizer" else (None,):
        one = found.step("compressed", lambda rate=rate: at_rate(module, algorithm, rate, reference, own))
        if one is None:
            return
        compressed, removed = one
        found.row.setdefault("rates", {})[str(rate)] = removed
        if rate in (rates[0], None):
            left = getattr(compressed.compressions[0], "left_alone", {})
            found.row["left_alone"] = len(left)
            checked(found, compressed, reference)
            kept = compressed
    if exports:
        found.step("onnx", lambda: check_onnx(kept.finished, reference))


def at_rate(module, algorithm, rate, reference, own):
    """The compressed model and its figures."""
    started, found = time.process_time(), []
    peak = peak_of(lambda: found.append(compress(module, algorithm, rate, reference)))
    (compressed,), before = found, reference.size
    removed = {
        "achieved": round(compressed.achieved, 4),
        "parameters": round(1 - compressed.size.nonzero_parameters / before.nonzero_parameters, 4),
        "macs": round(1 - compressed.size.macs / before.macs, 4),
        "bytes": round(1 - compressed.size.bytes / before.bytes, 4),
        "seconds": round(time.process_time() - started, 1),
        "mebibytes": max(0, round(peak - own)),
    }
    return compressed, removed


def checked(found, compressed, reference):
    found.step("forward", lambda: check_outputs(compressed.finished, reference))
    found.step("reload", lambda: check_reload(compressed, reference))
    if any(each.requires_grad for each in compressed.compressions[-1].model.parameters()):
        found.step("gradient", lambda: check_gradient(compressed, reference))


def check_gradient(compressed, reference):
    """Gradients must reach every parameter of the compressed model that they reach in the uncompressed one."""
    models = reference.original, compressed.compressions[-1].model
    before, after = (names_reached(each, reference.inputs) for each in models)
    lost = ", ".join(sorted(before - after)[:3])
    assert len(after) >= len(before) > 0, f"gradients reach {len(after)} of {len(before)} parameters, not {lost}"


def names_reached(model, inputs):
    backward(model, inputs)
    names = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)
    return names


def check_onnx(finished, reference):
    with tempfile.TemporaryDirectory() as folder:
        export(finished, Path(folder, "model.onnx"), reference.inputs)


def set_of(model, kind):
    return {module for module in model.modules() if isinstance(module, kind)}


def peak_of(function):
    """The most memory that the process has while a function runs, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    function()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / MEBIBYTE


def limit_time(seconds):
    """Raise TookTooLong in so many more seconds of processor time."""
    import signal

    def stop(*_):
        raise TookTooLong

    signal.signal(signal.SIGXCPU, stop)
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))
