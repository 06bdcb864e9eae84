"""docs/licences.md names every pinned release."""

from __future__ import annotations

from licences import ROOT, pinned


def test_every_pinned_release_is_listed_with_a_licence() -> None:
    rows = [line.strip("| ").split(" | ") for line in (ROOT / "docs/licences.md").read_text("utf-8").splitlines()
            if line.startswith("| ")][1:]  # fmt: skip
    assert [(name, release) for name, release, _ in rows] == pinned()
    assert all(licence not in ("", "not said", "not installed here") for _, _, licence in rows)
