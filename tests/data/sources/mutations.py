"""What can happen to a user's files and to params.yaml, by a seeded generator of random numbers."""

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


def place(rng: Random, size: int) -> int:
    """A place in a file, as often near its ends, where headers are, as anywhere."""
    near = int(rng.integers(min(size, 400)))
    return some(rng, [near, size - 1 - near, int(rng.integers(size))])


def truncate(rng: Random, data: bytes) -> bytes:
    return data[: place(rng, len(data))]


def zero(rng: Random, data: bytes) -> bytes:
    at, length = place(rng, len(data)), int(rng.integers(1, 200))
    return data[:at] + bytes(min(length, len(data) - at)) + data[at + length :]


def flip(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 20))):
        changed[place(rng, len(data))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def overwrite(rng: Random, data: bytes) -> bytes:
    at = place(rng, len(data))
    return (
        data[:at]
        + some(rng, [b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", rng.bytes(8)])
        + data[at + 4 :]
    )


def insert(rng: Random, data: bytes) -> bytes:
    at = place(rng, len(data))
    return data[:at] + rng.bytes(int(rng.integers(1, 64))) + data[at:]


def cut_out(rng: Random, data: bytes) -> bytes:
    at = place(rng, len(data))
    return data[:at] + data[at + int(rng.integers(1, 64)) :]


def repeat(rng: Random, data: bytes) -> bytes:
    return data + data[place(rng, len(data)) :]


def other_content(rng: Random, data: bytes) -> bytes:
    return some(
        rng,
        [
            b"", b"\0", b"<html>404 not found</html>\n", b"version https://git-lfs.github.com/spec/v1\n",
            b"PAR1PAR1", b"\xff\xff\xff\xff\0\0\0\0", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xd9", b"GIF89a",
            b"RIFF\x04\0\0\0AVI ", b"\0\0\0\x08ftypmp42", b"\x93NUMPY\x01\0", bytes(5000), rng.bytes(3000),
            b"#EXTM3U\n/etc/hostname\n", b"{}", b"null",
        ],
    )  # fmt: skip


BYTES = [truncate, zero, flip, overwrite, insert, cut_out, repeat, other_content]


def png_header(rng: Random, data: bytes) -> bytes:
    """Another size, depth or type of colour in the header of a PNG, whose checksum is right."""
    sizes = [0, 1, HEIGHT + 1, 4000, 2**31 - 1, 2**32 - 1]
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    change = int(rng.integers(3))
    if change == 0:
        width = some(rng, sizes)
    elif change == 1:
        height = some(rng, sizes)
    else:
        depth, colour = some(rng, [1, 2, 4, 8, 16, 77]), some(rng, [0, 2, 3, 4, 6, 99])
    header = b"IHDR" + struct.pack(">IIBB", width, height, depth, colour) + data[26:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def other_picture(rng: Random, data: bytes) -> bytes:
    """A picture that is whole, but of another size, depth, number of channels or type of file."""
    image = some(
        rng,
        [
            picture(0, 8, 8), picture(0, 1, 1), picture(0, 1, 3000), picture(0)[..., 0],
            picture(0).astype(np.uint16) * 257, np.dstack([picture(0), picture(0)[..., 0]]),
        ],
    )  # fmt: skip
    return cv2.imencode(some(rng, [".png", ".tiff"]), image)[1].tobytes()


def npy_header(rng: Random, data: bytes) -> bytes:
    text = some(
        rng,
        [
            "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 32, 48), }",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (-12, 32, 48), }",
            "{'descr': '|u1', 'fortran_order': True, 'shape': (12, 32, 48), }",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (12L, 32L, 48L), }",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (12, 32.0, 48), }",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (6, 32, 48), }",
            "{'descr': '|u1', 'fortran_order': False, 'shape': 18432, }",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 32, 48), }",
            "{'descr': '|O', 'fortran_order': False, 'shape': (12, 32, 48), }",
            "{'descr': ('|u1', (32, 48)), 'fortran_order': False, 'shape': (12,), }",
            "{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (12, 32, 48), }",
            "{'descr': 'nonsense', 'fortran_order': False, 'shape': (12, 32, 48), }",
            "{'descr': '|u1', 'fortran_order': 'no', 'shape': (12, 32, 48), }",
            "[" * 3000, "__import__('os').getcwd()", "{'descr': '|u1'}", "\0" * 64, "(" + "1+" * 20000 + "1)",
        ],
    ).encode()  # fmt: skip
    version = some(rng, [1, 2, 3, 9])
    length = struct.pack("<H" if version == 1 else "<I", len(text) + 1)
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + b"\n" + data[128:]


