"""One HTML page of runs side by side; it opens without a network."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import jinja2
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from multitask.comparing.differences import Comparison
from multitask.comparing.standings import Standings
from multitask.runs import Run
from multitask.storage import replacing
from multitask.style import CSS, FAINT, SERIES, STYLE, data_address

# More runs than these are in the table file only.
SHOWN, CURVES = 20, len(SERIES)

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Runs side by side</title><style>{{ css }}
td, th { white-space: nowrap; padding-right: 1rem; } .first td { font-weight: 600; }
</style></head><body>
<h1>{{ runs[0].run }} is the best of {{ count }} runs</h1>
<p class="faint">By {{ by }}. {% if count > runs|length %}The {{ runs|length }} best are shown; all are in
compare.parquet. {% endif %}Figures are of each run's test split, with 95% intervals.
{% if unfinished %}Not finished: {{ unfinished|join(", ") }}.{% endif %}</p>
<div class="scroll"><table><tr><th>run</th><th class="number">validation</th>
{% for name in mains %}<th class="number">{{ name.replace(".", ": ").replace("_", " ") }}</th>{% endfor %}
<th>against the best</th><th class="number">epochs</th><th class="number">seconds</th><th class="number">MB</th></tr>
{% for run in runs %}<tr class="{{ 'first' if loop.first }}"><td>{{ run.run }}</td>
<td class="number">{{ "%.3f" % run.val_score }}</td>
{% for name in mains %}<td class="number">{% if run[name] == run[name] %}{{ "%.3f" % run[name] }}
<span class="faint">{{ "%.3f" % run[name + ".low"] }} to {{ "%.3f" % run[name + ".high"] }}</span>{% endif %}</td>
{% endfor %}<td>{{ verdicts[run.run] }}</td><td class="number">{{ run.epochs }}</td>
<td class="number">{{ "%.0f" % run.seconds }}</td><td class="number">{{ "%.1f" % run.size_mb }}</td></tr>
{% endfor %}</table></div>
<figure><img alt="figures of all runs" src="{{ dots }}"></figure>
{% if differences %}<h2>Differences to {{ runs[0].run }}</h2>
<p class="faint">Its main figure less that of the other run, on the test rows that both have, resampled together.</p>
<div class="scroll"><table><tr><th>run</th><th>task</th><th class="number">difference</th>
<th class="number">95% interval</th><th class="number">rows</th></tr>
{% for found in differences %}{% for task, difference in found.differences.items() %}
<tr><td>{{ found.run }}</td><td>{{ task }}</td>
<td class="number">{{ "%+.4f" % (difference.candidate - difference.published) }}</td>
<td class="number">{{ "%+.4f" % difference.low }} to {{ "%+.4f" % difference.high }}</td>
<td class="number">{{ "{:,}".format(found.rows) }}</td></tr>{% endfor %}{% endfor %}</table></div>{% endif %}
{% if settings %}<h2>Settings that differ</h2><div class="scroll"><table>
<tr>{% for name in settings[0] %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in settings %}<tr>{% for value in row.values() %}<td>{{ value }}</td>{% endfor %}</tr>{% endfor %}
</table></div>{% endif %}
<h2>Validation score while training</h2>
<figure><img alt="validation scores over the epochs" src="{{ curves }}"></figure>
</body></html>
"""


def write_page(path: Path, found: Standings, comparisons: Sequence[Comparison]) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        found: the runs.
        comparisons: of the best run with each other one.
    """
    shown = found.figures[:SHOWN]
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(TEMPLATE)
    settings = found.settings[:SHOWN]
    html = template.render(
        css=CSS,
        runs=shown.to_dict("records"),
        count=len(found.figures),
        by="the validation score" if found.by == "val_score" else found.by,
        unfinished=found.unfinished,
        mains=found.mains,
        verdicts={shown["run"][0]: "", **{other.run: other.verdict for other in comparisons}},
        differences=[other for other in comparisons if other.differences][: SHOWN - 1],
        settings=settings.to_dict("records") if settings.shape[1] > 1 else [],
        dots=_png(plot_figures(shown, found.mains)),
        curves=_png(plot_scores(found.runs[:CURVES])),
    )
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def plot_figures(figures: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Draw the main figures of every run with their intervals, the best run on top."""
    with rc_context(STYLE):
        drawn = Figure(figsize=(max(4.2 * len(names), 9.0), 1.3 + 0.3 * len(figures)), layout="constrained")
        places = range(len(figures))
        for axes, name in zip(drawn.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
            axes.hlines(places, figures[f"{name}.low"], figures[f"{name}.high"], color=SERIES[0], linewidth=2.2)
            axes.plot(figures[name], places, "o", color=SERIES[0], markersize=7, markeredgecolor="white")
            axes.axvline(figures[name][0], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
            axes.set_yticks(places, [run if len(run) <= 24 else f"{run[:23]}…" for run in figures["run"]])
            axes.set_title(name.replace(".", ": ").replace("_", " "))
            axes.set_ylim(len(figures) - 0.4, -0.6)
            axes.xaxis.set_major_locator(MaxNLocator(4))
    return drawn


def plot_scores(runs: Sequence[Run]) -> Figure:
    """Draw the validation score of runs over their epochs; a dot is the best epoch."""
    with rc_context(STYLE):
        drawn = Figure(figsize=(10, 4.4), layout="constrained")
        axes = drawn.subplots()
        for run, colour in zip(runs, SERIES, strict=False):
            history = pd.read_csv(run.folder / "history.csv")
            axes.plot(history["epoch"], history["val_score"], color=colour, linewidth=1.8, label=run.folder.name)
            if history["val_score"].notna().any():
                best = history.loc[history["val_score"].idxmax()]
                axes.plot(best["epoch"], best["val_score"], "o", color=colour, markersize=7, markeredgecolor="white")
        axes.set(xlabel="epoch", ylabel="validation score")
        axes.legend(fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return drawn


def _png(figure: Figure) -> str:
    stream = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(stream, format="png")
    return data_address(stream.getvalue(), "png")
