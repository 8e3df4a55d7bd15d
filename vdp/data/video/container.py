"""Read the video stream of a file with PyAV: frames with their times, upright, in square pixels and sRGB.

PyAV brings FFmpeg and its decoders. One thread decodes: several files at once are faster than several threads
for one, and the frames of a damaged file do not depend on the number of threads.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
from av.codec.context import ThreadType
from av.container import InputContainer
from av.sidedata.sidedata import SideDataContainer
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream

from vdp.core.errors import printable
from vdp.data.stores.clips import Pixels
from vdp.data.video.clip_frames import ClipFrame, ClipFrames, Measured
from vdp.data.video.resize import resize_image

OPTIONS = {"protocol_whitelist": "file"}  # a playlist must not name another file, nor one on the net
NO_VIDEOS = {"tty", "hls", "dash", "concat", "image2", "lavfi"}  # formats of text, lists and patterns
MAX_ASPECT = 16.0  # of a pixel; a header that states more is wrong
HD_ROWS = 720  # from here on players take an untagged video for BT.709, below for BT.601
MIN_SHARE = 0.95  # of a file's packets, and of the seconds in its header; a notice is printed below
MIN_MISSING = 0.5  # seconds, from which on it is printed
MAX_GAP = 10.0  # seconds between two frames; a longer one is a cut or a damaged time
GUESSED_GAP = 0.04  # seconds between two frames where no time is known
MEASURED_PACKETS = 10_000  # read to measure a rate; of a longer file the number of frames is extrapolated


def stream_frames(path: Path) -> ClipFrames:
    """Yield all frames of a video file in the order of their times, decoded one at a time.

    What does not decode is left out; a notice on stderr says so if it is much. Nothing is yielded where no
    video stream can be decoded.

    Raises:
        ValueError: by `ClipFrame.read`, if a frame has a pixel format that cannot be converted.
    """
    with _open_stream(path) as (container, stream):
        packets, convert = _Packets(path, container, stream), Converter(path, stream).convert
        clock, stamp = Clock(packets.gap), _stamps(container, stream)
        for number, frame in enumerate(packets.frames()):
            yield ClipFrame(number, clock.time(stamp(frame)), partial(convert, frame))
        packets.report(clock.now)


def measure_stream(path: Path) -> Measured:
    """Measure a video file by the times of its packets, without decoding them; a header is not trusted."""
    with _open_stream(path) as (container, stream):
        times: list[float] = []
        stamp, gap = _stamps(container, stream), _stated_gap(stream)
        count = position = 0
        whole = True
        for packet in _demux(container, stream):
            if packet.is_discard:
                continue
            if count == MEASURED_PACKETS:
                whole = False
                break
            count, position = count + 1, packet.pos or 0
            time = stamp(packet)
            if time is not None:
                times.append(time)
        clock = Clock(gap)
        for time in sorted(times):
            clock.time(time)
        rate = (len(times) - 1) / clock.now if clock.now > 0 else 1 / gap if count else 0.0
        if not whole and 0 < position < container.size:
            count = round(count * container.size / position)
        return Measured(count, round(rate, 6))  # without the rounding of times to floats


def indexed_frames(path: Path) -> int:
    """Number of frames in the index of an mp4 or mov, whether the file holds them or not; else 0."""
    with _open_stream(path) as (container, stream):
        return stream.frames if "mov" in container.format.name else 0


class Clock:
    """Ascending times of frames in seconds since the first.

    A missing time follows at the smaller of the last two gaps. After a jump, backward or by more than
    `MAX_GAP` and ten times this gap, times go on from there.
    """

    def __init__(self, gap: float) -> None:
        """`gap` is the time between the first two frames, where it is unknown."""
        self.now = -1.0
        self.gap = self.last = gap
        self.shift: float | None = None  # from the times that the file states

    def time(self, stated: float | None) -> float:
        """Return the time of the next frame; `stated` is that in the file, if any."""
        if self.now < 0:
            self.now = 0.0
        else:
            time = self.now + self.gap
            if stated is None:
                pass
            elif self.shift is not None and self.now < stated + self.shift <= self.now + max(
                MAX_GAP, 10 * self.gap
            ):
                time = stated + self.shift
            else:
                self.shift = None
            last, self.last = self.last, time - self.now
            self.gap, self.now = min(last, self.last), time
        if self.shift is None and stated is not None:
            self.shift = self.now - stated
        return self.now


class _Packets:
    """Decode the packets of a stream, and count those that fail."""

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream) -> None:
        self.path, self.container, self.stream = path, container, stream
        self.gap = _stated_gap(stream)
        self.packets = self.failed = 0

    def frames(self) -> Iterator[VideoFrame]:
        decode = self.stream.decode
        # at the end the frames that the decoder still holds
        for packet in chain(_demux(self.container, self.stream), [None]):
            self.packets += packet is not None
            try:
                frames = decode(packet)
            except av.FFmpegError:
                self.failed += packet is not None
            else:
                yield from frames

    def report(self, end: float) -> None:
        """Print a notice if much less decodes than the file promises; `end` is the time of the last frame."""
        promised, name = self._promised_seconds(), printable(str(self.path))
        decoded = end + self.gap
        if self.failed > (1 - MIN_SHARE) * self.packets:
            text = f"{self.failed} of {self.packets} packets do not decode; the other frames are used"
        elif decoded < MIN_SHARE * promised and promised - decoded > MIN_MISSING:
            text = f"the header promises {promised:.1f} s, {decoded:.1f} s decode; these are used"
        else:
            return
        sys.stderr.write(f"{name}: {text}\n")

    def _promised_seconds(self) -> float:
        if self.stream.duration and self.stream.time_base:
            # FFmpeg shortens the duration of an avi that is cut off, but not its number of frames
            return max(float(self.stream.duration * self.stream.time_base), self.stream.frames * self.gap)
        if self.container.duration and len(self.container.streams) == 1:
            return self.container.duration / av.time_base
        return 0.0


class Converter:
    """Convert decoded frames to upright RGB in square pixels."""

    def __init__(self, path: Path, stream: VideoStream) -> None:
        self.path, self.reformatter = path, VideoReformatter()
        aspect = stream.sample_aspect_ratio
        known = aspect is not None and 1 / MAX_ASPECT <= aspect <= MAX_ASPECT
        self.aspect = float(aspect) if known and aspect is not None else 1.0
        self.matrix: bytes | None = None  # of the first frame; empty: none

    def convert(self, frame: VideoFrame) -> Pixels:
        untagged = frame.colorspace == 2 and frame.height >= HD_ROWS
        try:
            rgb = self.reformatter.reformat(
                frame, format="rgb24", src_colorspace=Colorspace.ITU709 if untagged else None, threads=1
            )
        except (av.FFmpegError, ValueError) as error:
            raise ValueError(
                f"{self.path}: frames of {frame.format.name} cannot be converted to RGB; convert it to mp4"
            ) from error
        plane = rgb.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[
            : rgb.height, : 3 * rgb.width
        ]
        pixels = rows.reshape(rgb.height, rgb.width, 3)
        width = max(1, round(rgb.width * self.aspect))
        if width != rgb.width:
            shrinks = width < rgb.width
            pixels = resize_image(pixels, rgb.height, width, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        if self.matrix is None:
            # read once: `side_data` refers back to its frame, which then waits for the garbage collection
            found = cast(SideDataContainer, frame.side_data).get("DISPLAYMATRIX")
            self.matrix = b"" if found is None else bytes(found)
        return _turn(pixels, self.matrix) if self.matrix else pixels


def _turn(pixels: Pixels, matrix: bytes) -> Pixels:
    """Turn and mirror a frame by its display matrix, to the nearest quarter turn."""
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    turned = pixels
    columns, rows = a, d  # signs of the new axes
    if abs(b) > abs(a):
        turned, columns, rows = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(turned[:: -1 if rows < 0 else 1, :: -1 if columns < 0 else 1])


@contextmanager
def _open_stream(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the video stream of a file; raise a ValueError that names it if there is none."""
    try:
        # absolute: FFmpeg takes `a:b.mp4` for a URL
        container = av.open(str(path.absolute()), options=OPTIONS, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise unreadable(path) from error
    with container:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if (
            not streams
            or streams[0].codec_context is None
            or NO_VIDEOS & set(container.format.name.split(","))
        ):
            raise unreadable(path)
        for other in container.streams:
            if other is not streams[0]:
                other.discard = Discard.all
        streams[0].thread_count, streams[0].thread_type = 1, ThreadType.NONE
        yield container, streams[0]


def unreadable(path: Path) -> ValueError:
    return ValueError(f"{path}: not a readable video; convert it to mp4 (H.264) or remove it")


def _demux(container: InputContainer, stream: VideoStream) -> "Iterator[av.Packet[VideoStream]]":
    """Yield the packets of a stream up to the end of the file, or to where it breaks off."""
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except av.FFmpegError:
        return


def _stamps(
    container: InputContainer, stream: VideoStream
) -> "Callable[[VideoFrame | av.Packet[VideoStream]], float | None]":
    """Return a function of the presentation time in seconds that the file states, None where it has none."""
    unit = float(stream.time_base or 0)
    # an avi holds none: FFmpeg guesses, wrongly where frames are reordered; decoding times are in order
    has_pts = container.format.name != "avi"

    def stamp(item: "VideoFrame | av.Packet[VideoStream]") -> float | None:
        ticks = item.pts if has_pts else None
        if ticks is None:
            ticks = item.dts
        return None if ticks is None or not unit else ticks * unit

    return stamp


def _stated_gap(stream: VideoStream) -> float:
    """Seconds between two frames by the header, where it is believable."""
    rate = stream.average_rate
    return 1 / float(rate) if rate and 0.001 <= rate <= 1000 else GUESSED_GAP
