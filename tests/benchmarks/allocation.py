"""Which layers should lose how much: `python -m tests.benchmarks.allocation`.

Loss on training data of small nets on digits after the cut, BatchNorm recalibrated, not trained; for each
allocation at shares of the multiply-accumulates. The loss of the whole net is below 0.1.
"""

from autocompress.compression.base import recalibrate
from autocompress.compression.measure import ReferenceModel
from autocompress.compression.pruning.filters import FilterCompressor
from autocompress.layer_selector import ALL_LAYERS, LayerRule
from tests.trained_nets import TRAINED

RATES = (0.3, 0.5, 0.7)


def loss(module, reference, algorithm, allocation, rate):
    model, rules = module.model(), (LayerRule((ALL_LAYERS,), rate=rate),)
    request = reference.request(algorithm, rules, {"allocation": allocation, "rate_of": "macs"}, module)
    FilterCompressor().compress(model, request)
    recalibrate(model, module.calibration_data())
    return module.loss(model)


def main():
    print(f"| net | algorithm | allocation | {' | '.join(f'{rate:.0%} of the MACs' for rate in RATES)} |")
    print(f"|---|---|---|{len(RATES) * '--:|'}")
    for name in ("plain CNN", "residual", "depthwise"):
        module = TRAINED[name]
        reference = ReferenceModel.of(module)
        for algorithm in ("l2", "taylorfo"):
            for allocation in ("uniform", "global", "sensitivity", "least_damage"):
                found = [f"{loss(module, reference, algorithm, allocation, rate):.2f}" for rate in RATES]
                print(f"| {name} | {algorithm} | {allocation} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
