"""The backbones by name: classifiers of keras.applications, each with its input scaling, and our own small ones.

And those of a file: a model that Keras saved, or a preset of KerasHub.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multitask.errors import ConfigError

# The classifiers of keras.applications by the input scaling that their weights were trained with: caffe (BGR, mean
# subtracted), tf (-1..1), torch (0..1, standardised), none (the network scales by itself).
_APPLICATIONS = {
    "caffe": ("VGG16", "VGG19", "ResNet50", "ResNet101", "ResNet152"),
    "tf": (
        *("ResNet50V2", "ResNet101V2", "ResNet152V2", "InceptionV3", "InceptionResNetV2", "Xception"),
        *("MobileNet", "MobileNetV2", "NASNetMobile", "NASNetLarge"),
    ),
    "torch": ("DenseNet121", "DenseNet169", "DenseNet201"),
    "none": (
        *("MobileNetV3Small", "MobileNetV3Large"),
        *(f"EfficientNetB{size}" for size in range(8)),
        *(f"EfficientNetV2{size}" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")),
        *(f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large", "XLarge")),
    ),
}

# Our own, trained from scratch, see `network.small`; they take pixels of 0..1.
_OWN = ("small_cnn", "lenet", "inception_small")

# Backbone -> constructor in keras.applications, "" for our own, and scaling.
BACKBONES = {name.lower(): (name, scaling) for scaling, names in _APPLICATIONS.items() for name in names}
BACKBONES |= dict.fromkeys(_OWN, ("", "unit"))

# Input scalings that a backbone of a file can be given; see `network.backbone`.
SCALINGS = (*_APPLICATIONS, "unit")


def is_location(backbone: str) -> bool:
    """Tell whether a backbone is named by a file or folder."""
    return backbone.endswith(".keras") or "/" in backbone


def read_architecture(location: Path, options: Mapping[str, Any]) -> str:
    """Read what the backbone of a file is made of, without TensorFlow.

    Args:
        location: a `.keras` file, or the folder of a KerasHub preset.
        options: `scaling`, one of `SCALINGS`: what the model expects of pixels. By default what the preset says, and of
            a file none: it takes RGB 0..255.

    Returns:
        JSON of `model`, as Keras serialises it, and `scaling`, a name or scale and offset.

    Raises:
        ConfigError: there is no such model, or no such option.
    """
    wrong = [name for name in options if name != "scaling"]
    if wrong or options.get("scaling", "none") not in SCALINGS:
        raise ConfigError(
            "a backbone of a file has one option, scaling",
            where="model.backbone_options",
            expected=", ".join(SCALINGS),
            received=", ".join(wrong) or str(options["scaling"]),
        )
    scaling: Any = options.get("scaling", "none")
    try:
        if location.is_dir():
            model = json.loads((location / "config.json").read_text(encoding="utf-8"))
            converter = location / "image_converter.json"
            if converter.is_file() and "scaling" not in options:
                settings = json.loads(converter.read_text(encoding="utf-8"))["config"]
                scale, offset = settings.get("scale"), settings.get("offset")
                scaling = [1.0 if scale is None else scale, 0.0 if offset is None else offset]
        else:
            with zipfile.ZipFile(location) as archive:
                model = json.loads(archive.read("config.json"))
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"holds no model ({error})",
            where=f"model.backbone {location}",
            expected="a .keras file, or the folder of a KerasHub preset",
        ) from None
    # What it was compiled with is of no use here.
    return json.dumps({"model": {**model, "compile_config": None}, "scaling": scaling}, sort_keys=True)
