"""The parts of a video diffusion model, to build, train and join one by one; see docs/api.md.

`params` gives the settings of a part: the values of the project's params.yaml, some of them changed. A part
may be replaced by one of your own that keeps its protocol: `Codec`, `Denoiser`, `Sampler`, `Loss`, `Logger`.
"""

from vdp.api.datasets import Clips as Clips
from vdp.api.datasets import Samples as Samples
from vdp.api.loading import LatentDiffusion as LatentDiffusion
from vdp.api.params import params as params
from vdp.api.parts import build_codec as build_codec
from vdp.api.parts import build_denoiser as build_denoiser
from vdp.api.parts import pretrain_vae as pretrain_vae
from vdp.api.parts import save_models as save_models
from vdp.api.parts import train_denoiser as train_denoiser
from vdp.api.trainer import Curve as Curve
from vdp.api.trainer import Trainer as Trainer
from vdp.core.rng import BatchRng as BatchRng
from vdp.diffusion.objective import Objective as Objective
from vdp.diffusion.params import DiffusionParams as DiffusionParams
from vdp.diffusion.process import Process as Process
from vdp.diffusion.process import add_noise as add_noise
from vdp.diffusion.process import predict_x0_eps as predict_x0_eps
from vdp.diffusion.process import target as target
from vdp.diffusion.protocols import Denoiser as Denoiser
from vdp.diffusion.schedules import make_process as make_process
from vdp.launch.params import EngineParams as EngineParams
from vdp.models.codecs.params import VAEParams as VAEParams
from vdp.models.codecs.protocols import Codec as Codec
from vdp.models.denoisers.params import DiTParams as DiTParams
from vdp.models.denoisers.params import MoverParams as MoverParams
from vdp.models.denoisers.params import UNetParams as UNetParams
from vdp.models.layers import Unmoved as Unmoved
from vdp.sampling.rollout import Strategy as Strategy
from vdp.sampling.rollout import rollout as rollout
from vdp.sampling.samplers import Sampler as Sampler
from vdp.sampling.samplers import make_sampler as make_sampler
from vdp.sampling.samplers import time_grid as time_grid
from vdp.training.definition import Logger as Logger
from vdp.training.definition import Loss as Loss
from vdp.training.params import PretrainVAEParams as PretrainVAEParams
from vdp.training.params import TrainDenoiserParams as TrainDenoiserParams
