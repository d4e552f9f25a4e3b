"""PNGs for tests, put together by hand where no library would write them."""

import struct
import zlib


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(rows: bytes, *, width: int = 4, height: int = 4, extra: bytes = b"") -> bytes:
    """A grey PNG of such rows, each led by the byte of its filter, with `extra` chunks before them."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
