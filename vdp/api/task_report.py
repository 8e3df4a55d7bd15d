"""Sections of a report about tasks: their scores beside the baselines, and pictures."""

from collections.abc import Mapping
from pathlib import Path

from vdp.evaluation.tasks import TaskScores, score_cells, task_verdict
from vdp.tracking.figures import decode_picture, encode_webp
from vdp.tracking.report import Section, Table


def task_sections(scores: Mapping[str, Mapping[str, TaskScores]], pictures: Path) -> list[Section]:
    """Sections of the tasks other than predict by set of clips, and of generated clips.

    Args:
        scores: content of results/tasks.json.
        pictures: folder of the sheets.
    """
    sections = []
    for name, tasks in scores.items():
        for task, values in tasks.items():
            if task != "predict":
                header, rows = score_cells(task, values)
                table, shown = Table(f"Scores of {task}", header, rows), _sheet(pictures, f"{name}_{task}")
                sections.append(Section(f"{task}: {name}", *task_verdict(task, values), [], [table], shown))
    if clips := _sheet(pictures, "generate"):
        sections.append(Section("generate: clips", "clips generated without context", False, [], [], clips))
    return sections


def _sheet(folder: Path, name: str) -> list[tuple[str, bytes]]:
    """The sheet of a task as the picture of a section; none where it was not drawn."""
    path = folder / f"{name}.png"
    return [(name, encode_webp(decode_picture(path.read_bytes())))] if path.is_file() else []
