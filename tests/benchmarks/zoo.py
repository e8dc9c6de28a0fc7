"""Every algorithm on every model of the zoo: `python -m tests.benchmarks.zoo [--algorithms l2 qat] [--models cnn]`.

Models are compressed, not trained, all layers at one rate; pruners at 0.3, 0.6 and 0.9. What was measured is kept in
`--results FILE`, a JSON line each, and is not measured again: a run that was stopped goes on with the same command.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from autocompress.compression.measure import ReferenceModel
from autocompress.errors import AutoCompressError
from autocompress.registry import algorithm, algorithms
from autocompress.testing.conformance import compress
from autocompress.testing.zoo import ZOO

RATES = (0.3, 0.6, 0.9)
MIXES = ["l2+qat", "level+qat"]
TABLES = {
    "Parameters removed (gone or zero), %": ("parameters", True),
    "Multiply-accumulates removed, %": ("macs", True),
    "Bytes of the checkpoint saved, %": ("bytes", False),
}
NONE = "-"


def measured(name, model):
    """What became of one algorithm on one model."""
    warm_up(name)
    reference_model, rows = ReferenceModel.of(ZOO[model]), []
    for rate in RATES if algorithm(name).kind != "quantizer" else (None,):
        try:
            found = compress(ZOO[model], name, rate, reference_model)
        except AutoCompressError as error:
            return {"algorithm": name, "model": model, "reason": f"at {rate}: {error}" if rows else str(error)}
        rows.append(removed(found, reference_model.size))
    return {"algorithm": name, "model": model, "rows": rows}


def removed(found, before):
    return {
        "rate": found.rate,
        "achieved": found.achieved,
        "parameters": 1 - found.size.nonzero_parameters / before.nonzero_parameters,
        "macs": 1 - found.size.macs / before.macs,
        "bytes": 1 - found.size.bytes / before.bytes,
        "seconds": found.seconds,
    }


_warm = set()


def warm_up(name):
    """The first use of an algorithm also imports what it needs."""
    if name not in _warm:
        compress(
            ZOO["cnn"], name, RATES[0] if algorithm(name).kind != "quantizer" else None, ReferenceModel.of(ZOO["cnn"])
        )
        _warm.add(name)


def table(title, results, cell):
    """Algorithms by models; algorithms that have nothing to show are left out."""
    models = list(dict.fromkeys(model for _, model in results))
    lines = [f"| {title} | " + " | ".join(models) + " |", "|---|" + "--:|" * len(models)]
    for name in dict.fromkeys(name for name, _ in results):
        cells = [cell(results[name, model]) for model in models]
        if any(each != NONE for each in cells):
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shares(field, skip_zero):
    """A cell of percentages, one for each rate."""

    def cell(result):
        figures = [round(100 * row[field]) for row in result.get("rows", [])]
        return " / ".join(map(str, figures)) if figures and (any(figures) or not skip_zero) else NONE

    return cell


def slowest(result):
    return f"{max(row['seconds'] for row in result['rows']):.2f}" if "rows" in result else NONE


def report(results):
    parts = [table(title, results, shares(*columns)) for title, columns in TABLES.items()]
    parts.append(table(f"Seconds to compress, the slowest rate, {torch.get_num_threads()} threads", results, slowest))
    refused = [f"- {name} on {model}: {each['reason']}" for (name, model), each in results.items() if "reason" in each]
    return "\n\n".join(parts) + ("\n\nDoes not apply:\n" + "\n".join(refused) if refused else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithms", nargs="+", default=[*algorithms(), *MIXES])
    parser.add_argument("--models", nargs="+", default=list(ZOO), choices=list(ZOO))
    parser.add_argument("--results", type=Path, help="keep what was measured in this file, and go on from it")
    arguments = parser.parse_args()
    kept = arguments.results.read_text().splitlines() if arguments.results and arguments.results.exists() else []
    known = {(each["algorithm"], each["model"]): each for each in map(json.loads, kept)}
    results = {}
    for pair in [(name, model) for name in arguments.algorithms for model in arguments.models]:
        if pair not in known:
            print(*pair, file=sys.stderr)
            known[pair] = measured(*pair)
            if arguments.results:
                with arguments.results.open("a") as file:
                    file.write(json.dumps(known[pair]) + "\n")
        results[pair] = known[pair]
    print(report(results))


if __name__ == "__main__":
    main()
