"""The ranked list of probably wrong labels for people: a table to work through, and a page with the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from multitask.config import Config
from multitask.exploration.label_errors import WEAK, find_label_errors
from multitask.exploration.report import thumbnail
from multitask.features.preparation import Prepared, prepare
from multitask.progress import Progress, Quiet
from multitask.storage import replacing
from multitask.style import CSS
from multitask.workers import Nobody, Workers

SHOWN = 24

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Labels that are probably wrong</title><style>{{ css }}
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .8rem; }
.tiles figure { margin: 0; } .tiles img { width: 100%; height: 9rem; object-fit: contain; background: var(--card); }
.tiles figcaption { font-size: .8rem; overflow-wrap: anywhere; line-height: 1.3; }
</style></head><body>
<h1>Labels that are probably wrong</h1>
<p class="faint">Each row was judged by a model of the other rows, the worst first. All are in label_errors.csv.</p>
{% for heading, count, agreement, tiles in sections %}
<h2>{{ heading }} <span class="faint">({{ "{:,}".format(count) }})</span></h2>
<p class="faint">The judging model agrees with {{ "%.0f" % (100 * agreement) }}% of all labels.
{% if agreement < weak %}<b>That is too weak to be trusted: most of these are its own mistakes.</b>{% endif %}</p>
<div class="tiles">{% for tile in tiles %}<figure>
{% if tile.image %}<img alt="{{ tile.id }}" src="{{ tile.image }}">{% endif %}
<figcaption><b>{{ tile.given }}</b>, rather {{ tile.suggested }}<br>
<span class="faint">{{ tile.id }}, {{ tile.quality }}</span></figcaption>
</figure>{% endfor %}</div>{% else %}<p>None stands out.</p>{% endfor %}
</body></html>
"""


def write_label_errors(
    config: Config,
    out: Path,
    progress: Progress = Quiet(),  # noqa: B008
    workers: Workers = Nobody(),  # noqa: B008
) -> pd.DataFrame:
    """Write label_errors.csv and label_errors.html into `out`; return what `find_label_errors` found.

    `workers` may look at images and compute features beforehand.
    """
    prepared = prepare(config, progress, workers=workers)
    found = find_label_errors(prepared, config.fit.seed, progress)
    with replacing(out / "label_errors.csv") as path:
        found[found["suspicious"]].drop(columns="suspicious").to_csv(path, index=False)
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(TEMPLATE)
    with replacing(out / "label_errors.html") as path:
        path.write_text(template.render(css=CSS, weak=WEAK, sections=_sections(found, prepared)), encoding="utf-8")
    return found


def _sections(found: pd.DataFrame, prepared: Prepared) -> list[tuple[str, int, float, list[dict[str, Any]]]]:
    sections = []
    for (task, label), rows in found[found["suspicious"]].groupby(["task", "label"], sort=False):
        tiles = [
            {**tile, "image": thumbnail(prepared.archive, str(tile["id"]), prepared.spec.image.max_pixels)}
            for tile in rows[:SHOWN].to_dict("records")
        ]
        sections.append((f"{task}: {label}", len(rows), float(rows["agreement"].iloc[0]), tiles))
    return sections
