"""Format results/metrics.json as a text table, with a verdict for each test set."""

from collections.abc import Mapping
from typing import TypeAlias, Union

SetScores: TypeAlias = Mapping[str, Union[float, "SetScores"]]  # one test set of results/metrics.json

BASELINES = {  # key of metrics.json, description
    "copy_last": "segmented last context frame",
    "copy_last_truth": "true mask of the last context frame",
    "copy_last_tracked": "tracked mask of the last context frame",
    "constant_velocity": "segmented objects at constant velocity",
    "decayed_velocity": "segmented objects at decaying velocity",
    "decayed_velocity_truth": "true objects at decaying velocity",
    "decayed_velocity_tracked": "tracked objects at decaying velocity",
    "motion_only": "masks composed by one deterministic answer of the motion model",
}
FRAME_BASELINES = {  # of test sets without masks
    "copy": "last context frame",
    "flow": "last context frame, moved on by optical flow",
}
ROWS = (  # key of metrics.json, description; a row without a number in any test set is left out
    ("jaccard", "headline: 49 classes, pooled over clips"),
    ("jaccard_over_copy", "headline / copy_last; under 1 is a failure"),
    ("jaccard_foreground", "without the background"),
    ("jaccard_per_video", "mean of the Jaccard index per clip"),
    ("foreground_share", "foreground pixels, prediction / truth"),
    ("psnr", "dB, predicted frame"),
    ("ssim", "predicted frame"),
    ("lpips", "predicted frame; lower is nearer"),
    ("fvd", "predicted videos; lower is nearer"),
    ("clips", "clips scored"),
    ("decay", "velocity left after each frame in decayed_velocity"),
    ("decay_clips", "val clips the decay was chosen on; 0: a constant"),
    *(
        (f"baseline.{name}.{metric}", f"{unit}{note}")
        for name, note in FRAME_BASELINES.items()
        for metric, unit in (("psnr", "dB, "), ("ssim", ""), ("lpips", ""), ("fvd", ""))
    ),
    *((f"baseline.{name}", note) for name, note in BASELINES.items()),
    *((f"difference.{name}", f"headline - {name}") for name in BASELINES),
    ("ceiling.segmenter", "segmented true frame (UNet++ and the codec's vote)"),
    ("ceiling.unetpp_alone", "true frame segmented by UNet++ alone"),
    ("ceiling.codec", "segmented codec round trip of the true frame"),
    ("ceiling.seen_classes", "true mask without objects absent from the context"),
)
FORMATS = {
    "psnr": ".2f",
    "fvd": ".1f",
    "decay": ".2f",
    "clips": ".0f",
    "decay_clips": ".0f",
}  # of the others: .3f
HOP_KEYS = ("predicted", "copy", "flow")  # of `hops`, in a test set without masks
RIVALS = ("copy_last", "decayed_velocity", "decayed_velocity_truth")  # whose differences the verdict gives
NOTHING = "No scores: no test set has true frames up to the predicted frame (see the strips)."


def score_table(metrics: Mapping[str, SetScores]) -> str:
    """Format metrics.json: a row per number, a column per test set, then the verdicts."""
    if not metrics:
        return NOTHING
    cells = {name: dict(score_rows(scores)) for name, scores in metrics.items()}
    rows = [(key, note) for key, note in ROWS if any(key in column for column in cells.values())]
    columns = [["", *(key for key, _ in rows)]]
    columns += [_aligned(name, [column.get(key, "") for key, _ in rows]) for name, column in cells.items()]
    columns[0] = [cell.ljust(max(map(len, columns[0]))) for cell in columns[0]]
    notes = ["", *(note for _, note in rows)]
    lines = ["  ".join(line).rstrip() for line in zip(*columns, notes, strict=True)]
    verdicts = [f"{name}: {verdict(scores)}" for name, scores in metrics.items()]
    hops = [line for name, scores in metrics.items() for line in _hop_lines(name, scores)]
    return "\n".join([*lines, "", *verdicts, *hops])


def has_masks(scores: SetScores) -> bool:
    """Whether the masks of a test set were scored, and not its frames alone."""
    return "jaccard" in scores


def _hop_lines(name: str, scores: SetScores) -> list[str]:
    """PSNR of every hop of a test set without masks, beside its baselines; empty for another."""
    hops = scores.get("hops")
    if not isinstance(hops, Mapping):
        return []
    lines = ["", f"{name}, PSNR in dB", f"{'frame':>5}  {'predicted':>9}  {'copy':>6}  {'flow':>6}"]
    for number in hops:
        predicted, copy, flow = (_number(scores, f"hops.{number}.{key}.psnr") for key in HOP_KEYS)
        lines.append(f"{number:>5}  {predicted:>9.2f}  {copy:>6.2f}  {flow:>6.2f}")
    return lines


