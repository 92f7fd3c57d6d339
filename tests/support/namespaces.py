# SPDX-License-Identifier: Apache-2.0
"""A network namespace with one link to this machine, which can be cut."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.support.peers import require_peer

if TYPE_CHECKING:
    from types import TracebackType


def require_namespaces() -> None:
    """Go on if namespaces can be made."""
    require_peer("ip", shutil.which("ip") is not None, "install iproute2")
    name = f"conepacs-{secrets.token_hex(3)}"
    made = os.geteuid() == 0 and _try(["ip", "netns", "add", name])
    if made:
        _try(["ip", "netns", "delete", name])
    require_peer("network namespaces", made, "run as root, with the right to make network namespaces")


class Link:
    """A pair of virtual interfaces between this machine and a namespace; use it as a context manager.

    Attributes
    ----------
    address : of this machine on the link.
    inside : what to put before a command so that it runs in the namespace.
    """

    def __init__(self) -> None:
        mark = secrets.token_hex(3)
        # A net of four addresses out of those that are for private use.
        net = secrets.randbelow(64)
        self.namespace = f"conepacs-{mark}"
        self._here, self._there = f"cp{mark}a", f"cp{mark}b"
        self.address, self._other = f"10.203.77.{4 * net + 1}", f"10.203.77.{4 * net + 2}"
        self.inside = ["ip", "netns", "exec", self.namespace]

    def __enter__(self) -> Link:
        _run("ip", "netns", "add", self.namespace)
        try:
            _run("ip", "link", "add", self._here, "type", "veth", "peer", "name", self._there)
            _run("ip", "link", "set", self._there, "netns", self.namespace)
            _run("ip", "address", "add", f"{self.address}/30", "dev", self._here)
            _run("ip", "link", "set", self._here, "up")
            _run(*self.inside, "ip", "address", "add", f"{self._other}/30", "dev", self._there)
            _run(*self.inside, "ip", "link", "set", "lo", "up")
            _run(*self.inside, "ip", "link", "set", self._there, "up")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def down(self) -> None:
        """Cut the link at the namespace's end; the addresses stay."""
        _run(*self.inside, "ip", "link", "set", self._there, "down")

    def up(self) -> None:
        """Restore the link."""
        _run(*self.inside, "ip", "link", "set", self._there, "up")

    def _remove(self) -> None:
        _try(["ip", "link", "delete", self._here])
        _try(["ip", "netns", "delete", self.namespace])


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _try(command: list[str]) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
