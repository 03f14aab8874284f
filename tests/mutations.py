"""Damage for the fuzzer: seeded ways to change the bytes of a file, and to reach the bytes inside containers."""

from __future__ import annotations

import gzip
import io
import random
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable

EDGES = (
    *(b"\x00", b"\xff", b"\x7f", b"\x80", b"\n", b" ", b"-", b'"'),
    *(struct.pack("<I", n) for n in (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000)),
    *(struct.pack("<Q", n) for n in (2**63 - 1, 2**63, 2**64 - 1, 2**32)),
    *(struct.pack("<f", n) for n in (float("nan"), float("inf"), -1.0, 1e30, -1e30, 1e-40)),
    *(struct.pack("<d", n) for n in (float("nan"), float("-inf"), 1e300)),
)
"""What is written over a place or inserted there: ends of ranges, numbers that are none."""
TOKENS = (
    *(
        b"0",
        b"-1",
        b"1",
        b"-0",
        b"1e999",
        b"-1e400",
        b"1e-400",
        b"NaN",
        b"Infinity",
        b"nan",
        b"null",
    ),
    *(b"9" * 20, b"9" * 400, b"9" * 5000, b"4294967296", b"2147483647", b"1e30", b"0.5", b"true"),
    *(
        b'""',
        b"[]",
        b"{}",
        b"[[]]",
        b'"\\ud800"',
        b'"\xff"',
        b"[" * 3000,
        b'"../../x"',
        b'"a\\u0000b"',
    ),
)
"""What takes the place of a number or word in a text."""
WORD = re.compile(rb'"[^"]{0,40}"|-?[0-9][0-9.eE+-]*|[A-Za-z_]+')
LEAST_LENGTH = 4


def mutate(data: bytes, draw: random.Random, other: bytes = b"") -> bytes:
    """Return the bytes with one to six changes; `other` is a second file to take pieces from."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        draw.choice(CHANGES)(changed, draw, other or data)
    return bytes(changed)


def _flip(data: bytearray, draw: random.Random, other: bytes) -> None:
    at = _place(data, draw)
    if at < len(data):
        data[at] ^= 1 << draw.randrange(8)


def _edge(data: bytearray, draw: random.Random, other: bytes) -> None:
    piece, at = draw.choice(EDGES), _place(data, draw)
    data[at : at + len(piece)] = piece


def _insert(data: bytearray, draw: random.Random, other: bytes) -> None:
    at = _place(data, draw)
    data[at:at] = draw.choice((draw.choice(EDGES), draw.randbytes(draw.randrange(1, 64))))


def _remove(data: bytearray, draw: random.Random, other: bytes) -> None:
    at = _place(data, draw)
    del data[at : at + draw.choice((1, 4, 16, 200))]


def _repeat(data: bytearray, draw: random.Random, other: bytes) -> None:
    at = _place(data, draw)
    data[at:at] = data[at : at + draw.choice((4, 32, 500))] * draw.choice((1, 1, 40))


def _truncate(data: bytearray, draw: random.Random, other: bytes) -> None:
    if draw.random() < 0.3:
        del data[_place(data, draw) :]


def _splice(data: bytearray, draw: random.Random, other: bytes) -> None:
    at, start = _place(data, draw), _place(other, draw)
    length = draw.choice((8, 64, 400))
    data[at : at + length] = other[start : start + length]


def _token(data: bytearray, draw: random.Random, other: bytes) -> None:
    """Replace a word of a text near a place, or swap it for another word of the file."""
    at = _place(data, draw)
    found = WORD.search(bytes(data[at : at + 300]))
    if found:
        another = WORD.search(other, _place(other, draw))
        swap = another[0] if another and draw.random() < 0.4 else draw.choice(TOKENS)
        data[at + found.start() : at + found.end()] = swap


CHANGES: tuple[Callable[[bytearray, random.Random, bytes], None], ...] = (
    *(_flip, _edge, _edge, _insert, _remove),
    *(_repeat, _truncate, _splice, _token, _token),
)


def _place(data: bytes | bytearray, draw: random.Random) -> int:
    """Return a position, every other time among the first bytes, where headers are."""
    most = len(data) if draw.random() < 0.5 else min(len(data), 256)
    return draw.randrange(most) if most else 0


def inside_gzip(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """Change what a gzip stream holds, every other time; the checksum is right again."""
    if draw.random() < 0.3 or data[:2] != b"\x1f\x8b":
        return mutate(data, draw, other)
    return gzip.compress(mutate(gzip.decompress(data), draw), 1)


def inside_zip(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """Change one member of a zip, most of the time; checksums and offsets are right again."""
    if draw.random() < 0.25:
        return mutate(data, draw, other)

    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(packed, "w") as new:
        names = old.namelist()
        victim = draw.choice((draw.choice(names), "meta.json"))
        for name in names:
            content = old.read(name)
            if name == victim:
                source = old.read(draw.choice(names))
                content = source if draw.random() < 0.1 else mutate(content, draw, source)
            methods = (zipfile.ZIP_STORED,) * 8 + (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, 14)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                new.writestr(name, content, compress_type=draw.choice(methods))
    return packed.getvalue()


def inside_glb(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """Change the JSON of a .glb, most of the time; the lengths of its chunks are right again."""
    if draw.random() < 0.25:
        return mutate(data, draw, other)

    length = struct.unpack_from("<I", data, 12)[0]
    text = mutate(data[20 : 20 + length], draw, other)
    body = struct.pack("<I", len(text)) + b"JSON" + text + data[20 + length :]
    return data[:8] + struct.pack("<I", 12 + len(body)) + body


def inside_png(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """Change a chunk of a PNG, most of the time; its length and checksum are right again."""
    if draw.random() < 0.25:
        return mutate(data, draw, other)

    at, chunks = 8, []
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    index = draw.randrange(len(chunks))
    kind, content = chunks[index]
    chunks[index] = (kind, mutate(content, draw, other) if content else draw.randbytes(8))

    parts = [data[:8]]
    for kind, content in chunks:
        check = zlib.crc32(kind + content)
        parts.append(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check))
    return b"".join(parts)