def other_array(rng: Random, data: bytes) -> bytes:
    """An array that numpy reads, but of another type or shape, or with other numbers."""
    masks = class_ids()
    file = io.BytesIO()
    kind = int(rng.integers(10))
    if kind == 0:
        np.savez(file, masks=masks)
    elif kind == 1:
        np.save(file, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    else:
        arrays = [
            masks.astype(np.float32), masks.astype(np.int64), masks > 0, masks[:5], masks[..., None],
            masks.transpose(0, 2, 1), np.asfortranarray(masks), masks + 200,
        ]  # fmt: skip
        np.save(file, arrays[kind - 2])
    return file.getvalue()


WRONG = [
    None, True, -1, 0, 0.5, 1e400, float("nan"), 10**30, 10**400, 10**5000, "", "x", "\0", "raw/..", "\ud800",
    "a\nb", "list.yaml", "raw", "x" * 5000, [], {}, [[]], {"a": {}}, [None], ["x"], {"": ""},
]  # fmt: skip


def wrong_value(rng: Random, tree: object) -> object:
    """One value somewhere in lists and mappings is replaced, removed or repeated, or its key is changed."""
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.15:
        return some(rng, WRONG)
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = some(rng, keys)
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


UNREADABLE = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError)


def json_tree(rng: Random, data: bytes) -> bytes:
    try:
        tree = json.loads(data)
    except UNREADABLE:
        return other_content(rng, data)
    with unlimited_integers():
        return json.dumps(wrong_value(rng, tree)).encode()


def yaml_tree(rng: Random, data: bytes) -> bytes:
    try:
        tree = yaml.safe_load(data)
    except UNREADABLE:
        return other_content(rng, data)
    with unlimited_integers():
        return yaml.safe_dump(wrong_value(rng, tree)).encode("utf-8", "surrogatepass")


def odd_text(rng: Random, data: bytes) -> bytes:
    """Text as other programs write it, or as nobody should."""
    text = data.decode("latin-1")
    lines = text.split("\n")
    at = int(rng.integers(len(lines)))
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    changed = some(
        rng,
        [
            "\xef\xbb\xbf" + text, text.replace("\n", "\r\n"), text.replace("\n", "\r"),
            text.replace("  ", "\t"), text + laughs, laughs, "&a [*a, *a]", "a: &a {b: *a}", "[" * 700,
            "{a: " * 700, "- " * 700,
            "\n".join([*lines[:at], *lines[at + 1 :]]), "\n".join([*lines[: at + 1], *lines[at:]]),
            "\n".join([*lines[:at], "  " + lines[at], *lines[at + 1 :]]),
            "\n".join([*lines[:at], lines[at] + some(rng, ODD), *lines[at + 1 :]]),
            "\n".join([*lines[:at], re.sub(r"[:,].*", lambda m: m[0][0] + " " + some(rng, ODD), lines[at]),
                       *lines[at + 1 :]]),
            text + "\0", "%YAML 9.9\n---\n" + text, text + "\n---\n" + text, text + "\n...\nx", "# nothing\n",
        ],
    )  # fmt: skip
    if rng.random() < 0.05:
        return text.encode("utf-16")
    return changed.encode("latin-1")


ODD = [
    "!!bool x", "!!int x", "!!float ''", "!!binary x", "!!python/object:os.x y", "!!timestamp 2001-99-99",
    "!!set {a}", "!!null x", "&x", "*x", "!x", "{", "[", "'", '"', "|", ">", "? [a]", "<<: *x", "<<: {a: 1}",
    "{[a]: b}", "1_000", "0o17", "0x", "1e999", "-.inf", ".nan", "9" * 5000, "1" * 400, "2001-13-45", "yes",
    "~", ",,,", "a,b", '"a\\nb"', '"a\\0b"', '"\\ud800"', '"\\x1b[31m"', "x" * 5000, "/dev/zero", "/dev/null",
    "/proc/self/mem", "..", "-5", "-0", "1.5", "true", "null", "9999999999", "0", "1e-320", "0x" + "f" * 5000,
]  # fmt: skip


def other_table(rng: Random, data: bytes) -> bytes:
    """A data set that pyarrow reads, but with other columns, types or cells."""
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
            pa.array([[[[[0]]]], [[[[0, 1], [2]]]]]),
            pa.array([[[[[300, 0, -1]]]], None]), pa.array([[[[[1.5]]]]] * 2), pa.array([{"a": 1}] * 2),
            pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["a", "b"])),
        ],
    )  # fmt: skip
    name = some(rng, ["frames", "masks", "video", "mask", "images", "a\nb", ""])
    metadata = some(
        rng,
        [None, {b"huggingface": some(rng, [b"{", b"[" * 3000, b'{"info": {"features": {"frames": 1}}}'])}],
    )
    columns = {field: base.column(field) for field in some(rng, [["id"], ["frames"], ["frames", "masks"]])}
    content = pa.table(columns | {name: column}).replace_schema_metadata(metadata)
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
NAMES = [
    b"\xff\xfe{}", "ünï ☃ {}".encode(), b" {} ", b"a\nb{}", b"-{}", b"\x1b[31m{}", b"{}" + b"x" * 230,
    b"..{}", b".{}", b"{}.bak", b"image_007{}", b"image_0{}", b"%s%n{}", b"a:b{}", b"CON{}", b"\r{}",
    b"'\"`$(){}", "\u2028{}".encode(),
]  # fmt: skip


