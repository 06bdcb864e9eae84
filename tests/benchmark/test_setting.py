from __future__ import annotations

import pytest

from tcurlora_seg.benchmark import setting
from tcurlora_seg.benchmark.setting import read_settings
from tcurlora_seg.errors import UserError


def test_a_contestant_takes_the_common_settings_unless_it_has_its_own():
    settings = read_settings({"lora": {"rank": 4}, "two": {"method": "tcurlora"}}, {"rank": 8, "side": 64})
    assert (settings["lora"].method, settings["lora"].rank, settings["lora"].side) == ("lora", 4, 64)
    assert (settings["two"].method, settings["two"].rank) == ("tcurlora", 8)


def test_unknown_settings_and_a_missing_peft_are_told(monkeypatch):
    with pytest.raises(UserError, match="lora has no setting 'rnk'"):
        read_settings({"lora": {"rnk": 4}}, {})
    with pytest.raises(UserError, match="empty"):
        read_settings({}, {})
    monkeypatch.setattr(setting, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"theirs needs PEFT: pip install peft"):
        read_settings({"theirs": {"method": "peft_lora"}}, {})
