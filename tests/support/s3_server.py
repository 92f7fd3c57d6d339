# SPDX-License-Identifier: Apache-2.0
"""A server that speaks S3 on loopback (moto's), as a process of its own."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

from local_cluster.ports import free_ports
from tests.support.peers import require_peer
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

#: For the environment of whoever talks to the server.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def require_s3() -> None:
    """Go on if server and client are installed."""
    require_peer("moto", importlib.util.find_spec("moto") is not None, "install the extra conepacs[dev]")
    require_peer("s3fs", importlib.util.find_spec("s3fs") is not None, "install the extra conepacs[s3]")


class S3Server:
    """The process; use it as a context manager.  Its buckets are in its memory."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "s3.log"
        self.endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"

    def __enter__(self) -> S3Server:
        port = self.endpoint.rpartition(":")[2]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port], stdout=log, stderr=log
            )
        try:
            wait_until("the S3 server answers", self._listens, bool, timeout_s=120.0)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def make_bucket(self) -> str:
        """Make a bucket and return the URL of a store in it."""
        import s3fs

        name = f"bucket-{uuid.uuid4().hex[:12]}"
        files = s3fs.S3FileSystem(
            endpoint_url=self.endpoint, key=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            secret=CREDENTIALS["AWS_SECRET_ACCESS_KEY"], client_kwargs={"region_name": "us-east-1"},
        )  # fmt: skip
        files.call_s3("create_bucket", Bucket=name)
        return f"s3://{name}?endpoint={self.endpoint}"

    def _listens(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"the S3 server ended: {self._log.read_text(errors='replace')[-2000:]}")
        socket.create_connection(("127.0.0.1", int(self.endpoint.rpartition(":")[2])), 5).close()
        return True

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
