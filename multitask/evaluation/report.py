"""The one-file HTML report of a run: figures first, then pictures, data and facts; it opens without a network."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import pandas as pd
from PIL import Image

from multitask.evaluation.tasks import Evaluation
from multitask.storage import replacing
from multitask.style import CSS, data_address

# A quarantine of thousands belongs into its parquet file; the page shows as many.
QUARANTINE_ROWS = 50
# So many of the worst and of the best classes or tags are shown where there are more; few are shown unfolded.
DETAIL_ROWS, OPEN_ROWS = 12, 12

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ css }}</style></head><body>
<h1>{{ title }}</h1>
{% for note in notes %}<p class="faint">{{ note }}</p>{% endfor %}
<h2>Results on {{ rows_name }}</h2>
<p class="faint">Light bar: value. Dark: 95% bootstrap interval. Line: the baseline, which never looks at the image.</p>
{% for task, metrics in evaluation.metrics.items() %}
<h3>{{ task }} <span class="faint">({{ evaluation.rows[task] }} rows)</span></h3>
<div class="scroll"><table><tr><th>metric</th><th class="number">value</th><th class="number">interval</th>
<th class="number">baseline</th><th></th></tr>
{% for name, m in evaluation.shown(task).items() %}<tr><td>{{ name.replace("_", " ") }}</td>
<td class="number"><b>{{ "%.3f" % m.value }}</b></td>
<td class="number">{{ "%.3f" % m.low }} to {{ "%.3f" % m.high }}</td><td class="number">{{ m.baseline_text }}</td>
<td>{% if m.higher_is_better %}<div class="track"><i class="fill" style="width:{{ percent(m.value) }}"></i>
<i class="range" style="left:{{ percent(m.low) }};width:{{ percent(m.high - m.low) }}"></i>
<i class="mark" style="left:{{ percent(m.baseline) }}"></i></div>{% endif %}</td></tr>
{% endfor %}</table></div>{% if details[task] %}<details{{ " open" if details[task]|length <= open_rows }}>
<summary>{{ details[task]|length }} of {{ totals[task] }} answers one by one, the worst first</summary>
<div class="scroll"><table><tr>{% for column in details[task][0] %}
<th{% if not loop.first %} class="number"{% endif %}>{{ column.replace("_", " ") }}</th>{% endfor %}</tr>
{% for row in details[task] %}<tr>{% for value in row.values() %}<td{% if not loop.first %} class="number"{% endif %}>
{{- value if value is string else "{:,}".format(value) if value is integer else "%.3f" % value }}</td>{% endfor %}</tr>
{% endfor %}</table></div>{% if details[task]|length < totals[task] %}<p class="faint">All are in details.csv.</p>
{% endif %}</details>{% endif %}{% endfor %}
{% for heading, names in sections if names %}
<h2>{{ heading }}</h2><div class="{{ 'pair' if names|length > 1 }}">
{% for name in names %}<figure><img alt="{{ name.replace('_', ' ') }}" src="{{ images[name] }}">
</figure>{% endfor %}</div>{% endfor %}
<h2>Data</h2>
<div class="scroll"><table><tr><th></th>{% for part in parts %}<th class="number">{{ part }}</th>{% endfor %}</tr>
{% for name, counts in shown_counts %}<tr><td>{{ name }}</td>{% for part in parts %}
<td class="number">{{ "{:,}".format(counts[part]) }}</td>{% endfor %}</tr>{% endfor %}</table></div>
{% if shown_counts|length < split_counts|length %}<p class="faint">The {{ split_counts|length - shown_counts|length }}
labels between the rarest and the most frequent are left out.</p>{% endif %}
<h3>Quarantine: {{ quarantine|length }} rows not used</h3>
{% if quarantine %}<div class="scroll"><table><tr><th>id</th><th>reason</th></tr>
{% for row in quarantine[:shown] %}<tr><td>{{ row.id }}</td><td>{{ row.reason }}</td></tr>{% endfor %}</table></div>
{% if quarantine|length > shown %}<p class="faint">The rest is in quarantine.parquet.</p>{% endif %}{% endif %}
<h2>Facts</h2><div class="scroll"><table>
{% for name, value in facts.items() %}<tr><td>{{ name.replace("_", " ") }}</td><td>{{ value }}</td></tr>{% endfor %}
</table></div>
{% if next_commands %}<h2>Next</h2><pre>{{ next_commands|join("\n") }}</pre>{% endif %}
</body></html>
"""


