"""What the shell completes in the options of several commands."""


def model_names(incomplete: str) -> list[str]:
    """The models that can be named and begin so; for the shell's tab completion."""
    from robustctl.models.find import entry_files, pulled

    return [name for name in [*entry_files(), *pulled()] if name.startswith(incomplete)]


def architectures(incomplete: str) -> list[str]:
    """The architectures that begin so; for the shell's tab completion."""
    from robustctl import discovery

    return [name for name in discovery.names("robustctl.architectures") if name.startswith(incomplete)]


def recipe_names(incomplete: str) -> list[str]:
    """The recipes that begin so; for the shell's tab completion."""
    from robustctl.recipe import read as recipe

    return [name for name in recipe.names() if name.startswith(incomplete)]
