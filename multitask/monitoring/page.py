"""monitor.html: the verdict first, then what moved, drawn; then the images to look at. One file, no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from multitask.audit.inspection import open_picture
from multitask.data.archives import Archive, read_image
from multitask.monitoring.drift import Shift
from multitask.monitoring.novelty import distances
from multitask.monitoring.signals import Floats, sureness_of
from multitask.monitoring.verdict import Verdict
from multitask.spec import ModelSpec
from multitask.storage import replacing
from multitask.style import CSS

TILE_PIXELS, TILES = 170, 8
# Properties that are drawn though they have not moved, and answers that are drawn of many.
SHOWN, MOST_ANSWERS = 8, 12
WIDTH, HEIGHT = 240, 72

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>{{ css }}
.verdict { border-left: 6px solid {{ "#c8443c" if verdict.alarm else "#2f8f5b" }}; background: var(--card);
  padding: .8rem 1rem; border-radius: .4rem; margin: 1rem 0; } .verdict b { font-size: 1.15rem; }
.kpis { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .8rem; margin: 1rem 0; }
.kpis div { background: var(--card); border-radius: .4rem; padding: .6rem .8rem; }
.kpis b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.kpis span { display: block; font-size: .82rem; line-height: 1.35; color: var(--faint); }
.shifts { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 1.2rem;
  margin-top: 1rem; }
.shifts h3 { margin: 0; } .shifts p { font-size: .85rem; } .shifts svg { width: 100%; height: auto; display: block; }
.base { fill: var(--base); } .now { fill: var(--bar); } .line { fill: none; stroke: var(--bar); stroke-width: 1.8; }
.axis { stroke: var(--line); } .moved { color: #c8443c; font-weight: 600; }
@media (prefers-color-scheme: dark) { .moved { color: #f0827b; } }
.answers { font-size: .82rem; } .answers td { padding: .1rem .4rem .1rem 0; border: 0; }
.answers .number { white-space: nowrap; padding-right: 0; }
.two { position: relative; height: .95rem; min-width: 4rem; }
.two i { position: absolute; left: 0; height: .42rem; border-radius: 2px; }
.two .a { top: 0; background: var(--base); } .two .b { bottom: 0; background: var(--bar); }
.key { display: inline-block; width: .8rem; height: .7rem; border-radius: 2px; margin: 0 .3rem 0 .8rem; }
.key:first-child { margin-left: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .8rem; }
.tiles figure { margin: 0; } .tiles img { width: 100%; height: 8rem; object-fit: contain; background: var(--card); }
.tiles figcaption { font-size: .75rem; overflow-wrap: anywhere; color: var(--faint); line-height: 1.3; }
</style></head><body>
<h1>{{ title }}</h1>
<p class="faint">{{ "{:,}".format(verdict.window.rows) }} predictions{{ " of " + verdict.window.span
if verdict.window.span }} against {{ "{:,}".format(verdict.profile.frame|length) }} images that did not train run
{{ verdict.run }}</p>
<div class="verdict"><b>{% if verdict.alarm %}Alarm: {{ verdict.moved|length }} of
{{ verdict.shifts|length + verdict.known|length }} properties moved{% else %}No alarm{% endif %}</b>
{% if verdict.alarm %}<p>{{ verdict.moved[:12]|join(", ")|replace("_", " ") }}
{{ " and more" if verdict.moved|length > 12 }}</p>{% else %}
<p>Nothing moved that is both significant and large.</p>{% endif %}</div>
<div class="kpis"><div><b>{{ percent(verdict.window.refused / verdict.window.rows) }}</b><span>refused images,
{{ percent(verdict.profile.facts.refused / verdict.profile.facts.looked) }} in the reference</span></div>
{% if verdict.window.latency_ms %}<div><b>{{ "%.0f" % verdict.window.latency_ms["0.95"] }} ms</b><span>take 95 of 100
answers at most; {{ "%.0f" % verdict.window.latency_ms["0.5"] }} ms half of them</span></div>{% endif %}
{% for task, found in verdict.estimates.items() %}
<div><b>{{ percent(found.expected) }}</b><span>{{ task }}: right by the model's own sureness;
{{ percent(found.reference) }} of the reference were</span></div>
<div><b>{{ percent(found.unsure) }}</b><span>{{ task }}: unsure, 10% in the reference</span></div>{% endfor %}
{% for known in verdict.known %}<div><b>{{ "%.3f" % known.value[0] }}</b><span>{{ known.task }}:
{{ known.name.replace("_", " ") }} by the labels ({{ "%.3f" % known.value[1] }} to {{ "%.3f" % known.value[2] }});
{{ "%.3f" % known.reference[0] }} on the test split{{ ", worse" if known.worse }}</span></div>{% endfor %}</div>
{% for note in verdict.notes %}<p class="faint">{{ note }}</p>{% endfor %}
<h2>Reference and window</h2>
<p class="faint"><i class="key" style="background:var(--base)"></i>reference
<i class="key" style="background:var(--bar)"></i>window</p>
<p class="faint">A property has moved when its p-value is below 0.01 and its effect reaches its limit.</p>
<div class="shifts">{% for shift in drawn %}<div><h3>{{ shift.name.replace("_", " ") }}</h3>
{{ chart(shift) }}<p>{% if shift.moved %}<span class="moved">moved</span>{% else %}steady{% endif %}: effect
{{ "%.2f" % shift.effect }} {{ shift.unit }}, limit {{ "%.2f" % shift.limit }}; p {{ "%.2g" % shift.p_value }};
PSI {{ "%.2f" % shift.psi }}</p></div>{% endfor %}</div>
{% for heading, text, tiles in galleries %}<h2>{{ heading }}</h2><p class="faint">{{ text }}</p>
<div class="tiles">{% for tile in tiles %}<figure><img alt="{{ tile.id }}" src="{{ tile.image }}">
<figcaption>{{ tile.id }}<br>{{ tile.text }}</figcaption></figure>{% endfor %}</div>{% endfor %}
<h2>All properties</h2><div class="scroll"><table><tr><th>property</th><th></th><th class="number">reference</th>
<th class="number">window</th><th class="number">effect</th><th class="number">limit</th><th class="number">p</th>
<th class="number">PSI</th></tr>{% for shift in verdict.shifts[:200] %}<tr><td>{{ shift.name.replace("_", " ") }}
{{ "= " + shift.answer if shift.answer }}</td><td>{% if shift.moved %}<span class="moved">moved</span>{% endif %}</td>
<td class="number">{{ "%.3g" % shift.reference }}</td><td class="number">{{ "%.3g" % shift.window }}</td>
<td class="number">{{ "%.2f" % shift.effect }}</td><td class="number">{{ "%.2f" % shift.limit }}</td>
<td class="number">{{ "%.2g" % shift.p_value }}</td><td class="number">{{ "%.2f" % shift.psi }}</td></tr>{% endfor %}
</table></div></body></html>
"""

