"""torchvision's models, all but those that are quantized already, with small inputs of the kind that each takes."""

import functools

import torch
import torchvision

PACKAGE = "torchvision.models."
SIDES = {"inception": 299}
ROI = {"rpn_post_nms_top_n_test": 20, "box_detections_per_img": 10, "min_size": 96, "max_size": 128}
FEW = {"detections_per_img": 10, "topk_candidates": 50}
ONE_STAGE = {**FEW, "min_size": 96, "max_size": 128}


def models():
    """Family, name, millions of parameters, and what builds the model and its inputs."""
    for name in torchvision.models.list_models():
        if name.startswith("quantized_"):
            continue
        family = torchvision.models.get_model_builder(name).__module__.removeprefix(PACKAGE)
        sizes = [weights.meta["num_params"] for weights in torchvision.models.get_model_weights(name)]
        yield family, name, min(sizes) / 1e6, functools.partial(build, name), functools.partial(inputs, family, name)


def build(name):
    with_operators()
    return torchvision.models.get_model(name, weights=None, **options(name))


def options(name):
    """Arguments of a builder: no weights, and few detections in small images."""
    family = torchvision.models.get_model_builder(name).__module__.removeprefix(PACKAGE)
    if family.startswith("detection."):
        kind = family.removeprefix("detection.")
        limits = {"ssd": FEW, "ssdlite": FEW, "fcos": ONE_STAGE, "retinanet": ONE_STAGE}.get(kind, ROI)
        return {"weights_backbone": None, **limits}
    if family.startswith("segmentation."):
        return {"weights_backbone": None}
    return {"init_weights": False} if family in ("googlenet", "inception") else {}


def inputs(family, name, batch):
    generator = torch.Generator().manual_seed(batch)
    if family.startswith("detection."):
        return ([torch.rand(3, 96, 128, generator=generator) for _ in range(batch)],)
    if family.startswith("optical_flow."):
        return tuple(torch.randn(batch, 3, 128, 128, generator=generator) for _ in range(2))
    if family.startswith("segmentation."):
        return torch.randn(batch, 3, 96, 96, generator=generator)
    if family.startswith("video."):
        whole = family in ("video.mvit", "video.swin_transformer")
        frames, side = (16, 224) if family == "video.mvit" else (8, 224) if whole else (16, 64)
        frames, side = (16, 224) if family == "video.s3d" else (frames, side)
        return torch.randn(batch, 3, frames, side, side, generator=generator)
    side = SIDES.get(family, 256 if name.startswith("swin_v2") else 224)
    return torch.randn(batch, 3, side, side, generator=generator)


@functools.cache
def with_operators():
    """Compute non-maximum suppression in Python where torchvision's compiled operators are not installed."""
    from torchvision.extension import _has_ops
    from torchvision.ops import boxes

    if not _has_ops():
        library = torch.library.Library("torchvision", "IMPL")
        library.impl("nms", suppressed, "CPU")
        boxes._assert_has_ops = lambda: None
        _kept.append(library)


_kept = []


def suppressed(boxes, scores, limit):
    """The boxes that no better one overlaps by more than the limit, the best first."""
    left, kept = scores.argsort(descending=True), []
    overlaps = torchvision.ops.box_iou(boxes, boxes)
    while len(left):
        kept.append(left[0])
        left = left[1:][overlaps[left[0], left[1:]] <= limit]
    return torch.stack(kept) if kept else left
