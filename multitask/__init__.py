"""Multi-task transfer learning on photos: several questions about one image, trained once, answered everywhere.

The front door for notebooks; a name is imported when it is first used, so `import multitask` costs nothing.

    import multitask
    run = multitask.fit("demo", epochs=5)
    run.metrics
    run.predict("photo.jpg")
"""

from __future__ import annotations

import importlib
from typing import Any

_ROOMS = {
    "Config": "config",
    "load_config": "config",
    "ModelSpec": "spec",
    "Task": "spec",
    "ImageSpec": "spec",
    "MultitaskError": "errors",
    "draw_sample": "demo.sample",
    "read_table": "data.tables",
    "open_archive": "data.archives",
    "make_dataset": "features.dataset",
    "audit_rows": "audit.rows",
    "fit": "notebook",
    "resume": "notebook",
    "open_run": "notebook",
    "Run": "notebook",
    "Lines": "progress",
    "KerasPredictor": "prediction.trained",
    "predict_table": "prediction.scoring",
    "evaluate_run": "evaluation.assessment",
}
__all__ = sorted(_ROOMS)


def __getattr__(name: str) -> Any:
    """Import a public name from its room (PEP 562)."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'multitask' has no attribute {name!r}")
    return getattr(importlib.import_module(f"multitask.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
