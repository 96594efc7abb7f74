"""An answer in words, and whether it is right."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """What a model says of one image.

    Args:
        said: its answer.
        truth: the label, where the answer is wrong.
        is_right: None where there is no label.
    """

    said: str
    truth: str = ""
    is_right: bool | None = None
