"""The one-file HTML report of a data set: what to do, then pictures of what stands out; it opens without a network."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2

from multitask.audit.inspection import open_picture
from multitask.audit.rows import Audit
from multitask.data.archives import Archive, read_image
from multitask.data.tables import Table
from multitask.exploration.facts import EXAMPLES, Exploration
from multitask.storage import replacing
from multitask.style import CSS, data_address

TILE_PIXELS = 170

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>{{ css }}
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .8rem; }
.tiles figure { margin: 0; } .tiles img { width: 100%; height: 9rem; object-fit: contain; background: var(--card); }
.tiles figcaption { font-size: .78rem; overflow-wrap: anywhere; color: var(--faint); line-height: 1.3; }
.tiles .new { border-left: 3px solid var(--bar); padding-left: .5rem; }
li { margin: .25rem 0; }
</style></head><body>
<h1>{{ title }}</h1>
<p class="faint">{{ summary }}</p>
<h2>What to do about it</h2><ul>{% for line in facts.advice %}<li>{{ line }}</li>{% endfor %}</ul>
<h2>Labels</h2><figure><img alt="rows per label" src="{{ plots.balance }}"></figure>
<p class="faint">What a model that never looks at an image would reach:</p>
<div class="scroll"><table>
<tr><th>task</th><th>rows with a label</th><th>baseline</th><th class="number">value</th></tr>
{% for name, task in facts.tasks.items() %}{% for baseline, value in task.baselines.items() %}
<tr><td>{{ name }}</td><td>{{ "{:,}".format(task.rows_with_label) }}</td><td>{{ baseline.replace("_", " ") }}</td>
<td class="number">{{ "%.3f" % value }}</td></tr>{% endfor %}{% endfor %}</table></div>
{% for name, task in facts.tasks.items() if task.rows_by_number_of_tags is defined %}
<p>{{ name }}, rows by number of tags:
{% for tags, rows in task.rows_by_number_of_tags.items() %}{{ tags }}: {{ "{:,}".format(rows) }}
{{- ", " if not loop.last }} {% endfor %}</p>{% endfor %}
<figure><img alt="correlation of labels" src="{{ plots.correlation }}"></figure>
{% if plots.images %}<h2>Images</h2>
<figure><img alt="size, brightness, sharpness" src="{{ plots.images }}"></figure>{% endif %}
{% for heading, text, tiles, count in galleries %}
<h2>{{ heading }} <span class="faint">({{ "{:,}".format(count) }})</span></h2><p class="faint">{{ text }}</p>
<div class="tiles">{% for tile in tiles %}<figure class="{{ 'new' if tile.new }}">
{% if tile.image %}<img alt="{{ tile.id }}" src="{{ tile.image }}">{% endif %}
<figcaption>{{ tile.id }}<br>{{ tile.text }}</figcaption></figure>{% endfor %}</div>{% endfor %}
{% if facts.splits %}<h2>The split a training would make</h2>
<p>{{ "{:,}".format(facts.splits.groups) }} groups, {{ facts.splits.groups_on_two_sides }} of them on two sides.</p>
<div class="scroll"><table>
<tr><th>split</th><th class="number">rows</th><th>largest deviation of a label's share</th></tr>
{% for part, rows in facts.splits.rows.items() %}<tr><td>{{ part }}</td>
<td class="number">{{ "{:,}".format(rows) }}</td>
<td>{% if part in facts.splits.largest_deviation %}{{ facts.splits.largest_deviation[part].label }}:
{{ "%.1f" % (100 * facts.splits.largest_deviation[part].by) }} percentage points{% endif %}</td></tr>{% endfor %}
</table></div>{% endif %}
</body></html>
"""

_GALLERIES = {
    "broken": ("Cannot be read", "Set aside; these rows train nothing."),
    "blank": ("Blank or nearly so", "Least contrast first."),
    "dark": ("Dark", "Darkest first."),
    "bright": ("Bright", "Brightest first."),
    "blurred": ("Blurred", "Least sharp first."),
    "repeated": ("The same file in several rows", "A line begins a new file. They stay on one side of every split."),
    "alike": ("Nearly the same picture", "A line begins a new group. They stay on one side of every split."),
}


def write_data_report(
    path: Path,
    title: str,
    summary: str,
    exploration: Exploration,
    table: Table,
    audit: Audit | None,
    archive: Archive | None,
    plots: Mapping[str, Path],
    max_pixels: int,
) -> None:
    """Write the report.

    Args:
        path: the HTML file.
        title: its heading.
        summary: one line below it.
        exploration: facts and examples.
        table: the label table.
        audit, archive: of the images, if there are any.
        plots: PNG files: balance, correlation and, with images, images.
        max_pixels: larger images are not shown.
    """
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(TEMPLATE)
    encoded = {name: data_address(file.read_bytes(), "png") for name, file in plots.items()}
    galleries = []
    if audit is not None and archive is not None:
        galleries = [
            (heading, text, _tiles(rows[:EXAMPLES], kind, table, audit, archive, max_pixels), len(rows))
            for kind, (heading, text) in _GALLERIES.items()
            if (rows := exploration.examples[kind])
        ]
    html = template.render(
        css=CSS,
        title=title,
        summary=summary,
        facts={"splits": None, **exploration.facts},
        plots={"images": "", **encoded},
        galleries=galleries,
    )
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _tiles(
    rows: Sequence[int], kind: str, table: Table, audit: Audit, archive: Archive, max_pixels: int
) -> list[dict[str, object]]:
    """Describe the pictures of a gallery; `new` marks the first of a group."""
    found = []
    before: object = None
    looks = audit.looks
    for row in rows:
        image = audit.images[row]
        group = {"repeated": int(image), "alike": int(audit.alike[row])}.get(kind)
        text = {
            "broken": str(looks.reason[image]),
            "dark": f"brightness {looks.brightness[image]:.2f}",
            "bright": f"brightness {looks.brightness[image]:.2f}",
            "blank": f"contrast {looks.contrast[image]:.3f}",
            "blurred": f"sharpness {looks.sharpness[image]:.1f}",
        }.get(kind, f"row {row}")
        is_new = group is not None and group != before
        found.append(
            {
                "id": table.ids[row],
                # What was refused when it was looked at is not decoded for the report.
                "image": "" if kind == "broken" else thumbnail(archive, table.ids[row], max_pixels),
                "text": text,
                "new": is_new,
            }
        )
        before = group
    return found


def thumbnail(archive: Archive, name: str, max_pixels: int) -> str:
    """Return a small picture as a data address; nothing for one that cannot be read."""
    picture = open_picture(read_image(archive, name)[0], TILE_PIXELS, max_pixels)
    if picture is None:
        return ""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    return data_address(stream.getvalue(), "jpeg")
