"""How ``--help`` is arranged: commands and options in panels, and three examples below each command."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

import typer
from typer.models import ArgumentInfo, CommandInfo, OptionInfo

from robustctl.cli.completion import completion

COMMANDS = {
    "Train and evaluate": ("quickstart", "finetune", "train", "eval", "certify", "study"),
    "Results": ("table", "compare", "report", "plot"),
    "Models, recipes, runs": ("models", "recipes", "runs"),
    "Publish and check": ("pull", "push", "propose", "verify", "leaderboard"),
    "This machine": ("doctor", "bench"),
}
OPTIONS = {
    "Images": ("data", "split", "columns", "classes", "n", "corrupted"),
    "Model": ("model_code", "weights", "new_head", "arch", "architecture"),
    "Threats and attacks": ("union", "union_only", "norms", "eps", "attack", "x_adv", "suite", "threat"),
    "Intermediate-q robustness": (
        *("intermediate_q", "distribution", "estimator", "grid", "samples", "most_samples", "leapfrog", "chains"),
        "probacc",
    ),
    "Recipe": ("recipe", "overrides", "seed"),
    "Machine": (
        "device",
        "devices",
        "precision",
        "batch_size",
        "jobs",
        "processes",
        "executor",
        "slurm",
        "tensorboard",
    ),
    "Run": ("out", "max_steps", "resume", "dry_run", "force"),
    "Hub": ("push", "licence", "repo", "private", "token", "allow_flags"),
    "Output": ("json", "format", "rows", "sort", "output", "markdown", "against"),
}
EXAMPLES = {
    "quickstart": ("quickstart", "--quiet quickstart", "quickstart --help"),
    "finetune": (
        "finetune digits-linf --recipe e-at",
        "finetune digits-linf --recipe ramp --set train.epochs=30 --dry-run",
        "finetune digits-linf --recipe e-at,ramp --seed 0,1,2 --dry-run",
    ),
    "train": (
        "train kw-small --recipe digits/linf-at",
        "train kw-small --recipe digits/e-at --dry-run",
        "train --resume",
    ),
    "eval": (
        "eval digits-linf --n 50",
        "eval digits-linf --eps linf:0.1,l1:1 --attack fast --n 50",
        "eval digits-linf --norms linf --attack fast --n 20 --json -",
    ),
    "certify": (
        "certify digits-linf --norms linf --eps linf:0.05 --n 20",
        "certify digits-linf --norms linf --eps linf:0.06 --n 5 --exact 10",
        "certify digits-linf --norms l2 --eps l2:0.1 --n 10 --json -",
    ),
    "study": ("study study.yaml --dry-run", "study study.yaml --jobs 2", "study study.yaml --devices cpu"),
    "table": (
        "table before.json after.json --against digits-linf",
        "table before.json after.json --format latex",
        "table before.json --columns clean,union --format csv",
    ),
    "compare": (
        "compare before.json after.json",
        "compare before.json after.json --markdown",
        "compare before.json after.json before.json",
    ),
    "report": ("report before.json after.json", "report before.json -o page.html", "report before.json -o points.csv"),
    "plot q-curve": (
        "plot q-curve curve.json -o curve.png",
        "plot q-curve curve.json curve.json --label before --label after -o both.svg",
        "plot q-curve --help",
    ),
    "plot curve": (
        "plot curve path/to/curve.json -o curve.png",
        "plot curve path/to/one.json path/to/two.json --label one --label two -o both.svg",
        "plot curve --help",
    ),
    "pull": ("pull digits-linf", "pull USER/NAME", "pull USER/NAME@REVISION"),
    "push": (
        "push --repo USER/NAME --dry-run",
        "push --repo USER/NAME",
        "push RUN --repo file:///path/to/registry/NAME",
    ),
    "runs": ("runs", "runs --status finished --sort -selection", "runs --json"),
    "doctor": ("doctor --offline", "doctor", "--quiet doctor --offline"),
    "propose": (
        "propose USER/NAME --result eval.json --dry-run",
        "propose USER/NAME --result eval.json",
        "propose USER/NAME --result eval.json --break",
    ),
    "verify": ("verify USER/NAME", "verify eval.json --data digits", "verify file:///path/to/registry/NAME --json -"),
    "leaderboard": ("leaderboard USER/NAME", "leaderboard eval.json -o site", "leaderboard --entries -o site"),
    "bench attack": (
        "bench attack --model digits-linf --data digits --n 50",
        "bench attack --vs autoattack --model digits-linf --data digits --n 100",
        "bench attack --vs autoattack --protocol full --model digits-linf --data digits --n 100",
    ),
    "bench gpu": (
        "bench gpu --budget 8m",
        "bench gpu --device cuda:0 --json gpu.json",
        "bench gpu --device cpu --budget 90s",
    ),
    "bench train": (
        "bench train --architecture kw-small --batch-size 16",
        "bench train --model digits-linf",
        "bench train --model digits-linf --compile --json -",
    ),
    "bench intermediate": (
        "bench intermediate --model digits-linf --distribution linf:0.15 --n 8 --samples 10",
        "bench intermediate --model digits-linf --distribution linf:0.15 --q 1,10",
        "bench intermediate --model digits-linf --distribution linf:0.15 --json bench.json",
    ),
    "models list": (
        "models list",
        "models list --dataset cifar10 --norm linf --sort parameters",
        "models list --here --json",
    ),
    "models show": ("models show digits-linf", "models show gowal-wrn70", "models show USER/NAME"),
    "models architectures": ("models architectures", "models architectures --json", "models architectures --help"),
    "models import": (
        "models import weights.pth --name mine --arch kw-small --dataset digits --no-normalisation",
        "models import weights.pt --name mine --from-yaml entry.yaml",
        "models import --help",
    ),
    "models add": ("models add entry.yaml", "models list", "models remove entry"),
    "models verify": ("models verify --local", "models verify digits-linf --local", "models verify --all"),
    "models mirror": (
        "models mirror croce-rn18-linf --repo USER/NAME --dry-run",
        "models mirror croce-rn18-linf --repo USER/NAME --private",
        "models mirror croce-rn18-linf --repo file:///path/to/registry/NAME",
    ),
    "models remove": ("models remove mine", "models remove USER/NAME", "models remove USER/NAME@REVISION"),
    "recipes list": (
        "recipes list --dataset digits",
        "recipes list --method ramp --sort epochs",
        "recipes list --dataset mnist --json",
    ),
    "recipes show": ("recipes show digits/e-at", "recipes show cifar10/ramp", "recipes show cifar10/ramp-extra"),
    "recipes validate": (
        "recipes validate digits/e-at",
        "recipes validate cifar10/ramp --set train.epochs=5",
        "recipes validate mnist/e-at",
    ),
    "recipes copy": (
        "recipes copy digits/e-at my-recipe.yaml",
        "recipes copy cifar10/ramp my-ramp.yaml",
        "recipes copy mnist/msd my-msd.yaml",
    ),
}
"""Three commands a user may type for each command, by its words; the tests run those that need no hub."""


def arrange(app: typer.Typer) -> None:
    """Put commands and their options in panels, and examples below each command's help."""
    of_command = {name: panel for panel, names in COMMANDS.items() for name in names}
    for group in app.registered_groups:
        group.rich_help_panel = of_command.get(str(group.name), "Commands")
    for words, info in commands(app):
        if " " not in words:
            info.rich_help_panel = of_command.get(words, "Commands")
        if words in EXAMPLES:
            info.epilog = "\n\n".join(["Examples:", *(f"  robustctl {line}" for line in EXAMPLES[words])])
        if info.callback is not None:
            _arrange_options(words, info.callback)


def commands(app: typer.Typer, before: str = "") -> Iterator[tuple[str, CommandInfo]]:
    """Every command with its words, as ``models list``."""
    for info in app.registered_commands:
        name = info.name or (info.callback.__name__.replace("_", "-") if info.callback else "")
        yield f"{before}{name}", info
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from commands(group.typer_instance, f"{before}{group.name} ")


def _arrange_options(words: str, callback: Callable[..., Any]) -> None:
    of_option = {name: panel for panel, names in OPTIONS.items() for name in names}
    hints = get_type_hints(callback, include_extras=True)
    for name in inspect.signature(callback).parameters:
        for mark in getattr(hints.get(name), "__metadata__", ()):
            if isinstance(mark, OptionInfo) and name in of_option:
                mark.rich_help_panel = of_option[name]
            if isinstance(mark, OptionInfo | ArgumentInfo) and mark.autocompletion is None:
                mark.autocompletion = completion(words, name)
