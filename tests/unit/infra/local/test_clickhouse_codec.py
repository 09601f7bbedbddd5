"""Compressed bodies: cut anywhere, several frames in a row, and never more at once than the bound."""

import gzip
import zlib

import lz4.frame
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from infra.local.clickhouse_codec import PIECE_BYTES_MAX, Deflater, Inflater, accepted_encoding

PACK = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstandard.compress, "lz4": lz4.frame.compress}
ENCODINGS = sorted(PACK)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(bodies=st.lists(st.binary(max_size=5_000), min_size=1, max_size=3), cut=st.integers(1, 700))
def test_what_was_packed_comes_out_whole(encoding: str, bodies: list[bytes], cut: int) -> None:
    """Whatever the cuts and the number of frames, the bytes are the same, and the end is known."""
    packed = b"".join(map(PACK[encoding], bodies))
    inflater = Inflater(encoding)
    pieces = [piece for at in range(0, len(packed), cut) for piece in inflater.feed(packed[at : at + cut])]
    assert b"".join(pieces) == b"".join(bodies)
    assert inflater.ended
    short = Inflater(encoding)
    list(short.feed(packed[:-1]))
    assert not short.ended


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_bomb_comes_out_in_bounded_pieces(encoding: str) -> None:
    """100 MB of zeros in a small body never stand in memory at once."""
    bound = 32 << 20 if encoding == "zstd" else PIECE_BYTES_MAX
    sizes = [len(piece) for piece in Inflater(encoding).feed(PACK[encoding](bytes(100 << 20)))]
    assert (sum(sizes), max(sizes) <= bound) == (100 << 20, True)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(chunks=st.lists(st.binary(max_size=3_000), max_size=5))
def test_what_we_pack_is_what_we_read(encoding: str, chunks: list[bytes]) -> None:
    """An answer packed in chunks is one stream that any decoder reads."""
    deflater = Deflater(encoding)
    packed = b"".join(map(deflater.feed, chunks)) + deflater.finish()
    inflater = Inflater(encoding)
    assert b"".join(inflater.feed(packed)) == b"".join(chunks)
    assert inflater.ended


@pytest.mark.parametrize(
    ("header", "chosen"),
    [("", None), ("br", None), ("gzip", "gzip"), ("lz4, zstd;q=0", "lz4"), ("gzip, zstd;q=0.5", "zstd"), ("*", None)],
)
def test_only_what_the_client_accepts_is_sent(header: str, chosen: str | None) -> None:
    """A client that did not name an encoding never has to decode it."""
    assert accepted_encoding(header) == chosen
