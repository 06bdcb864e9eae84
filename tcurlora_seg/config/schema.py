"""Schema validation of a composed configuration, before torch is imported.

Constructors are the schema. Those of this package are read from their source with `ast`, so that a misspelt key or a
value of the wrong type is found in milliseconds. Keys of other packages' classes are held to the type of the default in
the YAML file.
"""

from __future__ import annotations

import ast
import difflib
from functools import cache
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tcurlora_seg.config.paths import PACKAGE
from tcurlora_seg.errors import UserError

OWN_NAMES = ("adapter.stacks.", "contest.contestants.", "training.lr_factors.")
"""Mappings in which the user may add keys."""
_HYDRA_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of a configuration as {dotted key: value}, with interpolations resolved.

    Empty mappings and lists are leaves, and a missing mandatory value stays `???`.

    Args:
        config: a mapping.
        prefix: put before every key.
    """
    leaves: dict[str, Any] = {}
    for key in config:
        name = f"{prefix}{key}"
        value = "???" if OmegaConf.is_missing(config, key) else config[key]
        if isinstance(value, DictConfig) and len(value):
            leaves.update(flatten(value, name + "."))
        else:
            leaves[name] = OmegaConf.to_container(value) if isinstance(value, DictConfig | ListConfig) else value
    return leaves


def validate(config: DictConfig, defaults: DictConfig) -> None:
    """Check every key and value of a configuration.

    Args:
        config: the composed configuration.
        defaults: the same configuration without the values of the command line.

    Raises:
        UserError: a key that no constructor takes, or a value of the wrong type.
    """
    try:
        values, given = flatten(config), flatten(defaults)
    except OmegaConfBaseException as error:
        raise UserError(f"the configuration cannot be resolved: {str(error).splitlines()[0]}") from error
    missing = [key for key, value in values.items() if value == "???"]
    if missing:
        raise UserError(f"a value is needed: {missing[0]}=...")
    checked = _check_nodes(config, "")
    inside = tuple(f"{key}." for key in checked)  # of a mapping that its constructor has accepted
    for key, value in values.items():
        default = given.get(key)
        replaced = key.rpartition(".")[0] in given  # a mapping in the place of one value, such as null
        known = key in given or key in checked or key.startswith(inside) or replaced
        if not known and not _open(config, key):
            raise UserError(f"there is no key '{key}'; --cfg job lists them")
        if key in checked or default is None:
            continue
        needed = isinstance(default, bool | int | float) and not key.startswith("adapter.") and not _open(config, key)
        if needed if value is None else not _same_kind(value, default):
            raise _wrong_type(key, value, _kind(default))


def _open(config: DictConfig, key: str) -> bool:
    """Whether a key may be new: in a stack or contestant of the user's, or for another package's constructor."""
    if key.startswith(OWN_NAMES):
        return True
    parent = OmegaConf.select(config, key.rpartition(".")[0]) if "." in key else None
    return isinstance(parent, DictConfig) and "_target_" in parent


def _check_nodes(node: Any, path: str) -> set[str]:
    """Check each node with a `_target_` of this package; return the dotted keys that were checked."""
    checked: set[str] = set()
    if not isinstance(node, DictConfig):
        return checked
    target = node.get("_target_")
    if isinstance(target, str) and target.startswith("tcurlora_seg."):
        signature = constructor(target)
        for key in node:
            if key in _HYDRA_KEYS:
                continue
            key = str(key)
            name = f"{path}{key}"
            if key not in signature:
                near = difflib.get_close_matches(key, signature, n=1)
                hint = f"did you mean '{near[0]}'?" if near else "it takes " + ", ".join(signature)
                raise UserError(f"there is no key '{name}': {target.rsplit('.', 1)[1]} does not take it; {hint}")
            annotation, value = signature[key], node[key]
            if isinstance(value, DictConfig) and "_target_" in value:
                continue  # built by its own constructor, and checked below
            plain = OmegaConf.to_container(value) if isinstance(value, DictConfig | ListConfig) else value
            check_value(name, plain, annotation)
            checked.add(name)
            if isinstance(plain, dict):  # a mapping whose keys are the user's own
                checked.update(flatten(value, name + "."))
    for key in node:
        checked |= _check_nodes(node[key], f"{path}{key!s}.")
    return checked


def check_value(name: str, value: Any, annotation: ast.expr | None) -> None:
    """Check a plain value of a configuration against the annotation of its argument.

    Args:
        name: of the key, for the message.
        value: as YAML has it.
        annotation: see `constructor`.

    Raises:
        UserError: it is of another type, or none of the words that are known.
    """
    if annotation is not None and not _fits(value, annotation):
        raise _wrong_type(name, value, ast.unparse(annotation))


@cache
def constructor(target: str) -> dict[str, ast.expr | None]:
    """Arguments of a class or function of this package with their annotations, read without importing it.

    Raises:
        UserError: the dotted path names nothing in this package.
    """
    module, _, name = target.rpartition(".")
    path = PACKAGE.parent.joinpath(*module.split("."))
    source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    if not source.is_file():
        raise UserError(f"_target_ {target}: there is no module {module}")
    for item in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(item, ast.FunctionDef) and item.name == name:
            return _arguments(item)
        if isinstance(item, ast.ClassDef) and item.name == name:
            for part in item.body:
                if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                    return _arguments(part)
            return {  # a dataclass: its annotated fields
                part.target.id: part.annotation
                for part in item.body
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
            }
    raise UserError(f"_target_ {target}: {module} has no {name}")


def _arguments(function: ast.FunctionDef) -> dict[str, ast.expr | None]:
    arguments = [*function.args.args, *function.args.kwonlyargs]
    return {argument.arg: argument.annotation for argument in arguments if argument.arg != "self"}


_KINDS: dict[str, Any] = {
    "int": int, "float": (int, float), "str": str, "bool": bool, "dict": dict, "Mapping": dict,
    **dict.fromkeys(("list", "tuple", "Sequence"), (list, tuple)),
}  # fmt: skip
"""Names in annotations -> types of plain YAML values."""


def _fits(value: Any, annotation: ast.expr) -> bool:
    """Whether a plain YAML value fits an annotation; everything fits one that YAML cannot express."""
    if isinstance(annotation, ast.BinOp):  # X | Y
        return _fits(value, annotation.left) or _fits(value, annotation.right)
    if isinstance(annotation, ast.Constant):
        return value is None
    inner = annotation.slice if isinstance(annotation, ast.Subscript) else None
    name = ast.unparse(annotation.value if isinstance(annotation, ast.Subscript) else annotation)
    arguments = inner.elts if isinstance(inner, ast.Tuple) else [] if inner is None else [inner]
    if name == "Literal":
        return value in [ast.literal_eval(option) for option in arguments]
    if name not in _KINDS:
        return True
    if not isinstance(value, _KINDS[name]) or (isinstance(value, bool) and name != "bool"):
        return False
    items = [item for item in arguments if ast.unparse(item) != "..."]
    if name in ("dict", "Mapping") or not items:
        return True
    if len(items) > 1:
        return len(value) == len(items) and all(map(_fits, value, items))
    return all(_fits(item, items[0]) for item in value)


def _same_kind(value: Any, default: Any) -> bool:
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return default in ("auto", "???") or isinstance(value, type(default))


def _kind(default: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list"}
    return names.get(type(default), "a mapping")


def _wrong_type(key: str, value: Any, expected: str) -> UserError:
    return UserError(f"{key}={'null' if value is None else repr(value)} is not what was expected: {expected}")
