"""Reading the files of a floor plan: a PNG or PGM, and the YAML file of ROS map_server that says where it lies.

https://docs.ros.org/en/noetic/api/map_server/html — what a file says is not believed before it is checked.
"""

import math
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import yaml

from fmv.errors import InvalidInput, Problem

MAX_IMAGE = 4 * 1024 * 1024  # bytes
MAX_SIDE = 10_000  # pixels
MAX_PIXELS = 36_000_000
MAX_YAML = 16 * 1024  # bytes
LEAST_RESOLUTION, MAX_RESOLUTION = 0.0001, 1000.0  # metres a pixel
FARTHEST = 1e7  # metres of an origin, along either axis
SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: bits of a sample that a PNG may have, by its type of colour
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_BLANK = rb"\s+(?:#[^\n]*\n\s*)*"  # with comments
PGM = re.compile(rb"P5%b(\d{1,6})%b(\d{1,6})%b(\d{1,6})\s" % (_BLANK, _BLANK, _BLANK))


@dataclass(frozen=True)
class Picture:
    """A PNG and its size in pixels."""

    png: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Placement:
    """Where a picture lies on its map: the fields of FloorPlan."""

    resolution: float
    x: float
    y: float
    yaw: float


# --- The picture -----------------------------------------------------------------------------------------------------


def read_picture(content: bytes) -> Picture:
    """Return the picture in a PNG or a binary PGM file. Raises InvalidInput."""
    if len(content) > MAX_IMAGE:
        raise _wrong("image", f"The file has {len(content):,} bytes. At most {MAX_IMAGE:,} are allowed.")
    if content.startswith(SIGNATURE):
        width, height = _size_of_png(content)
        return Picture(content, width, height)
    if content.startswith(b"P5"):
        return _from_pgm(content)
    raise _wrong("image", "The file is neither a PNG nor a binary PGM (P5).")


def _size_of_png(content: bytes) -> tuple[int, int]:
    """Return width and height; raise InvalidInput unless the file is a complete PNG and nothing else."""
    chunks = list(_chunks(content))
    kinds = [kind for kind, _ in chunks]
    if kinds[0] != b"IHDR" or len(chunks[0][1]) != 13 or b"IDAT" not in kinds or kinds[-1] != b"IEND":
        raise _wrong("image", "The PNG is damaged: it lacks its header, its pixels or its end.")
    width, height, depth, colour, *methods, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    if depth not in DEPTHS.get(colour, ()) or any(methods) or interlace > 1:
        raise _wrong("image", "The PNG is damaged: its header has values that no PNG has.")
    _check_size(width, height)
    return width, height


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the data of each chunk up to the end of the PNG, which must be the end of the file."""
    at, whole, kind = len(SIGNATURE), memoryview(content), b""
    while kind != b"IEND":
        if at + 12 > len(content):
            raise _wrong("image", "The PNG is damaged: it was cut off.")
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 12 + length
        if end > len(content):
            raise _wrong("image", "The PNG is damaged: it was cut off.")
        if zlib.crc32(whole[at + 4 : end - 4]) != struct.unpack_from(">I", content, end - 4)[0]:
            raise _wrong("image", "The PNG is damaged: a checksum is wrong.")
        yield kind, bytes(whole[at + 8 : end - 4]) if kind == b"IHDR" else b""
        at = end
    if at != len(content):
        raise _wrong("image", "The PNG is damaged: there is more after its end.")


def _from_pgm(content: bytes) -> Picture:
    """Return the picture of a PGM as a PNG of the same pixels. https://netpbm.sourceforge.net/doc/pgm.html"""
    head = PGM.match(content)
    if head is None:
        raise _wrong("image", "The PGM is damaged: its header has no width, height and greatest value.")
    width, height, most = map(int, head.groups())
    _check_size(width, height)
    if not 0 < most < 256:
        raise _wrong("image", "The PGM has more than one byte a pixel. Save it as PNG.")
    pixels = content[head.end() :]
    if len(pixels) != width * height:
        raise _wrong("image", f"The PGM is damaged: it has {len(pixels):,} pixels, not {width:,} by {height:,}.")
    if most != 255:
        pixels = pixels.translate(bytes(min(255, value * 255 // most) for value in range(256)))
    lines = b"".join(b"\0" + pixels[at : at + width] for at in range(0, len(pixels), width))  # 0: not filtered
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return Picture(SIGNATURE + b"".join(_chunk(kind, data) for kind, data in parts), width, height)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _check_size(width: int, height: int) -> None:
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise _wrong(
            "image",
            f"The picture has {width:,} by {height:,} pixels. A side has 1 to {MAX_SIDE:,}, the whole {MAX_PIXELS:,} "
            "at most.",
        )


# --- Where it lies ---------------------------------------------------------------------------------------------------


def read_yaml(content: bytes) -> Placement:
    """Return where the picture lies, from `resolution` and `origin` of map_server's YAML file. Raises InvalidInput.

    The other keys say how robots read the picture; FMV shows it as it is. The file is parsed, but no object of it is
    constructed: the values are texts in a tree.
    """
    if len(content) > MAX_YAML:
        raise _wrong("yaml", f"The file has {len(content):,} bytes. At most {MAX_YAML:,} are allowed.")
    try:
        root = yaml.compose(content, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise _wrong("yaml", f"The file is not YAML{where}.") from None
    if not isinstance(root, yaml.MappingNode):
        raise _wrong("yaml", "The file has no keys such as resolution and origin.")
    values = {key.value: value for key, value in root.value if isinstance(key, yaml.ScalarNode)}
    origin = values.get("origin")
    parts = origin.value if isinstance(origin, yaml.SequenceNode) else []
    if len(parts) != 3:
        raise _wrong("yaml", "Its origin should be a list of three numbers: [x, y, yaw].")
    named = {"resolution": values.get("resolution"), **dict(zip(("x", "y", "yaw"), parts, strict=True))}
    try:
        return placement({name: _text(node) for name, node in named.items()})
    except InvalidInput as error:
        raise InvalidInput([Problem(("body", "yaml"), f"{p.loc[-1]}: {p.msg}") for p in error.problems]) from None


def _text(node: yaml.Node | None) -> str | None:
    return node.value if isinstance(node, yaml.ScalarNode) else None


def placement(values: Mapping[str, str | float | None]) -> Placement:
    """Return where a picture lies, if all values are numbers that can be. Raises InvalidInput, with each wrong one."""
    numbers, problems = {}, []
    limits = {"x": FARTHEST, "y": FARTHEST, "yaw": 2 * math.pi}
    for name in ("resolution", "x", "y", "yaw"):
        number = _number(values.get(name))
        if number is None:
            problems.append(Problem(("body", name), "It should be a finite number."))
        elif name == "resolution" and not LEAST_RESOLUTION <= number <= MAX_RESOLUTION:
            most = f"{LEAST_RESOLUTION:g} to {MAX_RESOLUTION:g} metres a pixel"
            problems.append(Problem(("body", name), f"It should be more than 0: from {most}."))
        elif name in limits and abs(number) > limits[name]:
            unit = "radians" if name == "yaw" else "metres"
            most = f"{limits[name]:.4f}" if name == "yaw" else f"{limits[name]:,.0f}"
            problems.append(Problem(("body", name), f"It should be from -{most} to {most} {unit}."))
        numbers[name] = number or 0.0
    if problems:
        raise InvalidInput(problems)
    return Placement(**numbers)


def _number(value: str | float | None) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _wrong(field: str, message: str) -> InvalidInput:
    return InvalidInput([Problem(("body", field), message)])
