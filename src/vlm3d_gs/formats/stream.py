"""SplatStream: a splat in pieces, so that a file larger than memory can be converted.

A piece is a few ten thousand Gaussians in the order of the file. A stream says how long its pieces
are and reads any of them, as often as somebody asks; nothing is read before. Pieces are read by
several threads, and come in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.core.bands import coefficient_count
from vlm3d_gs.core.threads import thread_count
from vlm3d_gs.formats.arrays import SplatArrays
from vlm3d_gs.formats.options import Frame

T = TypeVar("T")
PIECE = 32_768
"""Gaussians of a piece: 8 MB at degree 3, which bounds the memory, and stays near the caches."""


@dataclass(frozen=True, eq=False)
class SplatStream:
    """N Gaussians in pieces, each read when it is asked for."""

    lengths: tuple[int, ...]
    """Gaussians of each piece."""
    degree: int
    """Degree of the harmonics of every piece, 0 to 3."""
    frame: Frame
    """Axes of every piece."""
    read: Callable[[int], SplatArrays]
    """Return a piece by its number; called from several threads."""
    antialiased: bool = False
    """As in `SplatArrays`, like the other two."""
    comments: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(self.lengths)

    @classmethod
    def of_rows(
        cls,
        count: int,
        degree: int,
        frame: Frame,
        rows: Callable[[slice], SplatArrays],
        *,
        like: SplatArrays | None = None,
    ) -> SplatStream:
        """Return the stream of something that can be read from any row to any other.

        Args:
            count: rows.
            degree: of the harmonics.
            frame: the axes.
            rows: returns some rows.
            like: a splat, perhaps empty, with the filter, comments and remarks of this.
        """
        starts = range(0, count, PIECE)
        lengths = tuple(min(PIECE, count - start) for start in starts)
        stream = cls(
            lengths, degree, frame, lambda n: rows(slice(starts[n], starts[n] + lengths[n]))
        )
        return stream if like is None else stream.about(like)

    @classmethod
    def of_arrays(cls, arrays: SplatArrays) -> SplatStream:
        """Return arrays in memory as a stream; its pieces are views."""
        degree = round(arrays.sh.shape[1] ** 0.5) - 1
        return cls.of_rows(len(arrays), degree, arrays.frame, arrays.rows, like=arrays)

    def about(self, like: SplatArrays) -> SplatStream:
        """Return the stream with the filter, comments and remarks of a splat."""
        return replace(
            self, antialiased=like.antialiased, comments=like.comments, remarks=like.remarks
        )

    def empty(self) -> SplatArrays:
        """Return a splat of no Gaussians of which all else is true as well."""
        coefficients = (self.degree + 1) ** 2
        return SplatArrays(
            means=np.empty((0, 3), np.float32),
            log_scales=np.empty((0, 3), np.float32),
            quats=np.empty((0, 4), np.float32),
            opacity_logits=np.empty(0, np.float32),
            sh=np.empty((0, coefficients, 3), np.float32),
            frame=self.frame,
            antialiased=self.antialiased,
            comments=self.comments,
            remarks=self.remarks,
        )

    def pieces(self) -> Iterator[SplatArrays]:
        """Yield all pieces in order, while the next ones are read by other threads."""
        return in_order(self.read, len(self.lengths))

    def each(self, function: Callable[[SplatArrays], T]) -> Iterator[T]:
        """Yield what a function makes of each piece, in order; the threads run it too."""
        return in_order(lambda n: function(self.read(n)), len(self.lengths))

    def mapped(
        self,
        function: Callable[[SplatArrays], SplatArrays],
        *,
        degree: int | None = None,
        frame: Frame | None = None,
    ) -> SplatStream:
        """Return the stream whose pieces are changed by a function that keeps their lengths.

        Args:
            function: what is done with each piece.
            degree: of the harmonics after that, if it differs.
            frame: axes after that, if they differ.
        """
        return replace(
            self,
            degree=self.degree if degree is None else degree,
            frame=self.frame if frame is None else frame,
            read=lambda n: function(self.read(n)),
        )

    def select(self, keep: NDArray[np.bool_]) -> SplatStream:
        """Return the stream of those Gaussians that a mask [N] names."""
        if keep.all():
            return self

        masks = np.split(keep, np.cumsum(self.lengths)[:-1])
        return replace(
            self,
            lengths=tuple(int(mask.sum()) for mask in masks),
            read=lambda n: self.read(n).select(masks[n]),
        )

    def with_degree(self, degree: int) -> SplatStream:
        """Return the same splat with harmonics of another degree: cut off, or filled with zeros.

        Raises:
            ConfigError: the degree is not 0, 1, 2 or 3.
        """
        coefficient_count(degree)
        if degree == self.degree:
            return self
        return self.mapped(lambda piece: piece.with_degree(degree), degree=degree)

    def gather(self) -> SplatArrays:
        """Return the whole splat in memory."""
        count = len(self)
        whole = self.empty().with_columns(
            {
                name: np.empty((count, *column.shape[1:]), np.float32)
                for name, column in self.empty().columns().items()
            }
        )
        starts = np.cumsum([0, *self.lengths])

        def fill(number: int) -> None:
            piece = self.read(number).columns()
            for name, column in whole.columns().items():
                column[starts[number] : starts[number + 1]] = piece[name]

        for _ in in_order(fill, len(self.lengths)):
            pass
        return whole


def joined(streams: Sequence[SplatStream]) -> SplatStream:
    """Return several streams one after the other.

    Args:
        streams: at least one, all of the same degree and axes.
    """
    lengths = tuple(length for stream in streams for length in stream.lengths)
    places = [(stream, n) for stream in streams for n in range(len(stream.lengths))]

    def read(number: int) -> SplatArrays:
        stream, piece = places[number]
        return stream.read(piece)

    return replace(
        streams[0],
        lengths=lengths,
        read=read,
        antialiased=any(stream.antialiased for stream in streams),
        comments=tuple(dict.fromkeys(text for stream in streams for text in stream.comments)),
        remarks=tuple(dict.fromkeys(text for stream in streams for text in stream.remarks)),
    )


def in_order(function: Callable[[int], T], count: int) -> Iterator[T]:
    """Yield function(0), function(1) ... in order, computed ahead by as many threads as there are for us."""
    workers = min(thread_count(), count)
    if workers < 2:
        yield from map(function, range(count))
        return

    with ThreadPoolExecutor(workers, thread_name_prefix="vlm3d-gs-splat") as pool:
        pending: deque[Future[T]] = deque()
        for number in range(count):
            pending.append(pool.submit(function, number))
            # One more than can run: a bound on the pieces in memory.
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
