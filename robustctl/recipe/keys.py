"""The keys that a recipe may have, dotted as ``--set`` takes them. No torch here."""

from pydantic import BaseModel

from robustctl import discovery
from robustctl.recipe.read import METHODS
from robustctl.recipe.schema import Settings
from robustctl.yaml_faults import models_in


def recipe_keys() -> list[str]:
    """Every key of every block, sorted; the method's block has the keys of all methods."""
    found = {f"method.{key}" for name in discovery.names(METHODS) for key in _config(name).model_fields}
    return sorted(found | set(_keys(Settings, "")))


def _config(name: str) -> type[BaseModel]:
    config: type[BaseModel] = discovery.load(METHODS, name, "method").Config
    return config


def _keys(model: type[BaseModel], prefix: str) -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        inner = [key for block in models_in(field.annotation) for key in _keys(block, f"{prefix}{name}.")]
        found += inner or [f"{prefix}{name}"]
    return found