_BARS = """<table class="answers">{% for name, one, other in rows %}<tr><td>{{ name }}</td><td style="width:45%">
<div class="two"><i class="a" style="width:{{ "%.1f" % (100 * one / most) }}%"></i>
<i class="b" style="width:{{ "%.1f" % (100 * other / most) }}%"></i></div></td>
<td class="number">{{ "%.1f" % (100 * one) }}% to {{ "%.1f" % (100 * other) }}%</td></tr>{% endfor %}</table>"""


def write_page(path: Path, spec: ModelSpec, verdict: Verdict, archive: Archive | None) -> None:
    """Write the page; with images where there is an archive."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    html = environment.from_string(TEMPLATE).render(
        css=CSS,
        title=f"Monitor of run {verdict.run}",
        verdict=verdict,
        drawn=verdict.shifts[: max(SHOWN, sum(shift.moved for shift in verdict.shifts))][: 3 * SHOWN],
        chart=lambda shift: _chart(environment, shift),
        percent=lambda share: f"{share:.1%}",
        galleries=_galleries(spec, verdict, archive) if archive is not None else [],
    )
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _chart(environment: jinja2.Environment, shift: Shift) -> Markup:
    """Draw answers as bars one above the other, numbers as the window's outline over the reference."""
    bars = shift.bars
    if shift.answer:
        order = np.argsort(-np.maximum(bars.reference, bars.window))[:MOST_ANSWERS]
        rows = [(bars.names[at], bars.reference[at], bars.window[at]) for at in order]
        most = max(max(one, other) for _, one, other in rows)
        return Markup(environment.from_string(_BARS).render(rows=rows, most=most))
    most, step = float(max(bars.reference.max(), bars.window.max())), WIDTH / len(bars.window)
    heights = [HEIGHT * values / most for values in (bars.reference, bars.window)]
    filled = "".join(
        f'<rect class="base" x="{step * at:.1f}" y="{HEIGHT - height:.1f}" width="{step - 0.6:.1f}" '
        f'height="{height:.1f}"/>'
        for at, height in enumerate(heights[0])
    )
    outline = " ".join(
        f"{step * x:.1f},{HEIGHT - height:.1f}" for at, height in enumerate(heights[1]) for x in (at, at + 1)
    )
    ends = "".join(
        f'<text x="{x}" y="{HEIGHT + 14}" font-size="11" fill="currentColor" text-anchor="{anchor}">{text}</text>'
        for x, anchor, text in ((0, "start", bars.names[0]), (WIDTH, "end", bars.names[-1]))
    )
    return Markup(
        f'<svg viewBox="0 -2 {WIDTH} {HEIGHT + 20}" role="img" aria-label="distribution">{filled}'
        f'<polyline class="line" points="0,{HEIGHT} {outline} {WIDTH},{HEIGHT}"/>'
        f'<line class="axis" x1="0" x2="{WIDTH}" y1="{HEIGHT}" y2="{HEIGHT}"/>{ends}</svg>'
    )


