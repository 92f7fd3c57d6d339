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
from itertools import starmap
from struct import iter_unpack
from sys import byteorder
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Buffer

#: Bytes of one CRC, the default of ``dfs.bytes-per-checksum``.
CRC_BYTES = 512
_CRC_FORMAT = f"{CRC_BYTES}s"
_MD5_OF_MD5 = re.compile(r"MD5-of-\d+MD5-of-(\d+)CRC32C")
_COMPOSITE = "COMPOSITE-CRC32C"
# The answer's ``bytes``: bytes of a CRC (4 B), CRCs in a block (8 B), MD5 (16 B), and zeros.
_MD5_DIGITS = slice(24, 56)
# The polynomial of CRC32C, its lowest power in the highest bit.
_POLYNOMIAL = 0x82F63B78
# The NameNode's client digests its whole buffer of block MD5s: zeros up to a power of two, 32 bytes at least.
_LEAST_BUFFER_BYTES = 32


class SentChecksum:
    """CRCs of the bytes of one file; they take 1/128 of its size."""

    def __init__(self) -> None:
        self.n_bytes = 0
        self._crcs = array("I")
        self._rest = b""

    @property
    def crc32c(self) -> int:
        """CRC32C of all bytes so far, put together from those that were kept."""
        return int(google_crc32c.extend(_composed(np.array(self._crcs, dtype=np.uint32)), self._rest))

    def update(self, data: Buffer) -> None:
        """Go on with the next bytes of the file."""
        content = memoryview(data).cast("B")
        self.n_bytes += len(content)
        if self._rest:
            content = memoryview(self._rest + content)
        whole = len(content) - len(content) % CRC_BYTES
        self._crcs.extend(starmap(google_crc32c.value, iter_unpack(_CRC_FORMAT, content[:whole])))
        self._rest = bytes(content[whole:])

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


def _composed(crcs: NDArray[np.uint32]) -> int:
    """CRC32C of the bytes of whose pieces of `CRC_BYTES`, one after the other, these are the CRCs.

    The CRC of two pieces is that of the first, as if zeros had followed it, plus that of the second (sums have no
    carry); neighbours are joined until one is left.  Zeros are a product with a matrix of 32 x 32 bits, whose columns
    are kept as numbers; its square stands for twice as many.
    """
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    zeros = np.concatenate([np.array([_POLYNOMIAL], dtype=np.uint32), bits[:-1]])  # one bit of 0
    for _ in range((8 * CRC_BYTES).bit_length() - 1):
        zeros = _product(zeros, zeros)
    while len(crcs) > 1:
        if len(crcs) % 2:
            crcs = np.concatenate([np.zeros(1, dtype=np.uint32), crcs])  # as the CRC of nothing is
        crcs = _product(zeros, crcs[0::2]) ^ crcs[1::2]
        zeros = _product(zeros, zeros)
    return int(crcs[0]) if len(crcs) else 0


def _product(matrix: NDArray[np.uint32], values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Products of a matrix of bits, its columns as numbers, and values, without carry."""
    found = np.zeros(len(values), dtype=np.uint32)
    for bit, column in enumerate(matrix):
        found ^= ((values >> np.uint32(bit)) & np.uint32(1)) * column
    return found
