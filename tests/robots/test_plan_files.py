"""Files of floor plans: what is read of a PNG, a PGM and map_server's YAML, and what is refused."""

import math
import struct
import zlib

import pytest

from fmv.errors import InvalidInput
from robots import plan_files
from robots.plan_files import Placement, placement, read_picture, read_yaml
from tests.support.plan_files import chunk, head, map_yaml, png

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS = chunk(b"IDAT", zlib.compress(b"\0\0"))
END = chunk(b"IEND")


def refused(read, source) -> dict[str, str]:
    with pytest.raises(InvalidInput) as error:
        read(source)
    return {str(problem.loc[-1]): problem.msg for problem in error.value.problems}


# --- Pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (200, 100), (3, 700)])
def test_a_png_is_taken_as_it_is_with_its_size(size):
    content = png(*size)
    assert read_picture(content) == plan_files.Picture(content, *size)


def test_a_png_may_have_any_kind_of_colour_and_chunks_of_its_own():
    for depth, colour in ((1, 0), (16, 0), (8, 2), (4, 3), (16, 4), (8, 6)):
        content = SIGNATURE + head(7, 5, depth, colour) + chunk(b"tEXt", b"Author\0Fry") + PIXELS + END
        picture = read_picture(content)
        assert (picture.width, picture.height) == (7, 5)


