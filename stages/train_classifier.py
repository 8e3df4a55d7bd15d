"""DVC stage train_classifier: train a classifier of object crops, whose evidence gives tracks their classes.

Reads   data/clips, the weights of train_classifier.init_from; params.yaml: seed, engine, classifier,
        train_classifier
Writes  data/models/classifier; a folder without a model where no training clip has masks. Where no clip of
        val has masks, training clips validate
"""

from pathlib import Path

from torch import Tensor

from vdp.config.read import read_section, read_value, run_script
from vdp.core.classes import factor_indices
from vdp.core.empty import NO_MASKS, write_empty
from vdp.core.rng import BatchRng
from vdp.data.batches.crops import CropBatches, Crops, keep, mirror_half
from vdp.data.stores.clips import ClipStore
from vdp.launch.params import EngineParams
from vdp.models.checkpoint import save_model
from vdp.models.classifiers.crops import FACTORS, CropClassifier, crop_loss
from vdp.models.classifiers.params import ClassifierConfig, ClassifierParams
from vdp.models.initial import find_initial
from vdp.tracking.mlflow_run import project_root, track_stage
from vdp.training.checkpoint import stage_checkpoints
from vdp.training.definition import Training
from vdp.training.engine import launch
from vdp.training.params import TrainClassifierParams
from vdp.training.seeds import seed_weights
from vdp.training.trainer import fit
from vdp.training.validation import VALIDATION_SEED

CLIPS = Path("data/clips")
CLASSIFIER = Path("data/models/classifier")
VALIDATION_CROPS = 256  # crops of a validation batch


def main() -> None:
    classifier = read_section(ClassifierParams, "classifier")
    params = read_section(TrainClassifierParams, "train_classifier")
    engine, seed = read_section(EngineParams, "engine"), read_value("seed")

    with track_stage("train_classifier") as tracker:
        train, val = ClipStore(CLIPS / "train"), ClipStore(CLIPS / "val")
        if not train.num_labelled:
            if tracker.is_main:
                write_empty(CLASSIFIER, NO_MASKS)
            return
        val = val if val.num_labelled else train
        initial = find_initial("train_classifier", params.init_from, CLASSIFIER)
        fabric = launch(engine)
        size, scale = classifier.crop, classifier.crop_scale
        jitter, augment = params.jitter, mirror_half if params.jitter > 0 else keep
        seed_weights(seed)
        network, config = CropClassifier(classifier), ClassifierConfig(classifier=classifier)
        if initial is not None:
            initial.check(network, config)
        batches = CropBatches(train, params.batch_size, scale, size, jitter, 0.0, augment, seed)
        training = Training(
            name="train_classifier",
            network=network,
            loss=loss,
            batches=batches,
            val_loss=val_loss,
            val_batches=CropBatches(val, VALIDATION_CROPS, scale, size, 0.0, 0.0, keep, VALIDATION_SEED),
            initial=initial,
        )
        source = None if initial is None else initial.file
        checkpoints = stage_checkpoints("train_classifier", project_root(), source)
        in_steps = params.in_steps(batches.epoch_clips)
        result = fit(training, in_steps, engine, seed, tracker, fabric, checkpoints)
        if fabric.is_global_zero:
            save_model(CLASSIFIER, result.network, config, result.other_weights, result.kept)
            checkpoints.clear()


def loss(network: CropClassifier, batch: Crops, batch_rng: BatchRng) -> dict[str, Tensor]:
    losses = crop_loss(network(batch.frames), batch.classes.clamp(min=1)) * batch.weight
    return {"loss": losses.mean()}


def val_loss(network: CropClassifier, batch: Crops, batch_rng: BatchRng) -> dict[str, Tensor]:
    """The loss, and the share of crops whose shape, material and colour are right."""
    logits, classes = network(batch.frames), batch.classes.clamp(min=1).long()
    losses = crop_loss(logits, classes) * batch.weight
    right = {
        name: ((part.argmax(dim=1) == label).float() * batch.weight).sum() / batch.weight.sum().clamp(min=1)
        for name, part, label in zip(
            ("shape", "material", "color"),
            logits.split(FACTORS, dim=1),
            factor_indices(classes),
            strict=True,
        )
    }
    return {"loss": losses.mean(), **right}


if __name__ == "__main__":
    run_script(main)
