from __future__ import annotations

from collections.abc import Callable

import pytest
from programs import run_script


@pytest.fixture
def predict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A function that runs the script and gives exit code, output and errors."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run_script("predict", *arguments, "device=cpu", monkeypatch=monkeypatch)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
