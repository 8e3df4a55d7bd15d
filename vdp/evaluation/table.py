"""The score table as people read it: results/metrics.json in columns, with a verdict on each set."""

from collections.abc import Mapping

Scores = Mapping[str, float | Mapping[str, float]]  # one test set of metrics.json
ROWS = (  # key of metrics.json, what it is
    ("jaccard", "headline: 49 classes, pooled over clips"),
    ("jaccard_over_copy", "headline / copy_last; under 1 is a failure"),
    ("jaccard_foreground", "without the background"),
    ("jaccard_per_video", "mean over clips of each clip's own"),
    ("psnr", "dB, predicted frame"),
    ("ssim", "predicted frame"),
    ("clips", "clips scored"),
    ("baseline.copy_last", "to beat: mask of the last known frame"),
    ("baseline.copy_last_truth", "to beat: its true mask"),
    ("baseline.constant_velocity", "to beat: objects move on"),
    ("baseline.decayed_velocity", "to beat: objects slow down"),
    ("ceiling.segmenter", "bound: the true frame segmented (UNet++ and the codec's vote)"),
    ("ceiling.unetpp_alone", "the true frame segmented by UNet++ alone"),
    ("ceiling.codec", "bound: its codec round trip segmented"),
    ("ceiling.seen_classes", "bound: truth without unseen objects"),
)
NOTHING = "Nothing scored: no test set has frames and masks up to the predicted frame (see the strips)."


def score_table(metrics: Mapping[str, Scores]) -> str:
    """The whole of metrics.json as text: a row for each number, a column for each test set, then verdicts."""
    if not metrics:
        return NOTHING
    columns = [["", *(key for key, _ in ROWS)]]
    columns += [[name, *(text for _, text in score_rows(scores))] for name, scores in metrics.items()]
    widths = [max(map(len, column)) for column in columns]
    notes = ["", *(note for _, note in ROWS)]
    lines = []
    for cells, note in zip(zip(*columns, strict=True), notes, strict=True):
        numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        lines.append("  ".join([cells[0].ljust(widths[0]), *numbers, note]).rstrip())
    return "\n".join([*lines, "", *(f"{name}: {verdict(scores)}" for name, scores in metrics.items())])


def score_rows(scores: Scores) -> list[tuple[str, str]]:
    """Key and formatted number of each row of the table for one test set."""
    return [(key, _text(key, _number(scores, key))) for key, _ in ROWS]


def is_under_copy(scores: Scores) -> bool:
    """Whether the prediction is worse than repeating the last known frame."""
    return _number(scores, "jaccard") < _number(scores, "baseline.copy_last")


def verdict(scores: Scores) -> str:
    """One plain sentence: does the prediction beat the baselines?"""
    score, copy = _number(scores, "jaccard"), _number(scores, "baseline.copy_last")
    if is_under_copy(scores):
        return (
            f"FAILED: jaccard {score:.4f} is UNDER its copy baseline {copy:.4f}; "
            "repeating the last known frame is better than this prediction"
        )
    if score == copy:
        return f"no better than its copy baseline: jaccard {score:.4f}, as for repeating the last known frame"
    key = max(("constant_velocity", "decayed_velocity"), key=lambda k: _number(scores, f"baseline.{k}"))
    motion = _number(scores, f"baseline.{key}")
    beyond = f"and {key} {motion:.4f}" if score > motion else f"but not {key} {motion:.4f}"
    return f"jaccard {score:.4f} beats its copy baseline {copy:.4f} ({score / max(copy, 1e-6):.2f}x) {beyond}"


def _number(scores: Scores, key: str) -> float:
    group, _, name = key.rpartition(".")
    value = scores[group] if group else scores[name]
    return value[name] if isinstance(value, Mapping) else value


def _text(key: str, value: float) -> str:
    if key == "clips":
        return f"{value:.0f}"
    return f"{value:.2f}" if key == "psnr" else f"{value:.4f}"