def new_content(rng: Random, path: Path) -> str:
    changes = BYTES + 3 * BY_SUFFIX.get(path.suffix, [])
    change = some(rng, changes)
    data = path.read_bytes()
    path.write_bytes(change(rng, data) if data or change is other_content else b"x")
    return f"{change.__name__} {path}"


def other_thing(rng: Random, path: Path) -> str:
    """Not a file any more, or none that can be read."""
    kind = some(rng, ["gone", "folder", "broken link", "loop", "pipe", "link to a device", "locked", "link"])
    if kind == "locked":
        path.chmod(0)
        return f"{kind} {path}"
    data = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
        (path / "x.png").write_bytes(data)
    elif kind == "broken link":
        path.symlink_to("nowhere")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a device":
        path.symlink_to(some(rng, ["/dev/zero", "/dev/null", "/proc/self/mem", ".."]))
    elif kind == "link":
        name = f".{int(rng.integers(10**9))}"
        (path.parent / name).write_bytes(data)
        path.symlink_to(name)
    return f"{kind} {path}"


def other_name(rng: Random, path: Path) -> str:
    """A file or the folder that it is in gets another name, or a copy of itself under one."""
    if rng.random() < 0.3 and path.parent.name != "raw":
        path = path.parent
    suffix = (
        os.fsencode(path.suffix) if rng.random() < 0.8 else some(rng, [b".mp4", b".PNG", b".npy", b".json"])
    )
    stem = some(rng, [os.fsencode(path.stem), b"0", b"video_00"])
    pattern: bytes = some(rng, NAMES)
    target = os.path.join(os.fsencode(path.parent), pattern.replace(b"{}", stem)[:240] + suffix)
    if os.path.lexists(target):
        return f"nothing to {path}"
    if path.is_dir() or rng.random() < 0.5:
        os.rename(path, target)
    else:
        shutil.copy(path, target)
    return f"renamed {path} to {target!r}"


def swap(rng: Random, path: Path) -> str:
    files = [p for p in path.parents[-2].rglob("*") if p.is_file() and not p.is_symlink() and p != path]
    if not files:
        return f"nothing to {path}"
    other = some(rng, sorted(files))
    one, two = path.read_bytes(), other.read_bytes()
    path.write_bytes(two)
    other.write_bytes(one)
    return f"swapped {path} and {other}"


def beside(rng: Random, path: Path) -> str:
    """Something more in a folder."""
    kind = some(rng, ["loop", "deep", "text", "empty folder", "mask", "picture", "video"])
    if kind == "loop":
        (path.parent / f"up{int(rng.integers(10**9))}").symlink_to("..", target_is_directory=True)
    elif kind == "deep":
        (path.parent / "/".join(["d"] * 120)).mkdir(parents=True, exist_ok=True)
    elif kind == "text":
        (path.parent / "Thumbs.db").write_bytes(b"x")
    elif kind == "empty folder":
        (path.parent / "video_77").mkdir(exist_ok=True)
    elif kind == "mask":
        np.save(path.parent / "mask.npy", class_ids())
    else:
        (path.parent / ("extra.png" if kind == "picture" else "extra.mp4")).write_bytes(rng.bytes(100))
    return f"beside {path}: {kind}"


def mutate(rng: Random) -> str:
    """Change one to three things below `raw` in the current folder; what was done."""
    done = []
    for _ in range(int(rng.integers(1, 4))):
        files = sorted(p for p in Path("raw").rglob("*") if not p.is_symlink() and p.is_file())
        if not files:
            break
        # by suffix first: of pictures there are many, of lists there is one
        suffix = some(rng, sorted({p.suffix for p in files}))
        path = some(rng, [p for p in files if p.suffix == suffix])
        change = some(rng, [new_content] * 10 + [other_thing] * 4 + [other_name] * 3 + [swap, beside])
        done.append(change(rng, path))
    return "; ".join(done)


def mutate_params(rng: Random) -> str:
    """Change params.yaml once or twice: some values, its text or its bytes; what was done."""
    path = Path("params.yaml")
    done = []
    for _ in range(int(rng.integers(1, 3))):
        change = some(rng, [yaml_section] * 8 + [odd_text] * 8 + BYTES)
        path.write_bytes(change(rng, path.read_bytes() or b"x"))
        done.append(change.__name__)
    return ", ".join(done) + " params.yaml"


def yaml_section(rng: Random, data: bytes) -> bytes:
    """A wrong value, as often among those that the stage reads as anywhere."""
    try:
        tree = yaml.safe_load(data)
        section = tree["extract_frames"]
    except UNREADABLE:
        return other_content(rng, data)
    if rng.random() < 0.7 and isinstance(section, dict):
        tree["extract_frames"] = wrong_value(rng, section)
    else:
        tree = wrong_value(rng, tree)
    with unlimited_integers():
        return yaml.safe_dump(tree, sort_keys=False).encode("utf-8", "surrogatepass")


@contextmanager
def unlimited_integers() -> Iterator[None]:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(limit)
