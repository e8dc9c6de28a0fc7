"""The models: names, families, how each is built with random weights, and what goes into it. Nothing is downloaded."""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tests.benchmarks.models import speech_and_text, torchvision_models


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Attributes:
        group: the package that it comes from, or `speech`.
        family: models of one architecture in different sizes.
        name: in its package.
        size: millions of parameters; models of a group are tried from small to large.
        build: makes the model.
        inputs: one sample or `batch` of them: a tensor, a tuple, or a dictionary of named arguments.
    """

    group: str
    family: str
    name: str
    size: float
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Any]


def image(batch, side=224):
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(batch))


def torchvision_entries():
    for found in torchvision_models.models():
        yield Entry("torchvision", *found)


TIMM = {
    "beit": ("beit_base_patch16_224", 86.5),
    "byoanet": ("lambda_resnet26rpt_256", 11.0, 256),
    "byobnet": ("mobileone_s0", 5.3),
    "cait": ("cait_xxs24_224", 12.0),
    "coat": ("coat_lite_tiny", 5.7),
    "convit": ("convit_tiny", 5.7),
    "convmixer": ("convmixer_768_32", 21.1),
    "convnext": ("convnext_atto", 3.7),
    "crossvit": ("crossvit_tiny_240", 7.0, 240),
    "cspnet": ("cs3darknet_focus_s", 3.3),
    "davit": ("davit_tiny", 28.4),
    "deit": ("deit_tiny_patch16_224", 5.7),
    "densenet": ("densenet121", 8.0),
    "dla": ("dla46_c", 1.3),
    "dpn": ("dpn48b", 9.1),
    "edgenext": ("edgenext_xx_small", 1.3),
    "efficientformer": ("efficientformer_l1", 12.3),
    "efficientformer_v2": ("efficientformerv2_s0", 3.6),
    "efficientnet": ("mnasnet_small", 2.0),
    "efficientvit_mit": ("efficientvit_b0", 3.4),
    "efficientvit_msra": ("efficientvit_m0", 2.3),
    "eva": ("eva02_tiny_patch14_224", 5.5),
    "fasternet": ("fasternet_t0", 3.9),
    "fastvit": ("fastvit_t8", 4.0),
    "focalnet": ("focalnet_tiny_srf", 28.4),
    "gcvit": ("gcvit_xxtiny", 12.0),
    "ghostnet": ("ghostnet_050", 2.6),
    "hardcorenas": ("hardcorenas_a", 5.3),
    "hgnet": ("hgnetv2_b0", 6.0),
    "hiera": ("hiera_tiny_224", 27.9),
    "hrnet": ("hrnet_w18_small", 13.2),
    "inception_next": ("inception_next_atto", 4.2),
    "inception_v4": ("inception_v4", 42.7, 299),
    "lcnetv2": ("lcnetv2_small", 4.4),
    "levit": ("levit_128s", 7.8),
    "mambaout": ("mambaout_femto", 7.3),
    "maxxvit": ("coatnet_pico_rw_224", 10.9),
    "metaformer": ("poolformer_s12", 11.9),
    "mlp_mixer": ("resmlp_12_224", 15.4),
    "mobilenetv3": ("lcnet_035", 1.6),
    "mobilevit": ("mobilevit_xxs", 1.3, 256),
    "mvitv2": ("mvitv2_tiny", 24.2),
    "nest": ("nest_tiny_jx", 17.1),
    "nextvit": ("nextvit_small", 31.8),
    "nfnet": ("nf_resnet26", 16.0),
    "pit": ("pit_ti_224", 4.9),
    "pvt_v2": ("pvt_v2_b0", 3.7),
    "rdnet": ("rdnet_tiny", 23.9),
    "regnet": ("regnety_002", 3.2),
    "repghost": ("repghostnet_050", 2.3),
    "repvit": ("repvit_m0_9", 5.5),
    "res2net": ("res2net50_48w_2s", 25.3),
    "resnest": ("resnest14d", 10.6),
    "resnet": ("resnet10t", 5.4),
    "resnetv2": ("resnetv2_18", 11.7),
    "rexnet": ("rexnet_100", 4.8),
    "selecsls": ("selecsls42", 30.3),
    "senet": ("legacy_seresnet18", 11.8),
    "sequencer": ("sequencer2d_s", 27.7),
    "shvit": ("shvit_s1", 6.3),
    "sknet": ("skresnet18", 12.0),
    "starnet": ("starnet_s050", 0.5),
    "swiftformer": ("swiftformer_xs", 3.5),
    "swin_transformer": ("swin_tiny_patch4_window7_224", 28.3),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", 28.3, 256),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_ns_224", 28.3),
    "tiny_vit": ("tiny_vit_5m_224", 5.4),
    "tnt": ("tnt_s_patch16_224", 23.7),
    "tresnet": ("tresnet_m", 31.4),
    "twins": ("twins_svt_small", 24.1),
    "vgg": ("vgg11_bn", 132.9),
    "visformer": ("visformer_tiny", 10.3),
    "vision_transformer": ("vit_tiny_patch16_224", 5.7),
    "vision_transformer_relpos": ("vit_relpos_small_patch16_224", 22.0),
    "vitamin": ("vitamin_small_224", 22.0),
    "volo": ("volo_d1_224", 26.6),
    "vovnet": ("ese_vovnet19b_slim_dw", 1.9),
    "xception": ("legacy_xception", 22.9, 299),
    "xception_aligned": ("xception41", 27.0, 299),
    "xcit": ("xcit_nano_12_p16_224", 3.0),
}
"""The smallest model of each family, a file of `timm.models`, millions of parameters, and the images' side."""


