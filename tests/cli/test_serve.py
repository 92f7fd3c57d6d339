# SPDX-License-Identifier: Apache-2.0
"""`conepacs serve` as a process: answers by DICOM and HTTP, and ends cleanly."""

from __future__ import annotations

import json
import re
import signal
import socket
import urllib.request

import pytest

from tests.support.command_line import conepacs, start_conepacs
from tests.support.dicom_objects import make_ct, part10


def test_it_answers_and_ends_cleanly(working_folder, capsys):
    slice_path = working_folder / "slice.dcm"
    slice_path.write_bytes(part10(make_ct()))
    with start_conepacs("serve", "--dicom-port", 0, "--http-port", 0, "--ae-title", "LAB", folder=working_folder) as it:
        try:
            dicom, http = it.stdout.readline(), it.stdout.readline()
            peer = re.fullmatch(r"DICOM: (LAB@127\.0\.0\.1:\d+)\n", dicom)[1]
            page, web = re.fullmatch(
                r"page: (http://127\.0\.0\.1:\d+/)  DICOMweb: (http://\S+/dicom-web)\n", http
            ).groups()
            assert "stop with Ctrl-C" in it.stdout.readline()
            assert "LAB at 127.0.0.1" in conepacs(capsys, "pacs", "echo", peer).out
            assert conepacs(capsys, "pacs", "send", peer, slice_path).code == 0
            with urllib.request.urlopen(page, timeout=30) as answer:
                assert b"<html" in answer.read().lower()
            with urllib.request.urlopen(f"{web}/studies", timeout=30) as answer:
                (study,) = json.load(answer)
            assert study["0020000D"]["Value"] == ["1.2.826.1.1"]
            it.send_signal(signal.SIGINT)
            out, err = it.communicate(timeout=30)
        finally:
            it.kill()
    assert (it.returncode, out, err) == (0, "stopped\n", "")


def test_a_service_manager_ends_it_as_cleanly(working_folder):
    with start_conepacs("serve", "--dicom-port", 0, "--http-port", 0, folder=working_folder) as it:
        try:
            assert [it.stdout.readline() for _ in range(3)][2] == "stop with Ctrl-C\n"
            it.terminate()
            out, err = it.communicate(timeout=30)
        finally:
            it.kill()
    assert (it.returncode, out, err) == (0, "stopped\n", "")


@pytest.mark.parametrize(("option", "service"), [("--dicom-port", "DICOM"), ("--http-port", "HTTP")])
def test_a_taken_port_is_one_sentence(option, service, capsys, working_folder):
    other = "--http-port" if option == "--dicom-port" else "--dicom-port"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        outcome = conepacs(capsys, "serve", option, port, other, 0)
    outcome.failed_with(4, f"{service} cannot listen on 127.0.0.1 port {port}", "in use")


def test_an_address_of_another_machine_is_refused(capsys):
    outcome = conepacs(capsys, "serve", "--host", "192.0.2.1", "--dicom-port", 0, "--http-port", 0)
    outcome.failed_with(4, "192.0.2.1")
