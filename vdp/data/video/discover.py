"""Which files of a source are clips: by their suffix, else by their first bytes and a frame that decodes."""

from contextlib import closing
from pathlib import Path

from vdp.data.video.decode import ARRAYS, MASKS, clip_frames

# Suffixes of video files alone; a file of another name is looked into. `.ts` and `.dat` have other uses too.
SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".qt", ".avi", ".divx", ".mkv", ".webm", ".mpg", ".mpeg", ".m1v", ".m2v", ".vob",
    ".mts", ".m2ts", ".wmv", ".asf", ".3gp", ".3g2", ".flv", ".f4v", ".ogv", ".gif", ".mxf", ".y4m", ".ivf",
    ".mjpeg", ".mjpg", ".rm", ".rmvb", ".nut",
)  # fmt: skip
# Files beside pictures and videos, often thousands, that are not looked into.
SIDECARS = (
    ".json", ".jsonl", ".txt", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".md", ".pt", ".pth",
    ".pkl", ".mat", ".h5", ".hdf5", ".parquet", ".arrow", ".py", ".srt", ".vtt", ".zip", ".gz", ".tar",
    ".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff",
)  # fmt: skip
SHOWN = "mp4, mov, mkv, avi, webm, mpg, gif and others that decode; npy, npz"
HEAD = 1024  # bytes read of a file of another name
# `ftyp` brands of still pictures
PICTURE_BRANDS = (b"avif", b"heic", b"heix", b"mif1", b"msf1", b"crx ")
STARTS = (
    b"\x1aE\xdf\xa3", b"FLV\x01", b"OggS", b"0&\xb2u\x8ef\xcf\x11", b"\0\0\x01\xba", b"\0\0\x01\xb3",
    b"GIF8", b".RMF", b"\x06\x0e+4\x02\x05\x01\x01", b"YUV4MPEG2", b"DKIF", b"nut/multimedia",
)  # fmt: skip
BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")  # first of an MP4 or QuickTime file
PACKETS = ((0, 188), (4, 192), (0, 204))  # offset and size of the packets of a transport stream


def is_clip_file(path: Path) -> bool:
    """Whether a file of a source is a clip; see `holds_clip` for pictures of several frames.

    A file with a suffix of videos or arrays is one, also where it is broken: reading it fails and names it.
    A file of another name is one if its first bytes are those of a container and a frame decodes.
    """
    suffix = path.suffix.lower()
    if suffix in (*SUFFIXES, *ARRAYS):
        return path.name.lower() not in MASKS
    if suffix in SIDECARS:
        return False
    try:
        if not path.is_file():  # opening a pipe would block
            return False
        with path.open("rb") as file:
            head = file.read(HEAD)
        if not is_container(head):
            return False
        with closing(clip_frames(path)) as frames:
            return next(frames, None) is not None
    except (OSError, ValueError):
        return False


def is_container(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a container of videos."""
    if head[4:8] in BOXES:
        return head[8:12] not in PICTURE_BRANDS
    if head.startswith(STARTS) or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return True
    return any(
        len(head) > offset + 3 * size and all(head[offset + k * size] == 0x47 for k in range(4))
        for offset, size in PACKETS
    )


def strip_suffix(name: str) -> str:
    """Return the name of a video without a suffix of videos."""
    suffix = Path(name).suffix
    return (
        name[: -len(suffix)]
        if suffix.lower() in (*SUFFIXES, *ARRAYS, ".ts") and len(name) > len(suffix)
        else name
    )
