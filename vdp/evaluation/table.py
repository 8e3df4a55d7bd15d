"""Format results/metrics.json as a text table, with a verdict for each test set."""

from collections.abc import Mapping

Scores = Mapping[str, float | Mapping[str, float]]  # one test set of metrics.json
ROWS = (  # key of metrics.json, description
    ("jaccard", "headline: 49 classes, pooled over clips"),
    ("jaccard_over_copy", "headline / copy_last; under 1 is a failure"),
    ("jaccard_foreground", "without the background"),
    ("jaccard_per_video", "mean of the Jaccard index per clip"),
    ("psnr", "dB, predicted frame"),
    ("ssim", "predicted frame"),
    ("clips", "clips scored"),
    ("baseline.copy_last", "segmented last context frame"),
    ("baseline.copy_last_truth", "true mask of the last context frame"),
    ("baseline.constant_velocity", "objects at constant velocity"),
    ("baseline.decayed_velocity", "objects at decaying velocity"),
    ("ceiling.segmenter", "segmented true frame (UNet++ and the codec's vote)"),
    ("ceiling.unetpp_alone", "true frame segmented by UNet++ alone"),
    ("ceiling.codec", "segmented codec round trip of the true frame"),
    ("ceiling.seen_classes", "true mask without objects absent from the context"),
)
NOTHING = "No scores: no test set has frames and masks up to the predicted frame (see the strips)."


def score_table(metrics: Mapping[str, Scores]) -> str:
    """Format metrics.json: a row per number, a column per test set, then the verdicts."""
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
    """Key and formatted number of each row for one test set."""
    return [(key, _text(key, _number(scores, key))) for key, _ in ROWS]


def is_under_copy(scores: Scores) -> bool:
    """Whether the prediction scores less than copying the last context frame."""
    return _number(scores, "jaccard") < _number(scores, "baseline.copy_last")


def verdict(scores: Scores) -> str:
    """Compare the headline with the baselines in one sentence."""
    score, copy = _number(scores, "jaccard"), _number(scores, "baseline.copy_last")
    if is_under_copy(scores):
        return (
            f"FAILED: jaccard {score:.4f} is UNDER its copy baseline {copy:.4f}; "
            "copying the last context frame scores higher than this prediction"
        )
    if score == copy:
        return f"no better than its copy baseline: jaccard {score:.4f}, the score of the last context frame"
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
