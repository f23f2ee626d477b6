"""Reading a source piece by piece, to exactly the size that was declared."""

from collections.abc import Iterator

from node.storage.errors import SizeMismatch
from node.storage.interface import CHUNK, ByteSource


def pieces(source: ByteSource, size: int) -> Iterator[bytes]:
    """Yield the source in pieces of at most 256 KiB; raises SizeMismatch when it ends before ``size`` bytes or goes on after."""
    left = size
    while left:
        piece = source.read(min(CHUNK, left))
        if not piece:
            raise SizeMismatch("The content ended before its declared size")
        left -= len(piece)
        yield piece
    if source.read(1):
        raise SizeMismatch("The content goes on after its declared size")
