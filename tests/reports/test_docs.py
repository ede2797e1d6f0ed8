from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")


def test_the_example_of_the_docs_writes_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", Path("docs/reports.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert "Before and after" in (tmp_path / "report" / "index.html").read_text()
