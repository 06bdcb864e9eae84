"""Output on terminals that take ASCII only and into pipes that nobody reads any more."""

from __future__ import annotations

import subprocess
import sys

import pytest

PRELUDE = "from tcurlora_seg.config.terminal import tolerate; tolerate(); tolerate()\n"


def run(code: str, *, encoding: str = "utf-8", **options: object) -> subprocess.Popen[bytes]:
    environment = {"PYTHONIOENCODING": encoding, "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", PRELUDE + code], env=environment, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize(("encoding", "expected"), [("ascii", b"0.8 +- 0.1 ?\n"), ("utf-8", "0.8 ± 0.1 µ\n".encode())])
def test_what_a_terminal_cannot_show_is_replaced(encoding: str, expected: bytes) -> None:
    process = run("print('0.8 ± 0.1 µ')", encoding=encoding, stdout=subprocess.PIPE)
    assert process.communicate()[0] == expected and process.returncode == 0


def test_a_closed_pipe_is_no_failure() -> None:
    code = "import sys\nfor i in range(100_000): print(i)\nprint('done', file=sys.stderr)"
    process = run(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b"done\n" and process.wait() == 0


def test_a_warning_to_the_user_is_one_line_and_others_keep_their_place() -> None:
    code = "import warnings\nfrom tcurlora_seg.config.terminal import shorten_warnings; shorten_warnings()\n"
    code += "warnings.warn('no voxel of tail was predicted')\nwarnings.warn('old', FutureWarning)"
    said = run(code, stderr=subprocess.PIPE).communicate()[1].decode()
    assert said.startswith("warning: no voxel of tail was predicted\n<string>:5: FutureWarning: old")
