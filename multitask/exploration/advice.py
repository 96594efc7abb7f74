"""What to do about what an exploration found, most urgent first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multitask.audit.division import warn_of_crossing

# A class with fewer rows cannot be learned, and hardly be measured.
RARE_ROWS = 20
# A label's share in a split may differ by so much from its share in all rows before that is worth a word.
DEVIATION = 0.05


def advise(facts: Mapping[str, Any]) -> list[str]:
    """Return lines for a person; see `Exploration.facts`."""
    table, images = facts["table"], facts.get("images", {})
    counted = [
        (
            "Rows that cannot be used",
            table["rows_that_cannot_be_used"],
            "They are set aside; quarantine.parquet says why. Replace their images or drop them.",
        ),
        (
            "Ids with different labels in several rows",
            table["repeated_ids_with_conflicting_labels"],
            "Decide which is right.",
        ),
        ("Ids in several rows", table["repeated_ids"], "Their rows stay on one side of every split."),
        (
            "Groups of nearly the same picture",
            images.get("groups_of_nearly_the_same_picture", 0),
            "They stay on one side of every split. Look whether they are wanted.",
        ),
        ("Blank images", images.get("blank", 0), "There is nothing in them to learn from."),
        ("Dark images", images.get("dark", 0), "People may not see what they are labelled with."),
        ("Blurred images", images.get("blurred", 0), "People may not see what they are labelled with."),
        ("Images without a row", table["images_without_row"], "Label them, or leave them out of the archive."),
    ]
    found = [f"{name}: {count:,}. {text}" for name, count, text in counted if count]
    for name, task in facts["tasks"].items():
        found += _of_task(name, task)
    for part, deviation in facts.get("splits", {}).get("largest_deviation", {}).items():
        if deviation["by"] > DEVIATION:
            label, by = deviation["label"], deviation["by"]
            found.append(f"The share of {label} in the {part} split is {by:.0%} off: its groups are large.")
    crossed = facts.get("splits", {}).get("groups_on_two_sides", 0)
    if crossed:
        found.insert(0, f"{warn_of_crossing(crossed)}.")
    found += [f"{warning}." for warning in images.get("warnings", [])]
    found += [f"{surprise}." for surprise in table["types"]]
    return found or ["Nothing stands out."]


def _of_task(name: str, task: Mapping[str, Any]) -> list[str]:
    found = []
    if task["absent"]:
        found.append(f"No row of {name} is {', '.join(task['absent'])}. Leave them out, or find examples.")
    if task["rare"]:
        found.append(
            f"Fewer than {RARE_ROWS} rows of {name} are {', '.join(task['rare'])}. Figures for them will mean little."
        )
    tags = task.get("rows_by_number_of_tags", {})
    if tags and len(task["counts"]) > 1 and max(map(int, tags)) < 2:
        found.append(f'No row has two tags of "{name}": whether a model gets several at once right cannot be measured.')
    return found
