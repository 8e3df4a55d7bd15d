"""Seeded mutations of a user's files and of params.yaml."""

import io
import json
import os
import re
import shutil
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.data.sources.small_sources import HEIGHT, class_ids, picture, table

Random = np.random.Generator
T = TypeVar("T")


def some(rng: Random, values: list[T]) -> T:
    return values[int(rng.integers(len(values)))]


# --- The content of a file -------------------------------------------------------------------------------

CONTENTS = [
    b"", b"\0", b"<html>404 not found</html>\n", b"version https://git-lfs.github.com/spec/v1\n", b"PAR1PAR1",
    b"\xff\xff\xff\xff\0\0\0\0", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xd9", b"GIF89a", b"RIFF\x04\0\0\0AVI ",
    b"\0\0\0\x08ftypmp42", b"\x93NUMPY\x01\0", bytes(5000), bytes(range(256)) * 12,
    b"#EXTM3U\n/etc/hostname\n", b"{}", b"null",
]  # fmt: skip


def damage(rng: Random, data: bytes) -> bytes:
    """Truncate, zero, overwrite, insert, remove, repeat, flip bits or replace all."""
    near = int(rng.integers(min(len(data), 400)))  # headers are near the ends
    at = some(rng, [near, len(data) - 1 - near, int(rng.integers(len(data)))])
    head, tail, length = data[:at], data[at:], int(rng.integers(1, 100))
    flipped = bytearray(data)
    for _ in range(length // 5 + 1):
        flipped[(at + int(rng.integers(400))) % len(data)] ^= 1 << int(rng.integers(8))
    word = some(rng, [b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", rng.bytes(8)])
    return some(
        rng,
        [
            head, head + bytes(len(tail[:length])) + tail[length:], head + word + tail[4:],
            head + rng.bytes(length) + tail, head + tail[length:], data + tail, bytes(flipped),
            some(rng, CONTENTS),
        ],
    )  # fmt: skip


def png_header(rng: Random, data: bytes) -> bytes:
    """Another size, depth or color type in the header of a PNG, with a valid checksum."""
    sizes = [0, 1, HEIGHT + 1, 4000, 2**31 - 1, 2**32 - 1]
    fields = list(struct.unpack(">IIBB", data[16:26]))
    change = int(rng.integers(4))
    fields[change] = some(rng, [sizes, sizes, [1, 2, 4, 8, 16, 77], [0, 2, 3, 4, 6, 99]][change])
    header = b"IHDR" + struct.pack(">IIBB", *fields) + data[26:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def other_picture(rng: Random, data: bytes) -> bytes:
    """A valid picture of another size, depth, number of channels or file type."""
    shapes = [picture(0, 8, 8), picture(0, 1, 1), picture(0, 1, 3000), picture(0)[..., 0]]
    types = [picture(0).astype(np.uint16) * 257, np.dstack([picture(0), picture(0)[..., 0]])]
    return cv2.imencode(some(rng, [".png", ".tiff"]), some(rng, shapes + types))[1].tobytes()


def npy_header(rng: Random, data: bytes) -> bytes:
    headers = [
        f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
        for descr, order, shape in [
            ("'|u1'", False, "(1000000000000, 32, 48)"), ("'|u1'", False, "(-12, 32, 48)"),
            ("'|u1'", True, "(12, 32, 48)"), ("'|u1'", False, "(12L, 32L, 48L)"),
            ("'|u1'", False, "(12, 32.0, 48)"), ("'|u1'", False, "(6, 32, 48)"), ("'|u1'", False, "18432"),
            ("'|u1'", False, "(0, 32, 48)"), ("'|O'", False, "(12, 32, 48)"),
            ("('|u1', (32, 48))", False, "(12,)"), ("[('a', '|u1')]", False, "(12, 32, 48)"),
            ("'nonsense'", False, "(12, 32, 48)"), ("'|u1'", "'no'", "(12, 32, 48)"),
        ]
    ]  # fmt: skip
    others = [
        "[" * 3000,
        "__import__('os').getcwd()",
        "{'descr': '|u1'}",
        "\0" * 64,
        "(" + "1+" * 20000 + "1)",
    ]
    text = some(rng, headers + others).encode()
    version = some(rng, [1, 2, 3, 9])
    length = struct.pack("<H" if version == 1 else "<I", len(text) + 1)
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + b"\n" + data[128:]


def other_array(rng: Random, data: bytes) -> bytes:
    """A valid array of another type, shape or range, or an archive."""
    masks, file = class_ids(), io.BytesIO()
    array = some(
        rng,
        [
            None, np.array([{"a": 1}, None], dtype=object), masks.astype(np.float32), masks.astype(np.int64),
            masks > 0, masks[:5], masks[..., None], masks.transpose(0, 2, 1), np.asfortranarray(masks),
            masks + 200,
        ],
    )  # fmt: skip
    if array is None:
        np.savez(file, masks=masks)
    else:
        np.save(file, array, allow_pickle=True)
    return file.getvalue()


WRONG = [
    None, True, -1, 0, 0.5, 1e400, float("nan"), 10**30, 10**400, 10**5000, "", "x", "\0", "raw/..", "\ud800",
    "a\nb", "list.yaml", "raw", "x" * 5000, [], {}, [[]], {"a": {}}, [None], ["x"], {"": ""},
]  # fmt: skip
UNREADABLE = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError)


def wrong_value(rng: Random, tree: object) -> object:
    """Replace, remove or repeat one value in lists and mappings, or rename its key."""
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.15:
        return some(rng, WRONG)
    key = some(rng, list(tree) if isinstance(tree, dict) else list(range(len(tree))))
    change = rng.random()
    if change < 0.6:
        tree[key] = wrong_value(rng, tree[key])
    elif change < 0.8:
        del tree[key]
    elif isinstance(tree, list):
        tree.append(tree[key])
    else:
        tree[some(rng, ["", "x", "input ", "Mask", "folder"])] = tree.pop(key)
    return tree


def json_tree(rng: Random, data: bytes) -> bytes:
    return changed_tree(rng, data, json.loads, json.dumps)


def yaml_tree(rng: Random, data: bytes) -> bytes:
    return changed_tree(rng, data, yaml.safe_load, yaml.safe_dump)


def changed_tree(
    rng: Random, data: bytes, load: Callable[[bytes], object], dump: Callable[[object], str]
) -> bytes:
    try:
        tree = load(data)
    except UNREADABLE:
        return some(rng, CONTENTS)
    # of params.yaml, the section of the stage as often as all others
    section = tree.get("extract_frames") if isinstance(tree, dict) else None
    if isinstance(section, dict) and rng.random() < 0.7:
        tree["extract_frames"] = wrong_value(rng, section)
    else:
        tree = wrong_value(rng, tree)
    with unlimited_integers():
        return dump(tree).encode("utf-8", "surrogatepass")


@contextmanager
def unlimited_integers() -> Iterator[None]:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(limit)


ODD = [
    "!!bool x", "!!int x", "!!float ''", "!!binary x", "!!python/object:os.x y", "!!timestamp 2001-99-99",
    "!!set {a}", "!!null x", "&x", "*x", "!x", "{", "[", "'", '"', "|", ">", "? [a]", "<<: *x", "<<: {a: 1}",
    "{[a]: b}", "1_000", "0o17", "0x", "1e999", "-.inf", ".nan", "9" * 5000, "1" * 400, "2001-13-45", "yes",
    "~", ",,,", "a,b", '"a\\nb"', '"a\\0b"', '"\\ud800"', '"\\x1b[31m"', "x" * 5000, "/dev/zero", "/dev/null",
    "/proc/self/mem", "..", "-5", "-0", "1.5", "true", "null", "9999999999", "0", "1e-320", "0x" + "f" * 5000,
]  # fmt: skip


def odd_text(rng: Random, data: bytes) -> bytes:
    """Another encoding, line break, indentation, YAML feature or value in a text."""
    text = data.decode("latin-1")
    if rng.random() < 0.05:
        return text.encode("utf-16")
    lines = text.split("\n")
    at = int(rng.integers(len(lines)))
    line, odd = lines[at], some(rng, ODD)
    replaced = [[], [line, line], ["  " + line], [line + odd]]
    replaced += [[re.sub(r"[:,].*", lambda match: f"{match[0][0]} {odd}", line)]]
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    whole = [
        "\xef\xbb\xbf" + text, text.replace("\n", "\r\n"), text.replace("\n", "\r"), text.replace("  ", "\t"),
        text + laughs, laughs, "&a [*a, *a]", "a: &a {b: *a}", "[" * 700, "{a: " * 700, "- " * 700,
        text + "\0", "%YAML 9.9\n---\n" + text, text + "\n---\n" + text, text + "\n...\nx", "# nothing\n",
    ]  # fmt: skip
    edited = ["\n".join([*lines[:at], *new, *lines[at + 1 :]]) for new in replaced]
    return some(rng, whole + edited).encode("latin-1")


def other_table(rng: Random, data: bytes) -> bytes:
    """A valid table with other columns, types or cells."""
    base = table().slice(0, 2)
    frames = base.column("frames").to_pylist()
    kind = base.schema.field("frames").type
    nowhere = {"bytes": None, "path": some(rng, ["/dev/zero", "../x", "x\0", "\n", "http://x/y"])}
    column = some(
        rng,
        [
            pa.array([1, 2]), pa.array(["a", "b"]), pa.array([b"a", b""]), pa.array([[b"a"], [b""]]),
            pa.array([None, None], kind), pa.array([[], frames[0]], kind), pa.array([[None]] * 2, kind),
            pa.array([[nowhere]] * 2, kind), pa.array([frames[0][:3], frames[1]], kind),
            pa.array([[[[[0]]]], [[[[0, 1], [2]]]]]), pa.array([[[[[300, 0, -1]]]], None]),
            pa.array([[[[[1.5]]]]] * 2), pa.array([{"a": 1}] * 2),
            pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["a", "b"])),
        ],
    )  # fmt: skip
    name = some(rng, ["frames", "masks", "video", "mask", "images", "a\nb", ""])
    features = some(rng, [None, b"{", b"[" * 3000, b'{"info": {"features": {"frames": 1}}}'])
    columns = {field: base.column(field) for field in some(rng, [["id"], ["frames"], ["frames", "masks"]])}
    content = pa.table(columns | {name: column})
    content = content.replace_schema_metadata(None if features is None else {b"huggingface": features})
    if rng.random() < 0.2:
        content = content.slice(0, 0)
    file = io.BytesIO()
    if data[:4] == b"PAR1":
        pq.write_table(content, file)
    else:
        with some(rng, [pa.ipc.new_stream, pa.ipc.new_file])(file, content.schema) as stream:
            stream.write_table(content)
    return file.getvalue()


BY_SUFFIX: dict[str, list[Callable[[Random, bytes], bytes]]] = {
    ".png": [png_header, other_picture],
    ".npy": [npy_header, other_array],
    ".json": [json_tree, odd_text],
    ".yaml": [yaml_tree, odd_text, odd_text],
    ".csv": [odd_text],
    ".arrow": [other_table],
    ".parquet": [other_table],
}


def new_content(rng: Random, path: Path) -> str:
    by_suffix = BY_SUFFIX.get(path.suffix, [])
    change = some(rng, by_suffix) if by_suffix and rng.random() < 0.45 else damage
    path.write_bytes(change(rng, path.read_bytes() or b"x"))
    return f"{change.__name__} {path}"


# --- A file and its folder -------------------------------------------------------------------------------

NAMES = [
    b"\xff\xfe{}", "ünï ☃ {}".encode(), b" {} ", b"a\nb{}", b"-{}", b"\x1b[31m{}", b"{}" + b"x" * 230,
    b"..{}", b".{}", b"{}.bak", b"image_007{}", b"image_0{}", b"%s%n{}", b"a:b{}", b"CON{}", b"\r{}",
    b"'\"`$(){}", "\u2028{}".encode(),
]  # fmt: skip
LINKS = {
    "broken link": ["nowhere"],
    "link to a device": ["/dev/zero", "/dev/null", "/proc/self/mem", ".."],
    "loop": ["{name}"],
    "link": [".{name}"],
}


def other_type(rng: Random, path: Path) -> str:
    """Remove a file, or replace it by a folder, link or pipe."""
    kind = some(rng, ["removed", "folder", "pipe", "locked", *LINKS])
    data = path.read_bytes()
    if kind == "locked":
        path.chmod(0)
        return f"{kind} {path}"
    path.unlink()
    if kind == "folder":
        path.mkdir()
        (path / "x.png").write_bytes(data)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind in LINKS:
        path.symlink_to(some(rng, LINKS[kind]).format(name=path.name))
        if kind == "link":
            (path.parent / f".{path.name}").write_bytes(data)
    return f"{kind} {path}"


def other_name(rng: Random, path: Path) -> str:
    """Rename or copy a file, or rename its folder."""
    if rng.random() < 0.3 and path.parent.name != "raw":
        path = path.parent
    same = rng.random() < 0.8
    suffix = os.fsencode(path.suffix) if same else some(rng, [b".mp4", b".PNG", b".npy", b".json"])
    stem = some(rng, [os.fsencode(path.stem), b"0", b"video_00"])
    name: bytes = some(rng, NAMES).replace(b"{}", stem)[:240] + suffix
    target = os.path.join(os.fsencode(path.parent), name)
    if os.path.lexists(target):
        return f"nothing to {path}"
    if path.is_dir() or rng.random() < 0.5:
        os.rename(path, target)
    else:
        shutil.copy(path, target)
    return f"renamed {path} to {target!r}"


def swap(rng: Random, path: Path) -> str:
    other = some(rng, files_below(path.parents[-2]))
    one, two = path.read_bytes(), other.read_bytes()
    path.write_bytes(two)
    other.write_bytes(one)
    return f"swapped {path} and {other}"


def neighbour(rng: Random, path: Path) -> str:
    """Add something to a folder."""
    kind = some(rng, ["loop", "deep", "empty", "mask", "Thumbs.db", "extra.png", "extra.mp4"])
    new = path.parent / kind
    if kind == "mask":
        np.save(new.with_name("mask.npy"), class_ids())
    elif os.path.lexists(new):
        return f"nothing to {path}"
    elif kind == "loop":
        new.symlink_to("..", target_is_directory=True)
    elif kind == "deep":
        (new / "/".join(["d"] * 120)).mkdir(parents=True)
    elif kind == "empty":
        new.with_name("video_77").mkdir(exist_ok=True)
    else:
        new.write_bytes(rng.bytes(100))
    return f"{kind} beside {path}"


SUFFIXES = ["", ".mp4", ".MP4", ".avi", ".ts", ".gif", ".txt", ".png", ".npy", ".json", ".data", ".mp4.part"]


def other_suffix(rng: Random, path: Path) -> str:
    """Give a file the suffix of another kind, or none."""
    suffix = some(rng, SUFFIXES)
    target = path.with_name((path.stem or "x") + suffix)
    if os.path.lexists(target):
        return f"nothing to {path}"
    path.rename(target)
    return f"{path} has the suffix {suffix!r}"


def other_place(rng: Random, path: Path) -> str:
    """Move a file or its folder deeper, or copy its folder beside it."""
    if path.parent.name == "raw":
        target = path.parent / some(rng, ["deep", "train", "val 2", "日本"]) / "x" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        return f"moved {path} to {target}"
    target = path.parent.with_name(some(rng, ["copy", "video_9", "mask", "input2"]))
    if os.path.lexists(target):
        return f"nothing to {path}"
    shutil.copytree(path.parent, target, symlinks=True)
    return f"copied {path.parent} to {target}"


def large_number(rng: Random, path: Path) -> str:
    """Write a large number after the name of a box or chunk of a file: its size, dimensions or counts."""
    data = bytearray(path.read_bytes())
    found = [data.find(name) for name in BOXES]
    places = [place for place in found if place >= 0] or [0]
    at = some(rng, places) + int(rng.integers(-4, 40))
    data[max(at, 0) : max(at, 0) + 4] = some(
        rng, [b"\x7f\xff\xff\xff", b"\xff" * 4, b"\0\0\xff\xff", b"\x80\0\0\0"]
    )
    path.write_bytes(bytes(data))
    return f"large number at {at} of {path}"


BOXES = [
    b"moov", b"tkhd", b"mdhd", b"stsd", b"stts", b"stsz", b"stco", b"mdat", b"avih", b"strh", b"idx1",
    b"movi", b"IHDR", b"IDAT", b"\x1f\x43\xb6\x75", b"\xae", b"FLV", b"GIF89a", b"NUMPY",
]  # fmt: skip


def mask_values(rng: Random, path: Path) -> str:
    """Class ids over 48, or fewer masks than frames, in the masks or proposals beside the frames."""
    found = sorted(Path("raw").rglob("mask.npy")) + sorted(Path("raw").rglob("*.json"))
    masks = [file for file in found if file.is_file()]  # not a link to an endless device
    if not masks:
        return new_content(rng, path)
    chosen = some(rng, masks)
    try:
        if chosen.suffix == ".npy":
            array = np.load(chosen)
            array = array[: len(array) // 2] if rng.random() < 0.3 else np.where(array == 7, 77, array)
            np.save(chosen, array.astype(np.uint8))
        else:
            tree = json.loads(chosen.read_text())
            del tree["frames"][int(rng.integers(len(tree["frames"]))) :]
            chosen.write_text(json.dumps(tree))
    except (*UNREADABLE, OSError, EOFError):
        return f"nothing to {chosen}"
    return f"masks of {chosen}"


def empty(rng: Random, path: Path) -> str:
    """Empty a file, or all files of its folder."""
    for file in [path] if rng.random() < 0.7 else files_below(path.parent):
        file.write_bytes(b"")
    return f"emptied {path}"


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_symlink() and path.is_file())


CONTENT = [new_content] * 10 + [other_type] * 4 + [other_name] * 3 + [swap, neighbour]
FURTHER = [
    new_content, new_content, other_type, other_name, other_suffix, other_suffix, other_place, other_place,
    large_number, large_number, mask_values, empty,
]  # fmt: skip


def mutate(rng: Random, changes: list[Callable[[Random, Path], str]]) -> str:
    """Apply one to three mutations to the files below `raw` in the current folder; return what was done."""
    done = []
    for _ in range(int(rng.integers(1, 4))):
        files = files_below(Path("raw"))
        if files:
            # by suffix first: there are many pictures and one list
            suffix = some(rng, sorted({path.suffix for path in files}))
            path = some(rng, [path for path in files if path.suffix == suffix])
            done.append(some(rng, changes)(rng, path))
    return "; ".join(done)


def mutate_params(rng: Random) -> str:
    """Apply one or two mutations to params.yaml; return what was done."""
    path, done = Path("params.yaml"), []
    for _ in range(int(rng.integers(1, 3))):
        change = some(rng, [yaml_tree, odd_text, damage])
        path.write_bytes(change(rng, path.read_bytes() or b"x"))
        done.append(change.__name__)
    return ", ".join(done) + " params.yaml"
