"""Small valid sources of every kind, each in a folder `raw`, and params.yaml for one of them."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pycocotools import mask as coco

from tests.data.video.encoded import encode
from vdp.config.yaml_file import read_file
from vdp.core.classes import COLORS, MATERIALS, NUM_CLASSES, SHAPES

REPO = Path(__file__).parents[3]
FRAMES, HEIGHT, WIDTH = 12, 32, 48  # of every video but CLEVRER's
CLIP = {"frames": 6, "known": 3, "height": 16, "width": 24}


def picture(k: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A gradient, lighter in later frames."""
    level = np.add.outer(np.arange(height), np.arange(width)) % 200 + 4 * k % 50
    return np.repeat(level[..., None], 3, axis=2).astype(np.uint8)


def class_ids(frames: int = FRAMES) -> np.ndarray:
    return np.arange(frames * HEIGHT * WIDTH).reshape(frames, HEIGHT, WIDTH).astype(np.uint8) % NUM_CLASSES


def make_video(path: Path, frames: int = FRAMES, codec: str = "mpeg4") -> None:
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    encode(path, [picture(k) for k in range(frames)], codec, pix_fmt=pixels)


def make_pictures(folder: Path, pattern: str, frames: int = FRAMES, mask: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(frames):
        assert cv2.imwrite(str(folder / pattern.format(k)), picture(k))
    if mask:
        np.save(folder / "mask.npy", class_ids(frames))


def make_videos(raw: Path) -> None:
    make_video(raw / "a.mp4")
    make_video(raw / "b 2.avi", codec="mjpeg")
    make_video(raw / "deep" / "c.mkv")
    make_video(raw / "d.mov")


# name, codec, pixels and muxer of a video in each of other containers
CONTAINERS = (
    ("a.m4v", "mpeg4", "yuv420p", None), ("b.mpg", "mpeg1video", "yuv420p", None),
    ("c.ts", "mpeg2video", "yuv420p", None), ("d.wmv", "wmv2", "yuv420p", None),
    ("e.flv", "flv", "yuv420p", None), ("f.gif", "gif", "rgb8", None), ("g.3gp", "mpeg4", "yuv420p", None),
    ("h.webm", "libvpx", "yuv420p", None), ("i", "mpeg4", "yuv420p", "mp4"),
    ("J.MKV", "ffv1", "yuv420p", None),
)  # fmt: skip


def make_containers(raw: Path) -> None:
    for name, codec, pixels, muxer in CONTAINERS:
        encode(raw / name, map(picture, range(FRAMES)), codec, pix_fmt=pixels, muxer=muxer)


def make_images(raw: Path) -> None:
    make_pictures(raw / "walk", "f{}.png", mask=True)
    make_pictures(raw / "run" / "left", "{:04d}.jpg")
    make_pictures(raw / "sit", "{}.webp")
    make_pictures(raw / "stand", "{}.tif", mask=True)


def make_competition(raw: Path) -> None:
    for number in (0, 1, 10):
        make_pictures(raw / f"video_{number}", "image_{}.png", 6, mask=number != 10)


def make_pair_folders(raw: Path) -> None:
    for side in ("input", "target"):
        make_pictures(raw / side / "a", "{}.png", mask=side == "target")
        make_video(raw / side / "b.mp4")
        make_pictures(raw / side / "deep" / "c", "{}.bmp")


def make_pair_files(raw: Path) -> list[dict[str, str]]:
    make_pair_folders(raw)
    np.save(raw / "b.npy", class_ids())
    return [
        {"input": "input/a", "target": "target/a"},
        {"input": "input/b.mp4", "target": "target/b.mp4", "mask": "b.npy"},
        {"input": "./input/deep/c", "target": "target/deep/c"},
    ]


def make_yaml_list(raw: Path) -> None:
    (raw / "list.yaml").write_text(yaml.safe_dump(make_pair_files(raw)))


def make_csv_list(raw: Path) -> None:
    rows = make_pair_files(raw)
    lines = [",".join(row.get(key, "") for key in ("input", "target", "mask")) for row in rows]
    (raw / "list.csv").write_text("\n".join(["input,target,mask", *lines]) + "\n")


def make_clevrer(raw: Path) -> None:
    inside = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    inside[4:12, 8:20] = 1
    found = {
        "mask": {"size": [HEIGHT, WIDTH], "counts": coco.encode(inside)["counts"].decode()},
        "score": 0.9, "color": COLORS[0], "material": MATERIALS[0], "shape": SHAPES[0],
    }  # fmt: skip
    frames = [{"frame_index": k, "objects": [found] * (1 + k % 2)} for k in range(128)]
    for number in (0, 1, 2):
        make_video(raw / "video_train" / "video_00000-01000" / f"video_{number:05d}.mp4", 128)
        if number < 2:
            path = raw / "derender_proposals" / f"proposal_{number:05d}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"video_index": number, "frames": frames}))


def table() -> pa.Table:
    """Four videos as lists of pictures, one without masks."""
    rows = [{"bytes": cv2.imencode(".png", picture(k))[1].tobytes(), "path": None} for k in range(FRAMES)]
    masks = [{"bytes": cv2.imencode(".png", m)[1].tobytes(), "path": None} for m in class_ids()]
    kind = pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    schema = pa.schema({"id": pa.int64(), "frames": kind, "masks": kind})
    return pa.table({"id": range(4), "frames": [rows] * 4, "masks": [masks, masks, None, masks]}, schema)


def array_table() -> pa.Table:
    """Three videos as arrays, with masks."""
    frames = np.stack([picture(k, 16, 24) for k in range(FRAMES)]).tolist()
    masks = class_ids()[:, :16, :24].tolist()
    kind = pa.list_(pa.list_(pa.list_(pa.uint8())))
    return pa.table(
        {"frames": [frames] * 3, "masks": [masks] * 3}, pa.schema({"frames": pa.list_(kind), "masks": kind})
    )


def write_arrow(path: Path, content: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.ipc.new_stream(str(path), content.schema) as file:
        file.write_table(content, max_chunksize=2)


def make_saved_set(raw: Path) -> None:
    for name, content in (("train", table()), ("test", array_table())):
        write_arrow(raw / name / "data-00000-of-00001.arrow", content)
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": name}
        (raw / name / "state.json").write_text(json.dumps(state))
        (raw / name / "dataset_info.json").write_text("{}")
    (raw / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))


def make_parquet_set(raw: Path) -> None:
    raw.mkdir(parents=True)
    pq.write_table(table(), raw / "train-00000-of-00001.parquet", row_group_size=3)
    pq.write_table(array_table(), raw / "test-00000-of-00001.parquet", row_group_size=1)
    make_video(raw / "v.mp4")
    data = (raw / "v.mp4").read_bytes()
    (raw / "v.mp4").unlink()
    pq.write_table(pa.table({"video": [data] * 3}), raw / "validation.parquet")


SOURCES: dict[str, tuple[Callable[[Path], object], str]] = {  # its maker, and its path in params.yaml
    "videos": (make_videos, "raw"),
    "containers": (make_containers, "raw"),
    "images": (make_images, "raw"),
    "competition": (make_competition, "raw"),
    "pair folders": (make_pair_folders, "raw"),
    "yaml list": (make_yaml_list, "raw/list.yaml"),
    "csv list": (make_csv_list, "raw/list.csv"),
    "clevrer": (make_clevrer, "raw"),
    "saved set": (make_saved_set, "raw"),
    "parquet set": (make_parquet_set, "raw"),
}


def params_text(source: str, skip: bool, whole: bool, repair: bool = False) -> str:
    """The project's params.yaml for small clips, whole or only the sections of the stage."""
    data = read_file(REPO / "params.yaml")
    data["clip"] = CLIP
    data["predict"]["hops"] = [4, 6]
    data["train_denoiser"] |= {"context_frames": 3, "target_offsets": [1, 2]}
    data["denoiser"]["unet"]["context_slots"] = 2
    data["extract_frames"] |= {
        "train": source, "val": None, "val_share": 0.4, "unlabeled": None,
        "test_sets": {"t": {"folder": source, "interval": 1, "stride": 6}},
        "stride": 6, "on_bad_video": "skip" if skip else "error",
        "on_bad_masks": "repair" if repair else "error",
        "max_bad_share": 0.7, "shard_mb": 1, "workers": 1,
    }  # fmt: skip
    if not whole:
        data = {key: data[key] for key in ("seed", "launcher", "clip", "extract_frames")}
    return yaml.safe_dump(data, sort_keys=False, width=100)