def _aligned(name: str, cells: list[str]) -> list[str]:
    """Pad the cells of a test set to one width: numbers to the right, intervals after them to the left."""
    parts = [cell.partition(" ")[::2] for cell in cells]
    number, interval = (max(len(part[side]) for part in parts) for side in (0, 1))
    padded = [
        f"{value:>{number}} {ends:<{interval}}" if interval else value.rjust(number) for value, ends in parts
    ]
    width = max(len(name), *map(len, padded))
    return [name.rjust(width), *(cell.rjust(width) for cell in padded)]


def score_rows(scores: SetScores) -> list[tuple[str, str]]:
    """Key and formatted number of each row that a test set has, with its 95 % interval where there is one."""
    found = ((key, _find(scores, key)) for key, _ in ROWS)
    return [(key, _text(scores, key, value)) for key, value in found if value is not None]


def is_under_copy(scores: SetScores) -> bool:
    """Whether the prediction scores less than copying the last context frame, in masks or else in frames."""
    if not has_masks(scores):
        return _number(scores, "psnr") < _number(scores, "baseline.copy.psnr")
    return _number(scores, "jaccard") < _number(scores, "baseline.copy_last")


def verdict(scores: SetScores) -> str:
    """Compare the headline with the baselines in one sentence, and in another with 95 % confidence."""
    if not has_masks(scores):
        return _frame_comparison(scores)
    return f"{_comparison(scores)}{_confidence(scores)}"


def _frame_comparison(scores: SetScores) -> str:
    score, copy, flow = (_number(scores, f"{key}psnr") for key in ("", "baseline.copy.", "baseline.flow."))
    if is_under_copy(scores):
        return (
            f"FAILED: psnr {score:.2f} dB is UNDER its copy baseline {copy:.2f} dB; the last context frame "
            "is nearer to the truth than this prediction"
        )
    if score == copy:
        return f"no better than its copy baseline: psnr {score:.2f} dB, that of the last context frame"
    beyond = f"and optical flow {flow:.2f} dB" if score > flow else f"but not optical flow {flow:.2f} dB"
    return f"psnr {score:.2f} dB beats its copy baseline {copy:.2f} dB {beyond}"


def _comparison(scores: SetScores) -> str:
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


def _confidence(scores: SetScores) -> str:
    """Whether the differences to `RIVALS` are above zero; empty without intervals."""
    rivals = {name: ends for name in RIVALS if (ends := _ends(scores, f"difference.{name}"))}
    if not rivals:
        return ""
    if _number(scores, "clips") < 2:
        return ". One clip: no confidence in any difference"
    relations = (_relation(scores, name, *ends) for name, ends in rivals.items())
    return f". With 95 % confidence: {'; '.join(relations)}"


def _relation(scores: SetScores, name: str, low: float, high: float) -> str:
    relation = "above" if low > 0 else "below" if high < 0 else "neither above nor below"
    difference = _number(scores, f"difference.{name}")
    return f"{relation} {name} (difference {difference:.4f} [{low:.4f}, {high:.4f}])"


def decay_note(scores: SetScores) -> str:
    """State the decay of the baselines decayed_velocity, and how it was chosen."""
    decay, clips = _number(scores, "decay"), _number(scores, "decay_clips")
    if clips:
        return f"Decay of decayed_velocity: {decay:.2f}, chosen on the true masks of {clips:.0f} val clips."
    return f"Decay of decayed_velocity: {decay:.2f}, a constant: no val clip has masks up to the target."


def _number(scores: SetScores, key: str) -> float:
    value = _find(scores, key)
    if value is None:
        raise KeyError(f"{key}: no such number in the scores of a test set")
    return value


def _find(scores: SetScores, key: str) -> float | None:
    """The number of a dotted key; None if there is none."""
    value: float | SetScores | None = scores
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if isinstance(value, Mapping) else value


def _ends(scores: SetScores, key: str) -> tuple[float, float] | None:
    """The 95 % interval of a dotted key: `interval` mirrors the numbers it belongs to."""
    low, high = (_find(scores, f"interval.{key}.{end}") for end in ("low", "high"))
    return None if low is None or high is None else (low, high)


def _text(scores: SetScores, key: str, value: float) -> str:
    text = f"{value:{FORMATS.get(key.rpartition('.')[2], '.3f')}}"
    ends = _ends(scores, key)
    return text if ends is None else f"{text} [{ends[0]:.3f}, {ends[1]:.3f}]"
