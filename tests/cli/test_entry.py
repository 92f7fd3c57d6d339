# SPDX-License-Identifier: Apache-2.0
import sys

import pytest

from cli import entry
from cli.errors import INTERRUPTED


def test_an_interrupt_while_modules_are_imported(monkeypatch, capsys):
    class Interrupting:
        def find_spec(self, name, *_):
            if name == "cli.main":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "cli.main", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == INTERRUPTED
    assert capsys.readouterr().err == "conepacs: interrupted\n"