def write_report(
    path: Path,
    *,
    title: str,
    facts: Mapping[str, str],
    evaluation: Evaluation,
    rows_name: str,
    figures: Mapping[str, Path],
    details: pd.DataFrame,
    notes: Sequence[str],
    quarantine: pd.DataFrame,
    split_counts: Mapping[str, Mapping[str, int]],
    next_commands: Sequence[str],
) -> None:
    """Write the report.

    Args:
        path: the HTML file.
        title: its heading.
        facts: how the run was made.
        evaluation: the figures.
        rows_name: of what rows, e.g. the test split.
        figures: PNG files by name; grouped by how their names end.
        details: a row per class and tag: task, label and figures.
        notes: what a reader should keep in mind.
        quarantine: columns id and reason.
        split_counts: per label, rows per split.
        next_commands: what to type next.
    """
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(TEMPLATE)
    html = template.render(
        css=CSS,
        title=title,
        facts=facts,
        evaluation=evaluation,
        rows_name=rows_name,
        images={name: _embedded(name, file) for name, file in figures.items()},
        sections=_sections(list(figures)),
        notes=notes,
        quarantine=quarantine[["id", "reason"]].to_dict("records"),
        shown=QUARANTINE_ROWS,
        split_counts=split_counts,
        shown_counts=_shown_counts(split_counts),
        details={task: _rows_of(details, task) for task in evaluation.metrics},
        totals=details["task"].value_counts().to_dict(),
        open_rows=OPEN_ROWS,
        parts=list(next(iter(split_counts.values()), {})),
        next_commands=next_commands,
        percent=lambda share: f"{100 * min(max(share, 0.0), 1.0):.1f}%" if share == share else "0%",
    )
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _embedded(name: str, file: Path) -> str:
    """Return a figure as an address; photos as JPEG, of which a page can hold many."""
    if not name.endswith(("predictions", "_worst")):
        return data_address(file.read_bytes(), "png")
    stream = io.BytesIO()
    Image.open(file).convert("RGB").save(stream, "JPEG", quality=85)
    return data_address(stream.getvalue(), "jpeg")


def _rows_of(details: pd.DataFrame, task: str) -> list[dict[str, object]]:
    """Return the details of a task, without columns that say nothing of it; of many rows the worst and the best."""
    rows = details[details["task"] == task].drop(columns="task").dropna(axis=1, how="all")
    if len(rows) > 2 * DETAIL_ROWS:
        rows = pd.concat([rows[:DETAIL_ROWS], rows[-DETAIL_ROWS:]])
    return rows.to_dict("records")


def _shown_counts(counts: Mapping[str, Mapping[str, int]]) -> list[tuple[str, Mapping[str, int]]]:
    """Return what is shown of many labels: all rows, then the most frequent and the rarest labels."""
    first, *labels = counts.items()
    if len(labels) > 4 * DETAIL_ROWS:
        labels = sorted(labels, key=lambda entry: -sum(entry[1].values()))
        labels = [*labels[: 2 * DETAIL_ROWS], *labels[-2 * DETAIL_ROWS :]]
    return [first, *labels]


def _sections(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Group figures under headings."""
    headings = {
        "Test photos": ("predictions",),
        **{f"Most surely wrong: {name.removesuffix('_worst')}": (name,) for name in names if name.endswith("_worst")},
        "Training": ("folds", "history"),
        "Confusion": ("_confusion",),
        "Numbers": ("_scatter",),
        "Thresholds": ("_precision_recall", "_roc"),
        "Calibration": ("_reliability",),
        "Network": ("architecture",),
    }
    return [(heading, [name for name in names if name.endswith(ends)]) for heading, ends in headings.items()]
