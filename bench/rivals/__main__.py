"""Other predictors at equal arithmetic on the same clips: `python -m bench.rivals --help`.

    python -m bench.rivals --rival simvp_masks --tflop 8 --clips 300

Needs the data folder of a finished run and params.yaml. Each rival is trained until its forward and backward
passes reach --tflop, predicts frame `clip.frames` of test clips from the `clip.known` first frames, and adds
its rows to a Markdown table, beside the scores of copying the last known frame.

    simvp_masks   SimVP, from known masks to a mask, trained on true masks; one row from the tracked masks of
                  the known frames and one from the true ones
    simvp_frames  SimVP, from known frames to a frame
    unet3d        factorised space-time U-Net, diffusion in latents
    mcvd          U-Net with the frames in channels, diffusion in latents
    vdp           this project: the masks and frames that the run has written; not trained

Predicted frames are segmented by the run's segmenter, as in the stage segment. Set OMP_NUM_THREADS=1 for one
thread.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from bench.denoisers import markdown
from bench.rivals.clips import SEGMENTED
from bench.rivals.diffusion import NETWORKS, WIDTHS, diffusion_rival
from bench.rivals.predictors import WIDTH, simvp_frames, simvp_masks
from bench.rivals.run import FinishedRun, open_run
from bench.rivals.scoring import ABSENT, HEADS, Answers, append_rows, cost_cells, score_row
from bench.rivals.training import Budget
from vdp.config.read import run_stage
from vdp.core.errors import UserError
from vdp.core.flops import format_tflop
from vdp.data.stores.clips import list_test_sets
from vdp.data.stores.prediction_set import MaskSet, PredictionSet

TABLE = Path(".stats/rivals.md")
BATCH_SIZE, LEARNING_RATE = 8, 2e-3  # small batches: a budget of a few TFLOP has few steps
RIVALS = ("simvp_masks", "simvp_frames", *NETWORKS, "vdp")


def default_width(rival: str) -> int:
    """Channels of the finest resolution."""
    return WIDTHS.get(rival, WIDTH)


def rival_rows(rival: str, run: FinishedRun, budget: Budget, width: int) -> list[list[str]]:
    """Train a rival and return its rows; its losses are printed."""
    if rival == "simvp_masks":
        cost, answers = simvp_masks(run, budget, width)
    elif rival == "simvp_frames":
        cost, answers = simvp_frames(run, budget, width)
    else:
        cost, answers = diffusion_rival(rival, run, budget, width)
    curve = " ".join(f"{loss:.4f}" for loss in cost.losses)
    print(f"{rival}, seed {budget.seed}: loss {curve}; validation {cost.val_loss:.4f}", flush=True)
    cells = cost_cells(cost)
    return [score_row(rival, str(budget.seed), cells, each, run.clips) for each in answers]


def own_row(run: FinishedRun, test_set: str) -> list[str]:
    """The row of the finished run; its arithmetic is that of its ledger, beside the data folder."""
    predictions = PredictionSet(
        list_test_sets(run.data / "clips")[test_set], run.data / "predictions" / test_set
    )
    masks = MaskSet(run.data / "masks" / test_set, len(predictions))
    rows = {name: row for row, name in enumerate(predictions.names)}
    if missing := [clip.name for clip in run.clips if clip.name not in rows]:
        raise UserError(
            f"{run.data / 'predictions' / test_set}: no clip {missing[0]}; run `dvc repro predict`"
        )
    chosen = [rows[clip.name] for clip in run.clips]
    answers = Answers(
        SEGMENTED,
        [masks.prediction[row] for row in chosen],
        [predictions.predicted(row)[-1][0] for row in chosen],
    )
    cost = [ABSENT, ABSENT, ledger_tflop(run.data.resolve().parent / ".stats/stages.json")]
    return score_row("vdp", ABSENT, cost, answers, run.clips)


def ledger_tflop(path: Path) -> str:
    """TFLOP of all stages of a run by its ledger; absent where a stage with networks was not counted."""
    stages = json.loads(path.read_text()).values() if path.is_file() else []
    counted = bool(stages) and all("tflop" in used or "workers" in used for used in stages)
    return format_tflop(sum(used.get("tflop", 0.0) for used in stages)) if counted else ABSENT


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.rivals",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rival", nargs="+", choices=RIVALS, required=True)
    parser.add_argument("--tflop", type=float, help="of each training, forward and backward; above 0")
    parser.add_argument("--clips", type=int, default=300, help="labelled test clips, from the first on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one training each")
    parser.add_argument("--data", type=Path, default=Path("data"), help="data folder of a finished run")
    parser.add_argument("--test-set", help="default: the first of data/clips/test")
    parser.add_argument("--width", type=int, help="channels at the finest resolution, a multiple of 8")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help="clips per step")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help="peak")
    parser.add_argument("--table", type=Path, default=TABLE, help=f"file to append to ({TABLE})")
    run_stage(lambda: compare(parser.parse_args(arguments)))


def compare(options: argparse.Namespace) -> None:
    """Run the chosen rivals, and print and append the rows of each training as it ends."""
    check_options(options)
    run = open_run(options.data, options.test_set, options.clips)
    for rival in options.rival:
        if rival == "vdp":
            test_set = options.test_set or next(iter(list_test_sets(options.data / "clips")))
            report(options.table, [own_row(run, test_set)])
            continue
        for seed in options.seeds:
            budget = Budget(options.tflop, seed, options.batch_size, options.learning_rate)
            report(options.table, rival_rows(rival, run, budget, options.width or default_width(rival)))


def check_options(options: argparse.Namespace) -> None:
    """Raise a UserError for an option out of range."""
    if options.rival != ["vdp"] and not (options.tflop or 0) > 0:
        raise UserError("--tflop: expected the TFLOP of each training, above 0")
    for name in ("clips", "batch_size"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')}={getattr(options, name)}: expected >= 1")
    if options.width is not None and (options.width < 8 or options.width % 8):
        raise UserError(f"--width={options.width}: expected a multiple of 8, from 8 on")


def report(table: Path, rows: Sequence[Sequence[str]]) -> None:
    append_rows(table, rows)
    print(markdown(HEADS, rows), flush=True)


if __name__ == "__main__":
    main()
