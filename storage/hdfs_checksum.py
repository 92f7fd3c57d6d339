# SPDX-License-Identifier: Apache-2.0
"""The checksum that HDFS keeps of a file, taken of the bytes as they are sent.

HDFS stores one CRC32C for each 512 bytes and, asked for a file's checksum, answers with the MD5 of the MD5s of its
blocks' CRCs (``MD5-of-<CRCs in a block>MD5-of-<bytes of a CRC>CRC32C``) or with one CRC composed of all
(``COMPOSITE-CRC32C``).  Nothing but the checksum is sent back for it, no pixel.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from sys import byteorder
from typing import TYPE_CHECKING

import google_crc32c

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Bytes of one CRC, the default of ``dfs.bytes-per-checksum``.
CRC_BYTES = 512
_MD5_OF_MD5 = re.compile(r"MD5-of-\d+MD5-of-(\d+)CRC32C")
_COMPOSITE = "COMPOSITE-CRC32C"
# The answer's ``bytes``: bytes of a CRC (4 B), CRCs in a block (8 B), MD5 (16 B), and zeros.
_MD5_DIGITS = slice(24, 56)
# The NameNode's client digests its whole buffer of block MD5s: zeros up to a power of two, 32 bytes at least.
_LEAST_BUFFER_BYTES = 32


class SentChecksum:
    """CRCs of the bytes of one file; they take 1/128 of its size."""

    def __init__(self) -> None:
        self.n_bytes = 0
        self.crc32c = 0
        self._crcs = array("I")
        self._rest = b""

    def update(self, data: Buffer) -> None:
        """Go on with the next bytes of the file."""
        content = bytes(data)
        self.n_bytes += len(content)
        self.crc32c = google_crc32c.extend(self.crc32c, content)
        if self._rest:
            content = self._rest + content
        whole = len(content) - len(content) % CRC_BYTES
        value = google_crc32c.value
        self._crcs.extend([value(content[start : start + CRC_BYTES]) for start in range(0, whole, CRC_BYTES)])
        self._rest = content[whole:]

    def expected(self, algorithm: str, block_bytes: int) -> str | None:
        """Return the checksum that HDFS has of these bytes, in hexadecimal digits.

        Parameters
        ----------
        algorithm : str
            What HDFS calls the kind of its checksum.
        block_bytes : int
            The file's block size [B].

        Returns
        -------
        str or None
            None if it is of a kind that cannot be told from what was kept; `crc32c` of all bytes can then be
            compared with that of the file read back.
        """
        if algorithm == _COMPOSITE:
            return f"{self.crc32c:08x}"
        match = _MD5_OF_MD5.fullmatch(algorithm)
        if match is None or int(match[1]) != CRC_BYTES or block_bytes % CRC_BYTES or self.n_bytes == 0:
            return None
        crcs = array("I", self._crcs)
        if self._rest:
            crcs.append(google_crc32c.value(self._rest))
        if byteorder == "little":
            crcs.byteswap()
        stored, step = crcs.tobytes(), block_bytes // CRC_BYTES * crcs.itemsize
        blocks = b"".join(hashlib.md5(stored[at : at + step]).digest() for at in range(0, len(stored), step))
        size = _LEAST_BUFFER_BYTES
        while size < len(blocks):
            size *= 2
        return hashlib.md5(blocks.ljust(size, b"\0")).hexdigest()


def stored_checksum(algorithm: str, content: str) -> str:
    """Return the digest alone, in hexadecimal digits, from the ``bytes`` of HDFS's answer."""
    return content.lower()[:8] if algorithm == _COMPOSITE else content.lower()[_MD5_DIGITS]
