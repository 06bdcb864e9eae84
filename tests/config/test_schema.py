"""Constructors are the schema: every annotation YAML can express is checked without importing its module."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from omegaconf import OmegaConf

from tcurlora_seg.config.schema import _fits, constructor, flatten, validate
from tcurlora_seg.errors import UserError

UNETR = "tcurlora_seg.models.unetr.build_unetr"


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("int", [0, 7], [1.5, "1", True, None, [1]]),
        ("float", [1, 0.5], ["x", False, None]),
        ("str", ["a"], [1, None]),
        ("bool", [True], [1, "true"]),
        ("int | None", [3, None], ["a", 0.5]),
        ("list[int]", [[1, 2], []], [1, ["a"], [1, None]]),
        ("Sequence[float]", [[1, 0.5]], [["a"]]),
        ("tuple[int, int]", [[1, 2]], [[1], [1, 2, 3]]),
        ("tuple[int, ...]", [[1, 2, 3]], [["a"]]),
        ("Literal['a', 'b']", ["a"], ["c", 1]),
        ("Mapping[str, int]", [{"a": 1}], [[1]]),
        ("torch.Tensor", ["anything"], []),
    ],
)
def test_a_value_fits_its_annotation(annotation: str, good: list[Any], bad: list[Any]) -> None:
    expression = ast.parse(annotation, mode="eval").body
    assert all(_fits(value, expression) for value in good)
    assert not any(_fits(value, expression) for value in bad)


def test_the_schema_of_a_function_is_its_signature() -> None:
    assert {"in_channels", "img_size", "dropout_rate"} <= set(constructor(UNETR))


def check(node: dict[str, Any], default: dict[str, Any] | None = None) -> None:
    validate(OmegaConf.create({"x": node}), OmegaConf.create({"x": node if default is None else default}))


def test_a_key_that_the_constructor_lacks_is_named_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match=r"'x\.hiden_size'.*did you mean 'hidden_size'"):
        check({"_target_": UNETR, "hiden_size": 8})


def test_a_value_of_the_wrong_type_is_named_with_what_was_expected() -> None:
    with pytest.raises(UserError, match=r"x\.hidden_size='big'.*int"):
        check({"_target_": UNETR, "hidden_size": "big"})


def test_the_keys_of_a_mapping_that_a_constructor_takes_are_the_users_own() -> None:
    target = "tcurlora_seg.data.datasets.folder.Folder"
    check({"_target_": target, "classes": {"left": [1], "right": 2}}, {"_target_": target, "classes": "???"})


def test_a_mapping_that_a_constructor_takes_may_have_any_keys() -> None:
    tensor = {"_target_": "tcurlora_seg.adapters.tenslora.TensLoRA", "rank": 4, "ranks": None}
    check({**tensor, "ranks": {"in": 8}}, tensor)
    with pytest.raises(UserError, match=r"x\.ranks=8"):
        check({**tensor, "ranks": 8}, tensor)


def test_keys_of_other_packages_are_held_to_the_type_of_their_default() -> None:
    check({"max_steps": 5, "rate": 1, "precision": 16}, {"max_steps": 3, "rate": 0.1, "precision": "auto"})
    with pytest.raises(UserError, match=r"x\.max_steps='many'.*whole number"):
        check({"max_steps": "many"}, {"max_steps": 3})


def test_a_mandatory_value_is_asked_for() -> None:
    with pytest.raises(UserError, match=r"needed: x\.path="):
        check({"path": "???"})
    check({"path": "given"}, {"path": "???"})


def test_an_unknown_target_is_refused() -> None:
    for target in ("tcurlora_seg.nothing.X", "tcurlora_seg.models.unetr.Nothing"):
        with pytest.raises(UserError, match="_target_"):
            check({"_target_": target})


def test_flatten_gives_every_leaf_once() -> None:
    config = OmegaConf.create({"a": {"b": 1, "c": {}}, "d": [1, 2], "e": "${a.b}"})
    assert flatten(config) == {"a.b": 1, "a.c": {}, "d": [1, 2], "e": 1}
