"""DVC stage evaluate_tasks: score each task of the denoiser beside its baselines.

Reads   data/clips/test, data/models; params.yaml: seed, clip, degrade, engine,
        evaluate_tasks, predict.checkpoint
Writes  results/tasks.json; results/tasks/<set>_<task>.png and .gif, generate.png, generate_<number>.gif;
        the models as one MLflow model, if they predict
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vdp.api.model import Sampling, load
from vdp.api.task_scores import Call, Evaluation, true_clips, write_pictures
from vdp.config.read import read_section, read_value, run_script
from vdp.config.schema import ClipParams
from vdp.core.files import replacing, write_text
from vdp.data.params import DegradeParams
from vdp.data.stores.clips import ClipStore, Pixels, list_test_sets
from vdp.evaluation.params import EvaluateTasksParams
from vdp.evaluation.tasks import task_table
from vdp.launch.items import SharedWork, share_work, split_rows
from vdp.launch.params import EngineParams
from vdp.sampling.params import PredictParams
from vdp.tracking.mlflow_model import log_predictor
from vdp.tracking.mlflow_run import project_root, track_stage

CLIPS = Path("data/clips")
MODELS = Path("data/models")
RESULTS = Path("results")

NOT_MEASURED = "not measured: its clips have no true frames after the context frames"


def main() -> None:
    clip = read_section(ClipParams, "clip")
    params = read_section(EvaluateTasksParams, "evaluate_tasks")
    degradations, seed = read_section(DegradeParams, "degrade"), read_value("seed")
    sampling = Sampling(sampler=params.sampler, steps=params.steps, temperature=params.temperature, seed=seed)
    checkpoint = read_section(PredictParams, "predict").checkpoint
    engine = read_section(EngineParams, "engine")

    with (
        track_stage("evaluate_tasks") as tracker,
        share_work("evaluate_tasks", project_root(), engine, tracker) as work,
    ):
        model = load(MODELS, checkpoint=checkpoint, device=work.processes.device)
        sets = {
            name: true_clips(ClipStore(folder), clip.frames, params.clips)
            for name, folder in list_test_sets(CLIPS).items()
        }
        evaluation = Evaluation(model, clip, params, degradations, sampling, tracker, partial(share, work))
        generated = evaluation.generate()
        results = {
            name: evaluation.evaluate(name, clips, generated, model.tasks)
            for name, clips in sets.items()
            if clips
        }
        if not work.join():
            return
        scores = {name: {task: r.scores for task, r in tasks.items()} for name, tasks in results.items()}
        with replacing(RESULTS / "tasks") as folder:  # DVC expects it, also without pictures
            write_pictures(folder, results, generated, params.figures)
        write_text(RESULTS / "tasks.json", json.dumps(scores, indent=2) + "\n")
        tracker.headline(scores)
        tracker.artifact(RESULTS / "tasks.json")
        tracker.artifact(RESULTS / "tasks", folder="tasks")
        if "predict" in model.tasks:
            log_predictor(tracker, MODELS, checkpoint)
    print(task_table(scores))
    for name in sets.keys() - results.keys():
        print(f"{name}: {NOT_MEASURED}")


def share(work: SharedWork, label: str, calls: Sequence[Call]) -> list[Pixels]:
    """Share out calls to the processes; all of them get the results."""
    parts = work.compute(label, split_rows(range(len(calls)), 1), lambda rows: {"frames": calls[rows[0]]()})
    work.wait()
    return [arrays["frames"] for arrays in parts]


if __name__ == "__main__":
    run_script(main)
