"""The video commands, with networks that copy their input."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.cli.test_app import REPO, run
from tests.data.video.encoded import encode
from vdp.core.errors import UserError
from vdp.data.sources.input_clips import find_clip
from vdp.data.video.container import Converter
from vdp.data.video.decode import count_frames, frame_rate
from vdp.data.video.letterbox import Letterbox
from vdp.data.video.write import write_frames, write_picture

SIZE = (31, 51)  # of the input: odd, and of another aspect ratio than the networks


@dataclass
class CopyModel:
    """Networks of 16x24 pixels that repeat the last context frame and record their calls."""

    height: int = 16
    width: int = 24
    context_frames: int = 3
    max_generated: int | None = None
    max_span: int = 2
    calls: list[object] = field(default_factory=list)
    checkpoints: list[tuple[int | None, int | None]] = field(default_factory=list)  # denoiser, segmenter
    contexts: list[np.ndarray] = field(default_factory=list)

    def frame_numbers(self, frames, at):
        return at or list(range(1, 1 + (frames or 11)))

    def predict(self, clip, frames, samples, sampling, at=None):
        frames = frames or len(at)
        self.contexts.append(clip)
        self.calls.append((clip.shape, frames, samples, sampling.steps))
        return np.broadcast_to(clip[-1], (samples, frames, *clip.shape[1:]))

    def generate(self, count, frames, sampling):
        return np.full((count, frames, self.height, self.width, 3), sampling.seed, np.uint8)

    def interpolate(self, before, after, frames, samples, latent, sampling):
        self.calls.append((before.shape, after.shape, latent))
        return self.predict(before, frames, samples, sampling)

    def interpolate_clips(self, first, last, weights, strength, sampling):
        self.calls.append((first.shape, last.shape, list(weights), strength, sampling.temperature))
        return np.stack([np.full_like(first, round(100 * weight)) for weight in weights])

    def restore(self, clip, sampling, full_size=False, progress=False):
        self.calls.append((clip.shape[1:3], sampling.temperature, full_size))
        return clip

    def segment(self, clip):
        return (clip[..., 0] > 100).astype(np.uint8) * 7

    def info(self):
        return {"tasks": {"predict": 0.7}, "target_offsets": [1, 2], "parameters": 1234567}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CopyModel:
    """The model of the current folder, which also has a video of 52x32, pictures of 51x31 and a bad video."""
    monkeypatch.chdir(tmp_path)
    frames = [np.full((*SIZE, 3), 20 * number, np.uint8) for number in range(10)]
    write_frames(Path("film.mp4"), iter(frames), 30)
    write_frames(Path("pictures"), iter(frames), 10)
    Path("text.mp4").write_text("no film")
    for name in ("codec", "denoiser"):
        Path("models", name).mkdir(parents=True)
    model = CopyModel()

    def load(folder, checkpoint=None, segmenter_checkpoint=None, device=None):
        model.checkpoints.append((checkpoint, segmenter_checkpoint))
        return model

    monkeypatch.setattr("vdp.cli.commands.load_model", load)
    return model


def call(monkeypatch: pytest.MonkeyPatch, line: str) -> int:
    words = line.split()
    return run(monkeypatch, *words, *(["--models", "models"] if words[0] != "info" else []))


def files() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("predict gone.mp4", "gone.mp4: no such file or folder"),
        ("predict text.mp4", "text.mp4: not a readable video"),
        ("predict models", "models: no pictures"),
        ("predict *.avi", "*.avi: matches nothing"),
        ("predict film.mp4 --frames 0", "--frames=0: expected 1..10000"),
        ("predict film.mp4 --at 0,3", "--at=0,3: expected numbers 1..10000"),
        ("predict film.mp4 --at 3-5", "--at='3-5': expected numbers of frames, such as 11 or 2,5"),
        ("predict film.mp4 --samples 0", "--samples=0: expected 1..64"),
        ("predict film.mp4 --samples -1", "--samples=-1: expected 1..64"),
        ("predict film.mp4 --steps 0", "--steps=0: expected an integer 1..1000"),
        ("predict film.mp4 --sampler dim", '--sampler="dim": expected one of'),
        ("predict film.mp4 --sampler dpmpp --eta 0.5", "--eta=0.5: expected 0 with sampler=dpmpp"),
        ("predict film.mp4 --temperature nan", "--temperature=NaN: expected a number 0..2"),
        ("predict film.mp4 --seed -1", "--seed=-1: expected"),
        ("predict film.mp4 --interval 0", "--interval=0: expected 1"),
        ("predict film.mp4 --fps 0", "--fps=0.0: expected 1..240"),
        ("predict film.mp4 --known 11", "--known=11: film.mp4 has only 10 frames"),
        ("predict pictures --known 5 --interval 3", "--known=5: pictures has only 4 frames"),
        ("predict film.mp4 -o future.avi", "--out='future.avi': expected a name that ends in one of: .mp4"),
        ("predict film.mp4 -o film.mp4 --force", "film.mp4: is an input"),
        ("predict film.mp4 -o text.mp4", "text.mp4: already exists"),
        ("generate -n 0", "-n=0: expected 1..64"),
        ("generate --frames 0", "--frames=0: expected 1"),
        ("interpolate film.mp4 gone.mp4", "gone.mp4: no such file"),
        ("interpolate film.mp4 p*/*.png --known 11", "--known=11: pictures has only 10 frames"),
        ("restore pictures -o pictures --force", "pictures: is an input"),
        ("predict film.mp4 --checkpoint 5", "--checkpoint=5: no checkpoints are kept in models/denoiser"),
        ("restore film.mp4 pictures -o pictures/a.mp4", "pictures/a_1_strip.png: would lie among the input"),
        ("segment film.mp4 -o masks.png", "--out='masks.png': expected a name that ends in one of: .npy"),
        ("submit gone", "gone: no such folder"),
        ("submit pictures -o text.mp4", "text.mp4: already exists"),
    ],
)
def test_an_invalid_call_ends_in_one_line_and_writes_nothing(model, monkeypatch, capsys, line, message):
    before = files()
    assert call(monkeypatch, line) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and message in printed.err
    assert printed.err.count("\n") == 1 and printed.out == ""
    assert files() == before and not model.calls


def test_missing_models_are_reported_without_importing_torch(model):
    code = "import sys; from vdp.cli.app import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    words = ["predict", "film.mp4", "--models", "gone"]
    here = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=here)
    assert (done.returncode, done.stdout) == (1, "False\n")
    assert done.stderr.startswith("error: gone: no trained models") and "`make run`" in done.stderr


@pytest.mark.parametrize(
    "command", ["predict", "interpolate", "interpolate-clips", "restore", "segment", "generate"]
)
def test_a_dry_run_prints_the_plan_and_writes_nothing(model, monkeypatch, capsys, command):
    before = files()
    pair = dict.fromkeys(("interpolate", "interpolate-clips"), "film.mp4 pictures")
    words = {"generate": "", **pair}.get(command, "film.mp4")
    assert call(monkeypatch, f"{command} {words} --dry-run") == 0
    printed = capsys.readouterr().out
    assert all(part in printed for part in ("working size  24x16 pixels", "output  ", "time          about"))
    assert ("10 frames of 52x32, 30 fps" in printed) == (command != "generate")
    assert ("ddim, steps 10" in printed) == (command != "segment")
    assert files() == before


def test_predictions_have_the_requested_length_size_and_rate(model, monkeypatch, capsys):
    assert call(monkeypatch, "predict film.mp4 --frames 7 --samples 2 --interval 3 --steps 4 -o a/b.mp4") == 0
    assert files()[:4] == ["a", "a/b_1.mp4", "a/b_2.mp4", "a/b_strip.png"]
    assert model.calls == [((3, 32, 52, 3), 7, 2, 4)]
    for path in (Path("a/b_1.mp4"), Path("a/b_2.mp4")):
        frames = list(find_clip(str(path)).frames())
        assert (len(frames), frames[0].shape) == (7, (32, 52, 3))
        assert frame_rate(path) == pytest.approx(10)
        assert frames[0].mean() == pytest.approx(180, abs=10)  # the last of frames 0, 3, 6 and 9
    assert "wrote a/b_1.mp4, a/b_2.mp4, a/b_strip.png: 7 frames of 52x32 each, in" in capsys.readouterr().out


def test_frames_are_predicted_by_their_numbers(model, monkeypatch):
    assert call(monkeypatch, "predict film.mp4 --at 3,11 -o new") == 0
    assert sorted(path.name for path in Path("new").iterdir()) == ["frame_00000.png", "frame_00001.png"]


def test_generated_clips_have_22_frames_or_those_that_a_model_generates_at_once(model, monkeypatch):
    for limit, count in ((None, 22), (8, 8)):
        model.max_generated = limit
        assert call(monkeypatch, f"generate -o clip{count}") == 0
        assert len(list(Path(f"clip{count}").iterdir())) == count


@pytest.mark.parametrize("words", ["predict film.mp4", "predict pictures", "interpolate pictures film.mp4"])
def test_with_an_interval_the_context_ends_at_the_last_frame(model, monkeypatch, words):
    """Of frames 0 to 9, each 20 brighter than the one before, every fourth is 1, 5 and 9."""
    assert call(monkeypatch, f"{words} --interval 4 --frames 1 -o new") == 0
    assert [round(float(frame.mean()) / 20) for frame in model.contexts[0]] == [1, 5, 9]


def test_frames_that_exceed_the_memory_limit_are_processed_small(model, monkeypatch, capsys):
    monkeypatch.setattr("vdp.cli.video_io.MAX_BYTES", 6 * 32 * 52 * 3)
    for frames, size in ((6, (32, 52)), (7, (16, 24))):
        assert call(monkeypatch, f"predict film.mp4 --frames {frames} -o new{frames}") == 0
        assert model.calls.pop()[0] == (3, *size, 3)
        assert next(find_clip(f"new{frames}").frames()).shape == (32, 52, 3)
    assert capsys.readouterr().err.count("too many frames to keep their detail") == 1


def test_several_clips_have_numbered_outputs_of_their_own_size(model, monkeypatch):
    assert call(monkeypatch, "predict film.mp4 pictures --known 2 --frames 2 -o new.gif") == 0
    outputs = [name for name in files() if name.startswith("new")]
    assert outputs == ["new_1.gif", "new_1_strip.png", "new_2.gif", "new_2_strip.png"]
    assert [next(find_clip(name).frames()).shape for name in outputs[::2]] == [(32, 52, 3), (*SIZE, 3)]


def random_pictures(name: str, count: int, size: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]
    write_frames(Path(name), iter(frames), 10)
    return frames


def test_restoring_keeps_every_frame_and_every_byte_at_the_networks_size(model, monkeypatch):
    frames = random_pictures("small", 60, (16, 24))
    assert call(monkeypatch, "restore small -o back") == 0
    assert np.array_equal(list(find_clip("back").frames()), frames)
    assert model.calls == [((16, 24), 0.0, False)]  # temperature 0 is the default


def test_full_size_restores_larger_clips_at_their_own_size(model, monkeypatch, capsys):
    frames = random_pictures("large", 3, SIZE)
    random_pictures("small", 3, (9, 9))
    assert call(monkeypatch, "restore large small --full-size -o back") == 0
    assert model.calls == [(SIZE, 0.0, True), ((16, 24), 0.0, True)]
    model.calls.clear()
    assert np.array_equal(list(find_clip("back_1").frames()), frames)
    assert "at 51x31 pixels" in capsys.readouterr().err
    assert call(monkeypatch, "restore large --full-size --dry-run") == 0
    assert "working size  51x31 pixels\n" in capsys.readouterr().out
    assert {(size, full) for size, _, full in model.calls} == {(SIZE, True)}


@pytest.mark.parametrize("size", [(17, 9), (9, 25)])
def test_a_clip_is_larger_if_one_side_is(model, monkeypatch, size):
    random_pictures("long", 1, size)
    assert call(monkeypatch, "restore long --full-size -o back") == 0
    assert model.calls == [(size, 0.0, True)]


def test_full_size_refuses_large_frames_before_any_work(model, monkeypatch, capsys):
    monkeypatch.setattr("vdp.cli.video_io.MAX_PIXELS", SIZE[0] * SIZE[1])
    before = files()
    for line in ("restore pictures film.mp4 --full-size -o back", "restore film.mp4 --full-size --dry-run"):
        assert call(monkeypatch, line) == 1
        assert "film.mp4: frames of 52x32: expected at most 1581 pixels" in capsys.readouterr().err
    assert files() == before and not model.calls
    assert call(monkeypatch, "restore pictures --full-size -o back") == 0


def test_full_size_refuses_more_frames_than_memory_holds(model, monkeypatch, capsys):
    monkeypatch.setattr("vdp.cli.video_io.MAX_BYTES", 9 * SIZE[0] * SIZE[1] * 3)
    before = files()
    for line in ("restore pictures --full-size --dry-run", "restore film.mp4 pictures --full-size -o back"):
        assert call(monkeypatch, line) == 1
        assert ": 10 frames of 5" in capsys.readouterr().err and files() == before and not model.calls
    assert call(monkeypatch, "restore pictures -o back") == 0
    assert call(monkeypatch, "restore pictures --full-size --interval 2 -o half") == 0
    assert find_clip("half").count() == 5
    # a header without the number of frames
    monkeypatch.setattr("vdp.data.sources.input_clips.InputClip.count", lambda clip, interval=1: 0)
    assert call(monkeypatch, "restore pictures --full-size -o more") == 1
    assert "pictures: 10 frames of 51x31" in capsys.readouterr().err


def test_what_a_format_does_not_hold_is_refused_before_any_work(model, monkeypatch, capsys):
    write_picture(Path("long.png"), np.zeros((2, 16386, 3), np.uint8))
    before = files()
    for command in ("predict", "restore", "segment"):
        assert call(monkeypatch, f"{command} long.png -o a.mp4") == 1
        assert "a.mp4: frames of 16386x2 pixels do not fit" in capsys.readouterr().err
    assert files() == before and not model.calls
    assert call(monkeypatch, "restore long.png -o a") == 0


def test_a_dry_run_refuses_what_is_too_long(model, monkeypatch, capsys):
    monkeypatch.setattr("vdp.cli.video_io.MAX_FRAMES", 9)
    for command in ("restore", "segment"):
        for clip in ("film.mp4", "pictures"):
            assert call(monkeypatch, f"{command} {clip} --dry-run") == 1
            assert f"{clip}: more than 9 frames; set --interval" in capsys.readouterr().err
    assert not model.calls


@pytest.mark.parametrize("name", ["clip.npy", "clip.npz", "clip.tif", "clip.png", "clip.webp", "clip.gif"])
def test_an_array_or_a_picture_of_several_frames_is_a_clip(model, monkeypatch, name):
    frames = [np.full((*SIZE, 3), 20 * number, np.uint8) for number in range(8)]
    if name.endswith((".npy", ".npz")):
        np.save(name, frames) if name.endswith("y") else np.savez(name, frames)
    elif name.endswith(".tif"):
        Path(name).write_bytes(cv2.imencodemulti(".tif", frames)[1].tobytes())
    else:
        animation = cv2.Animation()
        animation.frames, animation.durations = frames, [100] * 8
        Path(name).write_bytes(cv2.imencodeanimation(Path(name).suffix, animation)[1].tobytes())
    assert call(monkeypatch, f"predict {name} --known 8 --frames 2 -o out.mp4") == 0
    levels = model.contexts[0].mean((1, 2, 3))
    np.testing.assert_allclose(levels, 20 * np.arange(8), atol=6)
    assert frame_rate(Path("out.mp4")) == 10


def test_the_rate_of_a_recording_is_that_of_its_frames(model, monkeypatch):
    times = [round(number * 1000 / 30) for number in range(60)]
    frames = [np.full((*(32, 52), 3), number, np.uint8) for number in range(60)]
    encode(Path("r.webm"), frames, "libvpx", 1000, times, Fraction(1, 1000))
    assert call(monkeypatch, "predict r.webm --frames 3 -o out.mp4") == 0
    assert frame_rate(Path("out.mp4")) == pytest.approx(30, rel=0.01)


def test_only_the_frames_that_are_kept_are_converted(model, monkeypatch):
    """Of a long clip the end is the context; the frames before are decoded and dropped."""
    converted = []
    plain = Converter.convert
    monkeypatch.setattr(
        Converter, "convert", lambda self, frame: (converted.append(1), plain(self, frame))[1]
    )
    assert call(monkeypatch, "predict film.mp4 --known 2 --frames 1 -o new") == 0
    assert len(converted) <= 6  # the size is that of the first frame


def test_context_frames_beyond_the_memory_limit_are_held_small(model, monkeypatch, capsys):
    monkeypatch.setattr("vdp.cli.video_io.MAX_BYTES", 4 * 32 * 52 * 3)
    held = []
    plain = Letterbox.fit
    monkeypatch.setattr(Letterbox, "fit", lambda box, frame: (held.append(frame.shape), plain(box, frame))[1])
    assert call(monkeypatch, "predict film.mp4 --known 8 --frames 1 -o new") == 0
    assert set(held) == {(32, 52, 3)} and len(held) == 10  # one at a time
    np.testing.assert_allclose(model.contexts[0].mean((1, 2, 3)), 20 * np.arange(2, 10), atol=4)
    assert next(find_clip("new").frames()).shape == (32, 52, 3)
    assert "too many frames" in capsys.readouterr().err


def test_masks_are_written_as_class_ids_or_colours(model, monkeypatch):
    assert call(monkeypatch, "segment pictures") == 0
    masks = np.load("masks.npy")
    assert masks.dtype == np.uint8 and masks.shape == (10, *SIZE)
    assert [int(mask.max()) for mask in masks] == [0] * 6 + [7] * 4
    assert call(monkeypatch, "segment pictures -o colours") == 0
    assert len({tuple(frame[0, 0]) for frame in find_clip("colours").frames()}) == 2
    assert call(monkeypatch, "segment film.mp4 -o c.mp4 --fps 5") == 0
    assert (count_frames(Path("c.mp4")), frame_rate(Path("c.mp4"))) == (10, 5)


def test_interpolated_frames_have_the_size_of_the_first_clip(model, monkeypatch):
    write_picture(Path("last.png"), np.zeros((9, 99, 3), np.uint8))
    assert call(monkeypatch, "interpolate pictures last.png --frames 4 --latent -o between") == 0
    frames = list(find_clip("between").frames())
    assert (len(frames), frames[0].shape) == (4, (*SIZE, 3))
    assert model.calls[0] == ((6, *SIZE, 3), (1, 9, 99, 3), True)
    assert cv2.imread("between_strip.png") is not None


def test_interpolated_clips_are_evenly_spaced_and_have_the_size_of_the_first(model, monkeypatch):
    line = "interpolate-clips pictures film.mp4 -n 3 --strength 0.2 --frames 7 -o blend"
    assert call(monkeypatch, line) == 0
    for number in (1, 2, 3):
        frames = np.stack(list(find_clip(f"blend_{number}").frames()))
        assert frames.shape == (7, *SIZE, 3) and (frames == 25 * number).all()
    assert model.calls == [((7, 16, 24, 3), (7, 16, 24, 3), [0.25, 0.5, 0.75], 0.2, 1.0)]
    assert cv2.imread("blend_strip.png") is not None


def test_clips_of_unequal_length_are_refused(model, monkeypatch, capsys):
    write_frames(Path("short"), iter([np.zeros((8, 8, 3), np.uint8)] * 4), 10)
    assert call(monkeypatch, "interpolate-clips film.mp4 short -o blend") == 1
    error = capsys.readouterr().err
    assert "short: 4 frames: expected 10, as film.mp4 has; set --frames to at most 4" in error
    assert call(monkeypatch, "interpolate-clips film.mp4 short --frames 4 -o blend") == 0
    assert call(monkeypatch, "interpolate-clips film.mp4 short --strength 1.5 -o other") == 1
    assert "--strength=1.5: expected 0..1" in capsys.readouterr().err


def test_generated_clips_have_the_networks_size(model, monkeypatch):
    assert call(monkeypatch, "generate -n 3 --frames 5 --seed 9 -o new") == 0
    for number in (1, 2, 3):
        frames = np.stack(list(find_clip(f"new_{number}").frames()))
        assert frames.shape == (5, 16, 24, 3) and (frames == 9).all()


def test_force_replaces_outputs(model, monkeypatch, capsys):
    assert call(monkeypatch, "predict pictures --frames 2 -o new") == 0
    assert call(monkeypatch, "predict pictures --frames 3 -o new") == 1
    assert "new: already exists" in capsys.readouterr().err
    assert call(monkeypatch, "predict pictures --frames 3 -o new --force") == 0
    assert find_clip("new").count() == 3


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "error: out of memory"),
        (RuntimeError("CUDA error: out of memory"), 1, "error: out of memory"),
        (UserError("steps=0"), 1, "error: steps=0"),
        (OSError(28, "No space left on device"), 1, "error: no space left on device"),
    ],
)
def test_an_aborted_job_leaves_no_output(model, monkeypatch, capsys, error, code, message):
    def fail(*args):
        raise error

    monkeypatch.setattr("vdp.cli.video_io.write_frames", fail)
    before = files()
    assert call(monkeypatch, "predict film.mp4") == code
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith(message)
    assert files() == before


def test_info_formats_nested_values(model, monkeypatch, capsys):
    assert call(monkeypatch, "info models") == 0
    assert capsys.readouterr().out.splitlines() == [
        "tasks",
        "  predict  0.7",
        "target_offsets  1, 2",
        "parameters      1,234,567",
    ]


@pytest.mark.slow
def test_submit_prints_the_output(model, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr("vdp.cli.submit.submit", lambda *args: calls.append(args) or (5, 160, 240))
    (Path("models/denoiser") / "step_00000007.safetensors").touch()
    assert call(monkeypatch, "submit pictures -o out.pt --checkpoint 7 --devices 3") == 0
    assert calls == [(Path("pictures"), Path("out.pt"), Path("models"), False, 7, 3)]
    assert capsys.readouterr().out.startswith("wrote out.pt: uint8 (5, 160, 240)")


@pytest.mark.parametrize(
    ("line", "network", "loaded"),
    [
        ("predict film.mp4", "denoiser", (20, None)),
        ("generate", "denoiser", (20, None)),
        ("interpolate film.mp4 pictures", "denoiser", (20, None)),
        ("interpolate-clips film.mp4 pictures", "denoiser", (20, None)),
        ("restore film.mp4", "denoiser", (20, None)),
        ("segment film.mp4", "segmenter", (None, 20)),
    ],
)
def test_checkpoint_chooses_kept_weights_of_the_network_of_a_command(
    model, monkeypatch, capsys, line, network, loaded
):
    folder = Path("models") / network
    folder.mkdir(exist_ok=True)
    for step in (5, 20):
        (folder / f"step_{step:08d}.safetensors").touch()
    assert call(monkeypatch, f"{line} --checkpoint 20 --dry-run") == 0
    assert model.checkpoints == [loaded]
    assert call(monkeypatch, f"{line} --checkpoint 6 --dry-run") == 1
    assert f"--checkpoint=6: expected one of 5, 20 in models/{network}; choose one" in capsys.readouterr().err
