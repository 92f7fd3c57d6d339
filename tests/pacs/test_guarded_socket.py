# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs.guarded_socket import GuardedSocket


def pdu(n_bytes, announced=None):
    return struct.pack(">BBL", 4, 0, n_bytes if announced is None else announced) + b"\xff" * n_bytes


@given(st.lists(st.integers(0, 50), max_size=8), st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_everything_within_the_limit_passes_whatever_the_pieces(lengths, pieces):
    stream = b"".join(pdu(length) for length in lengths)
    ours, peer = socket.socketpair()
    with ours, peer:
        peer.sendall(stream)
        peer.shutdown(socket.SHUT_WR)
        guarded = GuardedSocket(ours, 50)
        got = b""
        for turn in range(10_000):
            piece = guarded.recv(pieces[turn % len(pieces)])
            if not piece:
                break
            got += piece
        assert got == stream


@given(st.lists(st.integers(0, 50), max_size=4), st.integers(1, 40))
def test_a_pdu_that_announces_too_much_ends_the_connection(lengths, piece):
    ours, peer = socket.socketpair()
    with ours, peer:
        peer.sendall(b"".join(pdu(length) for length in lengths) + pdu(10, announced=51))
        guarded = GuardedSocket(ours, 50)

        def read_all():
            while guarded.recv(piece):
                pass

        with pytest.raises(ConnectionAbortedError, match="PDU of 51 bytes, expected at most 50"):
            read_all()
        assert guarded.fileno() == ours.fileno()
