"""The backbones by name: classifiers of keras.applications, each with its input scaling, and our own small ones."""

from __future__ import annotations

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