def timm_model(name):
    import timm

    return timm.create_model(name, pretrained=False)


def timm_entries():
    for family, (name, size, *side) in TIMM.items():
        inputs = functools.partial(image, side=side[0]) if side else image
        yield Entry("timm", family, name, size, functools.partial(timm_model, name), inputs)


YOLO = {
    "yolov8": {"yolov8n": 3.2, "yolov8n-seg": 3.4, "yolov8n-pose": 3.3, "yolov8n-cls": 2.7},
    "yolo11": {"yolo11n": 2.6, "yolo11n-seg": 2.9, "yolo11n-pose": 2.9, "yolo11n-cls": 1.6},
}


def yolo(name):
    import ultralytics

    return ultralytics.YOLO(f"{name}.yaml", verbose=False).model.requires_grad_(True)


def ultralytics_entries():
    for family, names in YOLO.items():
        for name, size in names.items():
            side = 224 if name.endswith("cls") else 160
            yield Entry(
                "ultralytics", family, name, size, functools.partial(yolo, name), functools.partial(image, side=side)
            )


SEGMENTATION = {
    "Unet": ("resnet18", "mobilenet_v2", "efficientnet-b0", "timm-mobilenetv3_small_100", "mit_b0"),
    "UnetPlusPlus": ("resnet18",),
    "MAnet": ("resnet18",),
    "Linknet": ("resnet18",),
    "FPN": ("resnet18",),
    "PSPNet": ("resnet18",),
    "DeepLabV3": ("resnet18",),
    "DeepLabV3Plus": ("resnet18",),
    "PAN": ("resnet18",),
    "UPerNet": ("resnet18",),
    "Segformer": ("mit_b0",),
}
SIZES = {"mobilenet_v2": 6.6, "efficientnet-b0": 6.3, "timm-mobilenetv3_small_100": 3.6, "mit_b0": 5.0}


def segmentation(architecture, encoder):
    import segmentation_models_pytorch as smp

    return getattr(smp, architecture)(encoder, encoder_weights=None, classes=4)


def segmentation_entries():
    for family, encoders in SEGMENTATION.items():
        for encoder in encoders:
            build = functools.partial(segmentation, family, encoder)
            size = SIZES.get(encoder, 14.0)
            side = 128 if family == "PAN" else 64
            yield Entry("segmentation", family, f"{family}-{encoder}", size, build, functools.partial(image, side=side))


def transformers_entries():
    for name, (size, build, inputs) in speech_and_text.TRANSFORMERS.items():
        yield Entry("transformers", name.removesuffix("-base").removesuffix("-v2"), name, size, build, inputs)


def speech_entries():
    for name, (size, build, inputs) in speech_and_text.SPEECH.items():
        yield Entry("speech", name, name, size, build, inputs)


GROUPS = {
    "torchvision": ("torchvision", torchvision_entries),
    "timm": ("timm", timm_entries),
    "transformers": ("transformers", transformers_entries),
    "ultralytics": ("ultralytics", ultralytics_entries),
    "segmentation": ("segmentation_models_pytorch", segmentation_entries),
    "speech": ("transformers", speech_entries),
}
"""The package that has a group's models, and the models."""


def entries():
    """All models whose package is installed, the smallest first."""
    found = [entry for package, group in GROUPS.values() if importlib.util.find_spec(package) for entry in group()]
    return sorted(found, key=lambda entry: entry.size)


def smallest(found):
    """The smallest model of each family."""
    first = {}
    for entry in sorted(found, key=lambda entry: entry.size):
        first.setdefault((entry.group, entry.family), entry)
    return list(first.values())
