"""Compression on the way in and out of the ClickHouse stand-in, in streams, with a bound on what one step inflates to.

gzip, deflate, zstd and lz4 frames, chosen by Content-Encoding and Accept-Encoding: the four clickhouse-connect and curl
use. ClickHouse's own block framing (`compress=1`) belongs to its native clients and is refused by the caller.
"""

import zlib
from collections.abc import Iterator
from typing import Any

import lz4.frame  # type: ignore[import-untyped]
import zstandard

PIECE_BYTES_MAX = 1 << 20  # what one step inflates to, where the codec lets us say so
ZSTD_STEP_BYTES = 1 << 10  # zstd has no such bound; 1 KiB in inflates to 32 MiB at the very worst
ZSTD_WINDOW_BYTES = 128 << 20  # the window of `zstd --ultra --long=27`; a larger one is refused
GZIP_WINDOW = 31  # zlib's window bits for a gzip member
ZLIB_OR_GZIP_WINDOW = 47  # the same, header detected: deflate bodies come both ways
PREFERRED = ("zstd", "lz4", "gzip", "deflate")
DECODING_ERRORS: tuple[type[Exception], ...] = (zlib.error, zstandard.ZstdError, RuntimeError, EOFError)


class Inflater:
    """Decodes one request body. `feed` gives pieces of bounded size; `ended` says whether the stream was whole."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._decoder = self._new()
        self._fed = False

    def _new(self) -> Any:
        if self._encoding == "zstd":
            return zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).decompressobj()
        if self._encoding == "lz4":
            return lz4.frame.LZ4FrameDecompressor()
        return zlib.decompressobj(ZLIB_OR_GZIP_WINDOW)

    @property
    def ended(self) -> bool:
        """False while the last frame is cut short."""
        return not self._fed or bool(self._decoder.eof)

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Decode a chunk, cut anywhere. A frame may follow a frame, as gzip, zstd and lz4 allow."""
        step = ZSTD_STEP_BYTES if self._encoding == "zstd" else len(chunk) or 1
        for start in range(0, len(chunk), step):
            part = chunk[start : start + step]
            while part:
                if self._decoder.eof:
                    self._decoder = self._new()
                self._fed = True
                yield from self._decode(part)
                part = (self._decoder.unused_data or b"") if self._decoder.eof else b""

    def _decode(self, part: bytes) -> Iterator[bytes]:
        if self._encoding == "zstd":
            yield self._decoder.decompress(part)
        elif self._encoding == "lz4":
            yield self._decoder.decompress(part, PIECE_BYTES_MAX)
            while not (self._decoder.eof or self._decoder.needs_input):
                yield self._decoder.decompress(b"", PIECE_BYTES_MAX)
        else:
            while part:
                yield self._decoder.decompress(part, PIECE_BYTES_MAX)
                part = self._decoder.unconsumed_tail


class Deflater:
    """Encodes one response body."""

    def __init__(self, encoding: str) -> None:
        self._encoder: Any
        self._head = b""
        if encoding == "zstd":
            self._encoder = zstandard.ZstdCompressor(level=1).compressobj()
        elif encoding == "lz4":
            self._encoder = lz4.frame.LZ4FrameCompressor()
            self._head = self._encoder.begin()
        else:
            self._encoder = zlib.compressobj(1, zlib.DEFLATED, GZIP_WINDOW if encoding == "gzip" else zlib.MAX_WBITS)

    def feed(self, chunk: bytes) -> bytes:
        """Encode a chunk."""
        head, self._head = self._head, b""
        return head + bytes(self._encoder.compress(chunk))

    def finish(self) -> bytes:
        """The rest and the end mark."""
        head, self._head = self._head, b""
        return head + bytes(self._encoder.flush())


def accepted_encoding(header: str) -> str | None:
    """The encoding we like best among those the client accepts; None when it accepts none of ours."""
    offered = {}
    for part in header.lower().split(","):
        name, _, parameters = part.partition(";")
        offered[name.strip()] = parameters.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return next((name for name in PREFERRED if offered.get(name, False)), None)
