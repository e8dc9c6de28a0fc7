"""What compression costs and brings on resnet18, 32x32 inputs: `python -m tests.benchmarks.speed [--rounds 25]`.

Seconds to compress are those of the compressor at rate 0.5, its use of data included, the median of three. Ratios are
of medians; the two models take turns in one process. For the exported models every width is rounded to a multiple of 8.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path

import onnxruntime
import torch
from torch.nn import functional

from autocompress.compression.base import CompressionRequest, compressor
from autocompress.compression.measure import measure
from autocompress.formats.export import export
from autocompress.layer_selector import LayerRule
from autocompress.registry import algorithms
from autocompress.testing.zoo import ZOO

RATE, ROUND_TO, TRIES = 0.5, 8, 3
MODULE = ZOO["resnet18"]
PRUNERS = [name for name, algorithm in algorithms().items() if algorithm.kind == "pruner"]


def compressed(name, **arguments):
    """The model at half its filters, and the seconds that took."""
    model, inputs = MODULE.model(), (MODULE.example_inputs(),)
    rules = (LayerRule(("default",), rate=RATE),)
    request = CompressionRequest(name, rules, inputs, arguments=arguments, module=MODULE)
    started = time.perf_counter()
    compression = compressor(name).compress(model, request)
    seconds = time.perf_counter() - started
    return compression, seconds


def in_turns(tasks, rounds, warm_up=3):
    """Median seconds of each task."""
    times = {name: [] for name in tasks}
    for number in range(warm_up + rounds):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            if number >= warm_up:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(found) for name, found in times.items()}


def training_iteration(model, x, y):
    """Forward, backward and a step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model.train()

    def iterate():
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return iterate


def inference(path, batch, threads):
    """One run of the exported model in onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    feed = {given.name: torch.randn(batch, *MODULE.shape).numpy()}
    return lambda: session.run(None, feed)


def compare(title, tasks, rounds):
    found = in_turns(tasks, rounds)
    dense, small = found["dense"], found["compressed"]
    print(f"| {title} | {1000 * dense:.1f} | {1000 * small:.1f} | {dense / small:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    rounds = parser.parse_args().rounds
    compressed("l2")  # the first use imports
    print("| pruner | seconds to compress |\n|---|--:|")
    for name in PRUNERS:
        print(f"| {name} | {statistics.median(compressed(name)[1] for _ in range(TRIES)):.2f} |")
    half, rounded = (compressed("l2", **arguments)[0] for arguments in ({}, {"round_to": ROUND_TO}))
    size, before = (measure(model, (MODULE.example_inputs(),)) for model in (rounded.model, MODULE.model()))
    print(f"\nl2 at {RATE}, rounded to {ROUND_TO}: achieved {rounded.achieved_rate(rounded.model):.3f},", end=" ")
    print(
        f"{1 - size.parameters / before.parameters:.1%} of the parameters, {1 - size.macs / before.macs:.1%} of MACs\n"
    )
    threads = torch.get_num_threads()
    print("| | dense, ms | compressed, ms | times faster |\n|---|--:|--:|--:|")
    for batch in (32, 128):
        data = torch.randn(batch, *MODULE.shape), torch.randint(0, MODULE.outputs, (batch,))
        tasks = {
            "dense": training_iteration(MODULE.model(), *data),
            "compressed": training_iteration(half.model, *data),
        }
        compare(f"training iteration, batch {batch}, threads {threads}", tasks, rounds)
    rounded.model.eval()
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder, f"{name}.onnx") for name in ("dense", "compressed")}
        for model, path in zip((MODULE.model(), rounded.model), files.values(), strict=True):
            export(model, path, (MODULE.example_inputs(),))
        for batch, threads in itertools.product((1, 32), (1, os.cpu_count())):
            tasks = {name: inference(path, batch, threads) for name, path in files.items()}
            compare(f"onnxruntime, batch {batch}, threads {threads}", tasks, 4 * rounds)


if __name__ == "__main__":
    main()
