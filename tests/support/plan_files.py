"""Files of floor plans for tests."""

import struct
import zlib

RESOLUTION_YAML = "image: hall.pgm\nresolution: {resolution}\norigin: [{x}, {y}, {yaw}]\nnegate: 0\n"
RESOLUTION_YAML += "occupied_thresh: 0.65\nfree_thresh: 0.196\n"


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def head(width: int, height: int, depth: int = 8, colour: int = 0, *methods: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, *(methods or (0, 0, 0))))


def png(width: int = 200, height: int = 100, grey: bytes | None = None) -> bytes:
    """Return a PNG of these pixels, a byte each, or of one grey."""
    pixels = b"\xe0" * width * height if grey is None else grey
    lines = b"".join(b"\0" + pixels[at : at + width] for at in range(0, len(pixels), width))
    return b"\x89PNG\r\n\x1a\n" + head(width, height) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND")


def hall(width: int = 400, height: int = 200) -> bytes:
    """Return a PNG of a hall with walls, three rows of shelves, and a black corner at the lower left."""

    def grey(column: int, row: int) -> int:
        if column < 8 or row < 8 or column >= width - 8 or row >= height - 8:
            return 0
        if column < 40 and row >= height - 40:
            return 60
        return 150 if row % 50 < 16 and 60 < column < width - 60 else 250

    return png(width, height, bytes(grey(column, row) for row in range(height) for column in range(width)))


def map_yaml(resolution: object = 0.05, x: object = 0.0, y: object = 0.0, yaw: object = 0.0) -> bytes:
    return RESOLUTION_YAML.format(resolution=resolution, x=x, y=y, yaw=yaw).encode()