def _galleries(spec: ModelSpec, verdict: Verdict, archive: Archive) -> list[tuple[str, str, list[dict[str, str]]]]:
    frame = verdict.window.frame
    found = []
    far = distances(verdict.profile.frame, frame)
    if far is not None:
        text = "By how far what the network sees in them is from what is nearest to it in the reference, in spreads."
        found.append(("Most novel", text, -far, "distance"))
    if verdict.window.has_measures:
        for heading, name in (("Darkest", "image_brightness"), ("Least sharp", "image_sharpness")):
            words = name.removeprefix("image_")
            found.append((heading, f"By {words}.", frame[name].to_numpy(np.float64), words))
    sure = [(task, sureness_of(task, frame)) for task in spec.tasks]
    for task, values in [entry for entry in sure if not np.isnan(entry[1]).all()][:1]:
        found.append(("Least sure", f"By how sure the model is of {task.name}.", values, "sureness"))
    ids = frame["id"].tolist()
    return [
        (heading, text, _tiles(ids, values, word, archive, spec.image.max_pixels))
        for heading, text, values, word in found
    ]


def _tiles(ids: Sequence[str], values: Floats, word: str, archive: Archive, max_pixels: int) -> list[dict[str, str]]:
    """Return the images of the least values; NaN comes last and is not shown."""
    tiles = []
    for row in np.argsort(values, kind="stable")[:TILES]:
        picture = open_picture(read_image(archive, ids[row])[0], TILE_PIXELS, max_pixels)
        if picture is not None and np.isfinite(values[row]):
            stream = io.BytesIO()
            picture.save(stream, "JPEG", quality=80)
            image = f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
            tiles.append({"id": ids[row], "text": f"{word} {abs(values[row]):.2f}", "image": image})
    return tiles
