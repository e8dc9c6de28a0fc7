"""The demo's module: what the documentation says of it, and that it is a module like any other."""

import torch

from autocompress import demo
from autocompress.compression.module_loading import ModuleReference
from autocompress.trial.tasks import missing_hooks


def test_no_image_is_in_two_splits():
    sizes = {name: len(x) for name, (x, _) in demo.DATA.items()}
    assert sizes == {"train": 1078, "validation": 359, "holdout": 360}
    images = torch.cat([x for x, _ in demo.DATA.values()]).flatten(1)
    assert len(torch.unique(images, dim=0)) == 1797, "scikit-learn's images, all different"
    assert all(x.min() == 0 and x.max() == 1 for x, _ in demo.DATA.values())


def test_the_network_is_trained_once_and_accurate():
    demo.CACHE.unlink(missing_ok=True)
    first, second = demo.DigitsModule.model(), demo.DigitsModule.model()
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))
    for evaluate in (demo.DigitsModule.evaluator(), demo.DigitsModule.holdout_evaluator()):
        assert evaluate(first) > 0.97


def test_every_algorithm_that_suits_the_network_has_the_hooks_it_needs():
    for algorithm in ("l2", "fpgm", "slim", "taylorfo", "apoz", "level", "qat", "dorefa"):
        wanted = [hook for hook in missing_hooks(demo.DigitsModule, algorithm) if hook != "sparsifying_trainer"]
        assert wanted == [], algorithm


def test_it_is_found_where_the_package_is():
    reference = ModuleReference.parse("autocompress.demo:DigitsModule")
    assert reference.load() is demo.DigitsModule
    assert reference == ModuleReference.of(demo.DigitsModule)
