"""Real and simulated clips side by side: `python -m bench.simulator_sheet <folder of real videos>`.

Reads params.yaml (section simulate) of the working directory. Both sides are halved from 160x240.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vdp.config.read import read_section
from vdp.data.simulator.appearance import floor_light, to_bytes
from vdp.data.simulator.dataset import make_video
from vdp.data.simulator.params import SimulateParams

Image = NDArray[np.uint8]

SHOWN = (0, 7, 14, 21)  # frames of each clip
HEIGHT, WIDTH = 160, 240  # of the real clips
MARGIN = 8  # pixels between the two sides
TITLE = 18  # pixels, height of the line of text


def read(path: Path) -> Image:
    """Read a picture (H, W, 3), BGR."""
    image = cv2.imread(str(path))
    if image is None:
        raise FileNotFoundError(f"{path}: expected a picture; is the folder complete?")
    return image.astype(np.uint8)


def half_size(image: Image) -> Image:
    return cv2.resize(image, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA).astype(np.uint8)


def real_row(folder: Path) -> Image:
    """Frames of a real video, side by side, BGR."""
    return np.concatenate([half_size(read(folder / f"image_{k}.png")) for k in SHOWN], axis=1)


def simulated_row(params: SimulateParams, number: int) -> Image:
    """Frames of a simulated video of the test split, side by side, BGR."""
    images, _ = make_video(params, 0, max(SHOWN) + 1, ("test", number))
    return np.concatenate([half_size(images[k][:, :, ::-1]) for k in SHOWN], axis=1)


def sheet(folders: list[Path], params: SimulateParams) -> Image:
    """One row for each real video: the real one on the left, a simulated one on the right."""
    rows = []
    for i, folder in enumerate(folders):
        left, right = real_row(folder), simulated_row(params, 15000 + i)
        rows.append(np.concatenate([left, np.full((len(left), MARGIN, 3), 255, np.uint8), right], axis=1))
    body = np.concatenate(rows, axis=0)
    title = np.full((TITLE, body.shape[1], 3), 255, np.uint8)
    for text, x in (("real", 4), ("simulated", body.shape[1] // 2 + MARGIN)):
        cv2.putText(title, text, (x, TITLE - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([title, body], axis=0)


def empty_scene_error(background: Path) -> float:
    """Mean absolute difference of the empty scene from a picture of the real one, levels of 255."""
    picture = read(background)[:, :, ::-1]
    height, width = picture.shape[:2]
    return float(np.abs(to_bytes(floor_light(height, width)).astype(int) - picture).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("real", type=Path, help="folder of video_* folders, or of folders of them")
    parser.add_argument("--background", type=Path, help="picture of the real empty scene, to compare")
    parser.add_argument("--rows", type=int, default=5, help="number of videos (default 5)")
    parser.add_argument("--output", type=Path, default=Path("docs/simulator.png"))
    arguments = parser.parse_args()
    folders = sorted([*arguments.real.glob("video_*"), *arguments.real.glob("*/video_*")])[: arguments.rows]
    if not folders:
        parser.error(f"{arguments.real}: no video_* folder in it")
    params = read_section(SimulateParams, "simulate").model_copy(update={"height": HEIGHT, "width": WIDTH})
    cv2.imwrite(str(arguments.output), sheet(folders, params), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e3:.0f} kB")
    if arguments.background:
        print(f"empty scene: mean absolute difference {empty_scene_error(arguments.background):.2f} of 255")


if __name__ == "__main__":
    main()