GOOD = png()
BAD = {
    "nothing": (b"", "neither a PNG nor"),
    "a JPEG": (b"\xff\xd8\xff\xe0" + bytes(100), "neither a PNG nor"),
    "a page that says it is a picture": (b"<svg onload='alert(1)'>", "neither a PNG nor"),
    "only a signature": (SIGNATURE, "cut off"),
    "cut off in its pixels": (GOOD[:-20], "cut off"),
    "without its end": (GOOD[:-12], "cut off"),
    "with a page behind its end": (GOOD + b"<script>alert(1)</script>", "more after its end"),
    "with a wrong checksum": (GOOD[:40] + bytes([GOOD[40] ^ 1]) + GOOD[41:], "checksum"),
    "with a chunk of 4 GB": (SIGNATURE + struct.pack(">I4s", 2**32 - 1, b"IHDR") + bytes(20), "cut off"),
    "without pixels": (SIGNATURE + head(1, 1) + END, "lacks its header, its pixels"),
    "pixels before its header": (SIGNATURE + PIXELS + head(1, 1) + END, "lacks its header"),
    "a short header": (SIGNATURE + chunk(b"IHDR", b"1234") + PIXELS + END, "lacks its header"),
    "a depth that no PNG has": (SIGNATURE + head(1, 1, 3) + PIXELS + END, "values that no PNG has"),
    "a colour that no PNG has": (SIGNATURE + head(1, 1, 8, 5) + PIXELS + END, "values that no PNG has"),
    "a filter that no PNG has": (SIGNATURE + head(1, 1, 8, 0, 0, 1, 0) + PIXELS + END, "values that no PNG has"),
    "no columns": (SIGNATURE + head(0, 9) + PIXELS + END, "0 by 9 pixels"),
    "too wide": (SIGNATURE + head(10_001, 1) + PIXELS + END, "10,001 by 1 pixels"),
    "a bomb": (SIGNATURE + head(10_000, 10_000) + PIXELS + END, "36,000,000 at most"),
    "a text PGM": (b"P2\n1 1\n255\n0\n", "neither a PNG nor"),
    "a PGM without a height": (b"P5\n12 \n", "header has no width"),
    "a PGM of two bytes a pixel": (b"P5 1 1 65535\n\0\0", "more than one byte"),
    "a PGM without a greatest value": (b"P5 1 1 0\n\0", "more than one byte"),
    "a PGM that was cut off": (b"P5 4 4 255\n" + bytes(15), "15 pixels, not 4 by 4"),
    "a PGM with more": (b"P5 4 4 255\n" + bytes(17), "17 pixels"),
    "a PGM that is too wide": (b"P5 99999 1 255\n" + bytes(9), "99,999 by 1 pixels"),
    "too many bytes": (GOOD + bytes(plan_files.MAX_IMAGE), "At most 4,194,304 are allowed"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_whole_picture_is_refused(name):
    content, reason = BAD[name]
    assert reason in refused(read_picture, content)["image"]


def test_a_pgm_becomes_a_png_of_the_same_pixels():
    pixels = bytes([0, 100, 205, 254, 255, 1])
    picture = read_picture(b"P5\n# CREATOR: map_saver.cpp 0.050 m/pix\n3 2\n255\n" + pixels)
    assert (picture.width, picture.height) == (3, 2)
    assert read_picture(picture.png) == picture
    at = picture.png.index(b"IDAT")
    [size] = struct.unpack(">I", picture.png[at - 4 : at])
    assert zlib.decompress(picture.png[at + 4 : at + 4 + size]) == b"\0" + pixels[:3] + b"\0" + pixels[3:]


def test_a_pgm_of_few_greys_uses_them_all():
    picture = read_picture(b"P5 3 1 2\n\0\1\2")
    at = picture.png.index(b"IDAT")
    assert zlib.decompress(picture.png[at + 4 :][: struct.unpack(">I", picture.png[at - 4 : at])[0]]) == b"\0\0\x7f\xff"


# --- Where it lies ---------------------------------------------------------------------------------------------------


def test_map_server_s_file_says_where_the_picture_lies():
    assert read_yaml(map_yaml(0.05, -10.0, -7.5, 1.5708)) == Placement(0.05, -10.0, -7.5, 1.5708)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"resolution: 5e-2\norigin: [-1, 2, 0]", Placement(0.05, -1.0, 2.0, 0.0)),
        (b"{origin: [1e1, 2.5, -0.5], resolution: '0.1'}", Placement(0.1, 10.0, 2.5, -0.5)),
        (b"\xef\xbb\xbf# a comment\nresolution: &r 0.1\norigin: [*r, *r, 0]\nmode: raw", Placement(0.1, 0.1, 0.1, 0.0)),
        (b"resolution: 1\norigin:\n- 1\n- 2\n- 3\nother: {a: [!!python/object:os.system x]}", Placement(1, 1, 2, 3)),
    ],
)
def test_it_may_be_written_as_yaml_is(content, found):
    assert read_yaml(content) == found


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "has no keys"),
        (b"resolution", "has no keys"),
        (b"- resolution", "has no keys"),
        (b"a: [", "not YAML at line 1"),
        (b"a: 1\nb: *nothing", "not YAML at line 2"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"a: 1\n---\nb: 1", "not YAML"),
        (b'a: "\\UFFFFFFFF"', "not YAML"),
        (b"[" * 16_000, "not YAML"),
        (b"a: " + b"x" * 17_000, "At most 16,384"),
        (b"resolution: 0.05", "origin should be a list of three numbers"),
        (b"resolution: 0.05\norigin: [0, 0]", "origin should be a list"),
        (b"resolution: 0.05\norigin: 0", "origin should be a list"),
        (b"origin: [0, 0, 0]", "resolution: It should be a finite number"),
        (b"resolution: [1]\norigin: [0, 0, 0]", "resolution: It should be a finite number"),
        (map_yaml(resolution="much"), "resolution: It should be a finite number"),
        (map_yaml(resolution=0), "resolution: It should be more than 0"),
        (map_yaml(resolution=-0.05), "resolution: It should be more than 0"),
        (map_yaml(resolution=1001), "resolution: It should be more than 0"),
        (map_yaml(resolution="1e999"), "resolution: It should be a finite number"),
        (map_yaml(resolution=".nan"), "resolution: It should be a finite number"),
        (map_yaml(resolution="nan"), "resolution: It should be a finite number"),
        (map_yaml(x="inf"), "x: It should be a finite number"),
        (map_yaml(y=2e7), "y: It should be from -10,000,000 to 10,000,000 metres"),
        (map_yaml(yaw=90), "yaw: It should be from -6.2832 to 6.2832 radians"),
        (map_yaml(yaw="{}"), "yaw: It should be a finite number"),
    ],
)
def test_a_file_that_does_not_say_it_is_refused(content, reason):
    assert reason in refused(read_yaml, content)["yaml"]


def test_each_wrong_value_is_named():
    wrong = refused(placement, {"resolution": "", "x": "1", "y": math.inf, "yaw": None})
    assert wrong == dict.fromkeys(("resolution", "y", "yaw"), "It should be a finite number.")
