"""A gzip stream packed by several threads, as pigz does.

Each block is compressed by itself, with the end of the one before as its dictionary, and ends at a
byte. Put together they are one ordinary stream, the same for any number of threads.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence

from vlm3d_gs.formats.quantize import ByteArray
from vlm3d_gs.formats.stream import in_order

BLOCK = 2**20
WINDOW = 2**15
"""How far back deflate can refer."""
HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""Deflate, no name, no time, so that the same content gives the same bytes."""
MEMORY_LEVEL = 8


Way = tuple[int, int]
"""A level and a strategy of zlib."""
SAMPLE = 2**15
"""Bytes of a block that both ways are tried on."""
WORTH = 0.98
"""A search for repetitions takes two to three times as long, so it must save this much."""


def gzipped(parts: Sequence[ByteArray], levels: Sequence[int]) -> Iterator[bytes]:
    """Yield the bytes of one gzip stream that holds all parts, one after the other.

    Args:
        parts: arrays of any shape, contiguous; their bytes are filtered data, as zlib calls numbers
            that differ little.
        levels: of the compression of each part, 1 to 9.
    """
    flat = [part.reshape(-1) for part in parts if part.size]
    level_of = [level for part, level in zip(parts, levels, strict=True) if part.size]
    blocks = [(n, at) for n, part in enumerate(flat) for at in range(0, len(part), BLOCK)]

    def packed(number: int) -> bytes:
        part, at = flat[blocks[number][0]], blocks[number][1]
        before = part[max(0, at - WINDOW) : at].tobytes()
        way = _quicker_way(part[at : at + BLOCK], level_of[blocks[number][0]])
        deflate = _deflate(way, before)
        last = number == len(blocks) - 1
        ending = zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH
        return deflate.compress(part[at : at + BLOCK].data) + deflate.flush(ending)

    yield HEADER
    checksum = 0
    for (n, at), block in zip(blocks, in_order(packed, len(blocks)), strict=True):
        checksum = zlib.crc32(flat[n][at : at + BLOCK].data, checksum)
        yield block
    yield struct.pack("<II", checksum, sum(map(len, flat)) & 0xFFFFFFFF)


def _quicker_way(block: ByteArray, level: int) -> Way:
    """Return how to pack a block: numbers that only seldom repeat are packed as tight without a search for that."""
    middle = max(0, (len(block) - SAMPLE) // 2)
    sample = block[middle : middle + SAMPLE].tobytes()
    runs, search = (1, zlib.Z_RLE), (level, zlib.Z_FILTERED)
    lengths = []
    for way in (runs, search):
        deflate = _deflate(way)
        lengths.append(len(deflate.compress(sample)) + len(deflate.flush()))
    return search if lengths[1] < WORTH * lengths[0] else runs


def _deflate(way: Way, dictionary: bytes = b"") -> zlib._Compress:
    level, strategy = way
    return zlib.compressobj(
        level, zlib.DEFLATED, -zlib.MAX_WBITS, MEMORY_LEVEL, strategy, dictionary
    )
