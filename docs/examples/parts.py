"""Build and train a video diffusion model part by part, on moving squares."""

import numpy as np
import torch
from torch.utils.data import Dataset

import vdp
from vdp import parts


class MovingSquares(Dataset):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, number: int) -> np.ndarray:
        x, y = np.random.default_rng(number).integers(0, (5, 13))
        clip = np.full((8, 16, 16, 3), 30, np.uint8)  # (T, H, W, RGB)
        for time, frame in enumerate(clip):
            frame[y : y + 4, x + time : x + time + 4] = 220
        return clip


torch.manual_seed(0)
codec, clips = parts.build_codec(), MovingSquares()  # a codec of pixels
unet = parts.params(parts.UNetParams, {"base_channels": 16, "channel_mults": [1, 2], "attention_levels": []})
denoiser = parts.build_denoiser(unet, codec.channels)
optimizer = torch.optim.AdamW(denoiser.parameters(), lr=3e-3)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=60)
trainer = parts.Trainer(optimizer, scheduler, curve := parts.Curve())
diffusion = parts.params(parts.DiffusionParams, {"schedule": "cosine", "prediction": "v"})
training = parts.params(parts.TrainDenoiserParams, {"steps": 60, "batch_size": 16, "log_every": 10})
model = parts.train_denoiser(codec, denoiser, clips, clips, diffusion, training, trainer)
future = model.predict(clips[1][:5], frames=3, sampling=vdp.Sampling(sampler="dpmpp", steps=5))
parts.save_models(model, "squares", force=True)  # vdp.load("squares") opens them
