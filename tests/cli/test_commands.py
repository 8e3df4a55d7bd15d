"""The commands for a user's own videos, with networks that copy what they are given."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.cli.test_app import REPO, run
from vdp.core.errors import UserError
from vdp.data.sources.input_clips import find_clip
from vdp.data.video.decode import count_frames, frame_rate
from vdp.data.video.write import write_frames, write_picture

SIZE = (31, 51)  # of the user's frames: odd, and of another aspect than the networks'
WAYS = ("predict", "interpolate", "restore", "segment")


@dataclass
class Copies:
    """Networks of 16x24 pixels that repeat the last known frame; they note what they are asked for."""

    height: int = 16
    width: int = 24
    tasks: tuple[str, ...] = ("predict",)
    asked: list[object] = field(default_factory=list)

    def predict(self, clip, frames, samples, sampling):
        self.asked.append((clip.shape, frames, samples, sampling.steps))
        return np.broadcast_to(clip[-1], (samples, frames, *clip.shape[1:]))

    def generate(self, count, frames, sampling):
        return np.full((count, frames, self.height, self.width, 3), sampling.seed, np.uint8)

    def interpolate(self, before, after, frames, samples, latent, sampling):
        self.asked.append((before.shape, after.shape, latent))
        return self.predict(before, frames, samples, sampling)

    def restore(self, clip, sampling, full_size=False, progress=False):
        self.asked.append((clip.shape[1:3], sampling.temperature, full_size))
        return clip

    def segment(self, clip):
        return (clip[..., 0] > 100).astype(np.uint8) * 7

    def info(self):
        return {"tasks": {"predict": 0.7}, "known_frames": 3, "longest_gap": 2, "parameters": 1234567}


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copies:
    """A folder with a video, pictures and models, in which the commands run."""
    monkeypatch.chdir(tmp_path)
    frames = [np.full((*SIZE, 3), 20 * number, np.uint8) for number in range(10)]
    write_frames(Path("film.mp4"), iter(frames), 30)
    write_frames(Path("pictures"), iter(frames), 10)
    Path("text.mp4").write_text("no film")
    for name in ("codec", "denoiser"):
        Path("models", name).mkdir(parents=True)
    networks = Copies()
    monkeypatch.setattr("vdp.cli.commands.load_model", lambda folder: networks)
    return networks


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
        ("predict models", "models: no pictures and no video"),
        ("predict *.avi", "*.avi: matches nothing"),
        ("predict film.mp4 --frames 0", "--frames=0: expected 1 to 10000"),
        ("predict film.mp4 --samples 0", "--samples=0: expected 1 to 64"),
        ("predict film.mp4 --samples -1", "--samples=-1: expected 1 to 64"),
        ("predict film.mp4 --steps 0", "--steps=0: expected 1 to 1000"),
        ("predict film.mp4 --sampler dim", "--sampler=dim: expected one of ddim"),
        ("predict film.mp4 --sampler dpmpp --eta 0.5", "--eta=0.5: is of --sampler ddim alone"),
        ("predict film.mp4 --temperature nan", "--temperature=nan: expected 0 to 2"),
        ("predict film.mp4 --seed -1", "--seed=-1: expected 0"),
        ("predict film.mp4 --interval 0", "--interval=0: expected 1"),
        ("predict film.mp4 --fps 0", "--fps=0.0: expected 1 to 240"),
        ("predict film.mp4 --known 11", "film.mp4: gives 10 frames, fewer than --known=11"),
        ("predict pictures --known 4 --interval 3 --known 5", "gives 4 frames, fewer than --known=5"),
        (
            "predict film.mp4 -o future.avi",
            "-o 'future.avi': cannot be written; expected a name that ends in",
        ),
        ("predict film.mp4 -o film.mp4 --force", "film.mp4: is what is read"),
        ("predict film.mp4 -o text.mp4", "text.mp4: is there already"),
        ("generate -n 0", "-n=0: expected 1 to 64"),
        ("generate --frames 0", "--frames=0: expected 1"),
        ("interpolate film.mp4 gone.mp4", "gone.mp4: no such file"),
        ("interpolate film.mp4 p*/*.png --known 11", "fewer than --known=11"),
        ("restore pictures -o pictures --force", "pictures: is what is read"),
        (
            "restore film.mp4 pictures -o pictures/a.mp4",
            "pictures/a_1_strip.png: would lie among the pictures",
        ),
        ("segment film.mp4 -o masks.png", "-o 'masks.png': cannot be written; expected a name that ends in"),
        ("submit gone", "gone: no such folder"),
        ("submit pictures -o text.mp4", "text.mp4: is there already"),
    ],
)
def test_a_bad_call_is_one_line_and_writes_nothing(networks, monkeypatch, capsys, line, message):
    before = files()
    assert call(monkeypatch, line) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and message in said.err
    assert said.err.count("\n") == 1 and said.out == ""
    assert files() == before and not networks.asked


def test_a_mistake_is_told_before_the_networks_are_loaded(networks):
    code = "import sys; from vdp.cli.app import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    words = ["predict", "film.mp4", "--models", "gone"]
    here = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=here)
    assert (done.returncode, done.stdout) == (1, "False\n")
    assert done.stderr == (
        "error: gone: no models there (folders codec and denoiser); make them with `make run`, or name their "
        "folder with --models\n"
    )


@pytest.mark.parametrize("command", [*WAYS, "generate"])
def test_a_dry_run_says_what_would_be_done_and_writes_nothing(networks, monkeypatch, capsys, command):
    before = files()
    words = {"generate": "", "interpolate": "film.mp4 pictures"}.get(command, "film.mp4")
    assert call(monkeypatch, f"{command} {words} --dry-run") == 0
    said = capsys.readouterr().out
    assert all(
        part in said for part in ("would work at  24x16 pixels", "would write", "would take     about")
    )
    assert ("10 frames of 52x32, 30 a second" in said) == (command != "generate")
    assert files() == before


def test_predictions_have_the_count_size_and_rate_that_were_asked_for(networks, monkeypatch, capsys):
    assert call(monkeypatch, "predict film.mp4 --frames 7 --samples 2 --interval 3 --steps 4 -o a/b.mp4") == 0
    assert files()[:4] == ["a", "a/b_1.mp4", "a/b_2.mp4", "a/b_strip.png"]
    assert networks.asked == [((3, 32, 52, 3), 7, 2, 4)]  # at their own size, for their detail
    for path in (Path("a/b_1.mp4"), Path("a/b_2.mp4")):
        frames = list(find_clip(str(path)).frames())
        assert (len(frames), frames[0].shape, frame_rate(path)) == (7, (32, 52, 3), 10)
        assert frames[0].mean() == pytest.approx(180, abs=10)  # the last of frames 0, 3, 6 and 9
    assert "wrote a/b_1.mp4, a/b_2.mp4, a/b_strip.png: 7 frames of 52x32 each, in" in capsys.readouterr().out


@pytest.mark.parametrize("words", ["predict film.mp4", "predict pictures", "interpolate pictures film.mp4"])
def test_of_every_nth_frame_the_last_one_is_what_is_gone_on_from(networks, monkeypatch, words):
    """Of frames 0 to 9, each 20 lighter than the one before, every fourth is 1, 5 and 9."""
    given = []
    way = "interpolate" if "interpolate" in words else "predict"
    made = getattr(networks, way)
    monkeypatch.setattr(networks, way, lambda clip, *rest: (given.append(clip), made(clip, *rest))[1])
    assert call(monkeypatch, f"{words} --interval 4 --frames 1 -o new") == 0
    assert [round(float(frame.mean()) / 20) for frame in given[0]] == [1, 5, 9]


def test_frames_that_would_fill_the_memory_are_worked_small(networks, monkeypatch, capsys):
    monkeypatch.setattr("vdp.cli.video_io.MOST_BYTES", 6 * 32 * 52 * 3)
    for frames, worked in ((6, (32, 52)), (7, (16, 24))):
        assert call(monkeypatch, f"predict film.mp4 --frames {frames} -o new{frames}") == 0
        assert networks.asked.pop()[0] == (3, *worked, 3)
        assert next(find_clip(f"new{frames}").frames()).shape == (32, 52, 3)
    assert capsys.readouterr().err.count("too many frames to keep their detail; worked small") == 1


def test_of_several_clips_each_has_its_own(networks, monkeypatch):
    assert call(monkeypatch, "predict film.mp4 pictures --known 2 --frames 2 -o new.gif") == 0
    made = [name for name in files() if name.startswith("new")]
    assert made == ["new_1.gif", "new_1_strip.png", "new_2.gif", "new_2_strip.png"]
    assert [next(find_clip(name).frames()).shape for name in made[::2]] == [(32, 52, 3), (*SIZE, 3)]


def test_what_is_restored_has_every_frame_and_comes_back_to_the_byte_at_the_networks_size(
    networks, monkeypatch
):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (16, 24, 3), np.uint8) for _ in range(60)]
    write_frames(Path("small"), iter(frames), 10)
    assert call(monkeypatch, "restore small -o back") == 0
    assert np.array_equal(list(find_clip("back").frames()), frames)
    assert networks.asked == [((16, 24), 0.0, False)]  # the likeliest, if not said


def test_clips_are_restored_at_their_own_size_where_that_is_asked_for_and_larger(
    networks, monkeypatch, capsys
):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(3)]
    write_frames(Path("large"), iter(frames), 10)
    write_frames(Path("small"), iter(frame[:9, :9] for frame in frames), 10)
    assert call(monkeypatch, "restore large small --full-size -o back") == 0
    assert networks.asked == [(SIZE, 0.0, True), ((16, 24), 0.0, True)]
    networks.asked.clear()
    assert np.array_equal(list(find_clip("back_1").frames()), frames)
    assert "at 51x31 pixels" in capsys.readouterr().err
    assert call(monkeypatch, "restore large --full-size --dry-run") == 0
    assert "would work at  51x31 pixels\n" in capsys.readouterr().out
    assert {(size, full) for size, _, full in networks.asked} == {(SIZE, True)}


@pytest.mark.parametrize("size", [(17, 9), (9, 25)])
def test_a_clip_that_is_larger_in_one_direction_is_larger(networks, monkeypatch, size):
    write_frames(Path("long"), iter([np.zeros((*size, 3), np.uint8)]), 10)
    assert call(monkeypatch, "restore long --full-size -o back") == 0
    assert networks.asked == [(size, 0.0, True)]


def test_what_is_too_large_for_full_size_is_told_before_any_work(networks, monkeypatch, capsys):
    monkeypatch.setattr("vdp.cli.video_io.MOST_PIXELS", SIZE[0] * SIZE[1])
    before = files()
    for line in ("restore pictures film.mp4 --full-size -o back", "restore film.mp4 --full-size --dry-run"):
        assert call(monkeypatch, line) == 1  # the film is 52x32, the pictures are 51x31
        assert "film.mp4: frames of 52x32 are too large for --full-size, at most 1581 pixels" in (
            capsys.readouterr().err
        )
    assert files() == before and not networks.asked
    assert call(monkeypatch, "restore pictures --full-size -o back") == 0


def test_a_header_that_tells_too_few_frames_does_not_fill_the_memory(networks, monkeypatch, capsys):
    monkeypatch.setattr("vdp.cli.video_io.MOST_BYTES", 9 * SIZE[0] * SIZE[1] * 3)
    monkeypatch.setattr("vdp.data.sources.input_clips.InputClip.count", lambda clip, interval=1: 0)
    assert call(monkeypatch, "restore pictures --full-size -o back") == 1
    assert "pictures: 10 frames of 51x31 are more than are held" in capsys.readouterr().err


def test_more_frames_than_are_held_at_full_size_are_refused(networks, monkeypatch, capsys):
    monkeypatch.setattr("vdp.cli.video_io.MOST_BYTES", 9 * SIZE[0] * SIZE[1] * 3)
    before = files()
    for line in ("restore pictures --full-size --dry-run", "restore film.mp4 pictures --full-size -o back"):
        assert call(monkeypatch, line) == 1
        assert ": 10 frames of 5" in capsys.readouterr().err and files() == before and not networks.asked
    assert call(monkeypatch, "restore pictures -o back") == 0
    assert call(monkeypatch, "restore pictures --full-size --interval 2 -o half") == 0
    assert find_clip("half").count() == 5


def test_masks_are_class_ids_of_each_frame_or_their_colours(networks, monkeypatch):
    assert call(monkeypatch, "segment pictures") == 0
    masks = np.load("masks.npy")
    assert masks.dtype == np.uint8 and masks.shape == (10, *SIZE)
    assert [int(mask.max()) for mask in masks] == [0] * 6 + [7] * 4
    assert call(monkeypatch, "segment pictures -o colours") == 0
    assert len({tuple(frame[0, 0]) for frame in find_clip("colours").frames()}) == 2
    assert call(monkeypatch, "segment film.mp4 -o c.mp4 --fps 5") == 0
    assert (count_frames(Path("c.mp4")), frame_rate(Path("c.mp4"))) == (10, 5)


def test_between_two_clips_are_so_many_frames_of_the_first_ones_size(networks, monkeypatch):
    write_picture(Path("last.png"), np.zeros((9, 99, 3), np.uint8))
    assert call(monkeypatch, "interpolate pictures last.png --frames 4 --latent -o between") == 0
    frames = list(find_clip("between").frames())
    assert (len(frames), frames[0].shape) == (4, (*SIZE, 3))
    assert networks.asked[0] == ((6, *SIZE, 3), (1, 9, 99, 3), True)
    assert cv2.imread("between_strip.png") is not None


def test_clips_from_nothing_have_the_networks_size(networks, monkeypatch):
    assert call(monkeypatch, "generate -n 3 --frames 5 --seed 9 -o new") == 0
    for number in (1, 2, 3):
        frames = np.stack(list(find_clip(f"new_{number}").frames()))
        assert frames.shape == (5, 16, 24, 3) and (frames == 9).all()


def test_force_replaces_what_was_written_before(networks, monkeypatch, capsys):
    assert call(monkeypatch, "predict pictures --frames 2 -o new") == 0
    assert call(monkeypatch, "predict pictures --frames 3 -o new") == 1
    assert "new: is there already" in capsys.readouterr().err
    assert call(monkeypatch, "predict pictures --frames 3 -o new --force") == 0
    assert find_clip("new").count() == 3


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "error: memory is used up"),
        (RuntimeError("CUDA error: out of memory"), 1, "error: memory is used up"),
        (UserError("this model has learnt predict, not restore"), 1, "error: this model has learnt"),
        (OSError(28, "No space left on device"), 1, "error: no space left on device"),
    ],
)
def test_work_that_breaks_off_leaves_nothing(networks, monkeypatch, capsys, error, code, message):
    def breaks_off(*args):
        raise error

    monkeypatch.setattr("vdp.cli.video_io.write_frames", breaks_off)
    before = files()
    assert call(monkeypatch, "predict film.mp4") == code
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith(message)
    assert files() == before


def test_info_lists_what_the_networks_are(networks, monkeypatch, capsys):
    assert call(monkeypatch, "info models") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["tasks", "  predict  0.7"]
    assert said[-1] == "parameters    1,234,567"


def test_submit_says_what_it_has_written(networks, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("vdp.cli.submit.submit", lambda *args: asked.append(args) or (5, 160, 240))
    assert call(monkeypatch, "submit pictures -o out.pt") == 0
    assert asked == [(Path("pictures"), Path("out.pt"), Path("models"), False)]
    assert capsys.readouterr().out.startswith("wrote out.pt: uint8 (5, 160, 240)")
