"""Classifier of objects from crops around them: shape, material and colour of the object in the middle.

Crops show an object ten times as often as frames at equal arithmetic, and pooling over it teaches shapes
that a mask decided pixel by pixel confuses.
Shapes: B crops of S x S pixels.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vdp.core.classes import factor_indices
from vdp.models.backbone import Backbone
from vdp.models.checkpoint import load_config, load_weights
from vdp.models.classifiers.params import ClassifierConfig, ClassifierParams
from vdp.models.factored_classes import LABEL_SMOOTHING, SPLITS, object_log_probs

FACTORS = SPLITS[1:]  # logits of shape, material and colour; there is no objectness


class CropClassifier(nn.Module):
    """The backbone and a mean over the crop."""

    def __init__(self, params: ClassifierParams) -> None:
        super().__init__()
        self.params = params
        self.body = Backbone(params.base_channels)
        self.head = nn.Linear(3 * params.base_channels, sum(FACTORS))

    def blocks(self) -> list[nn.Module]:
        """Repeated modules that are called through `forward` only."""
        return list(self.body)

    def forward(self, crops: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> logits by factor (B, 13) in fp32."""
        return self.head(self.body(crops).mean(dim=(2, 3))).float()


def crop_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Sum of the cross-entropies of the factors, (B, 13), class ids 1..48 (B,) -> (B,)."""
    losses = [
        F.cross_entropy(part, true, reduction="none", label_smoothing=LABEL_SMOOTHING)
        for part, true in zip(logits.split(FACTORS, dim=1), factor_indices(classes.long()), strict=True)
    ]
    return torch.stack(losses).sum(dim=0)


def log_probs(logits: Tensor) -> Tensor:
    """Log-probabilities of the 48 object classes, (B, 13) -> (B, 48)."""
    return object_log_probs(*logits.split(FACTORS, dim=1))


@torch.inference_mode()
def classify(network: CropClassifier, crops: Tensor) -> Tensor:
    """Log-probabilities of crops, the mean over each and its mirror image, (B, 3, S, S) -> (B, 48)."""
    return (log_probs(network(crops)) + log_probs(network(crops.flip(-1)))) / 2


def load_classifier(folder: Path) -> CropClassifier:
    """Load a classifier in evaluation mode from its folder; errors as of `load_config` and `load_weights`."""
    network = CropClassifier(load_config(folder, ClassifierConfig).classifier)
    load_weights(network, folder)
    network.eval()
    return network
