"""How robust a model is: in each norm and in their union."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from robustctl import terminal
from robustctl.cli import options
from robustctl.cli.output import Json, require_target, save, say_table
from robustctl.errors import RequestError
from robustctl.evaluation.protocols import DEFAULT
from robustctl.progress import say

Text = str | None


COMMON_OPTIONS = ("union", "like", "union_only", "precision", "force", "x_adv", "until")
UNION_OPTIONS = (*COMMON_OPTIONS, "norms", "eps", "attack")
CURVE_OPTIONS = ("distribution", "estimator", "grid", "samples", "most_samples", "leapfrog", "chains", "probacc")
"""Options that only one kind of evaluation reads."""
NO_CURVE_OPTIONS = (*COMMON_OPTIONS, "attack")
ONLY_CURVE = ("up_to", "decision")
NO_SUITE_OPTIONS = (*COMMON_OPTIONS, "norms", "eps")
"""The options of the union that accuracy against radius, and a suite, do not read: its threats have their own radii."""


def command(
    context: typer.Context,
    model: options.ModelOrNewestRun = None,
    union: Annotated[
        bool, typer.Option("--union", help="Accuracy in each norm and in their union (the default).")
    ] = True,
    union_only: Annotated[
        bool, typer.Option("--union-only", help="Only the union, faster; the norms' own figures become upper bounds.")
    ] = False,
    norms: options.Norms = None,
    eps: options.Eps = None,
    attack: Annotated[
        str,
        typer.Option(
            help="Protocol: adaptive, adaptive+, standard, fast (an estimate), full or autoattack; and attacks of your "
            "own, FILE.py:NAME, with commas: fast,my.py:attack. They are run.",
            autocompletion=options.protocols,
        ),
    ] = DEFAULT,
    until: Annotated[
        float | None,
        typer.Option(
            help="Of adaptive: go on with random survivors under the full budget until fewer percentage points than "
            "this are missed, e.g. 0.1, at 95 % confidence.",
        ),
    ] = None,
    x_adv: Annotated[
        Path | None,
        typer.Option("--x-adv", help=".npz file of adversarial images made anywhere: index, x_adv, norm."),
    ] = None,
    suite: Annotated[
        Text,
        typer.Option(
            help="Many threats in one report: union, unseen, corruptions, universal, or a YAML file (docs/unseen.md).",
            autocompletion=options.suite_names,
        ),
    ] = None,
    threat: Annotated[
        list[str] | None,
        typer.Option(help="One threat with its budget, e.g. elastic:0.5, l0:9 or fog; repeat it for more."),
    ] = None,
    like: Annotated[
        Text,
        typer.Option(
            help="Take threats, data, split, n, attack, seed and precision from a result: published, or its JSON file. "
            "What is typed beside it wins."
        ),
    ] = None,
    curve: Annotated[
        bool,
        typer.Option("--curve", help="Accuracy at every radius: the distance of each image, in each norm."),
    ] = False,
    decision: Annotated[
        bool,
        typer.Option(
            "--decision", help="For --curve: attacks that see predicted classes alone (foolbox) look too, as a check."
        ),
    ] = False,
    up_to: Annotated[float, typer.Option(help="For --curve: where it ends, in multiples of the radii.")] = 3.0,
    model_code: options.ModelCode = None,
    weights: options.Weights = None,
    data: options.Data = None,
    split: options.Split = "test",
    columns: options.Columns = None,
    classes: options.Classes = None,
    n: Annotated[int | None, typer.Option("--n", "-n", help="Only the first N images; -n under torchrun.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per forward pass; without, what suits the device.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the attacks.")] = 0,
    device: options.Device = "auto",
    precision: Annotated[
        str, typer.Option(help="Of the attacks: float32, bf16 or auto. Verdicts are always taken in float32.")
    ] = "auto",
    json: Json = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Go on although the clean accuracy, a radius or the pixels are not plausible."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything and say what the evaluation would take."),
    ] = False,
    intermediate_q: Annotated[
        Text, typer.Option(help="Instead of the union: intermediate-q robustness for these q, e.g. 1,10,100,1000.")
    ] = None,
    distribution: Annotated[
        Text, typer.Option(help="For intermediate-q: linf:8/255, l2:0.5, gaussian:0.1 or spatial.")
    ] = None,
    estimator: Annotated[
        str,
        typer.Option(
            help="For intermediate-q: path (sampling), mc (Monte Carlo), both, ais (annealed importance sampling, with "
            "a lower bound), or all."
        ),
    ] = "both",
    grid: Annotated[
        str, typer.Option(help="For path sampling: graded, or thesis (biased, to compare with published numbers).")
    ] = "graded",
    samples: Annotated[int, typer.Option(help="Recorded samples per image and estimator.")] = 320,
    most_samples: Annotated[
        int | None,
        typer.Option(
            help="Samples up to which chains run longer where few effective ones carry an image's value; without, five "
            "times --samples."
        ),
    ] = None,
    leapfrog: Annotated[int, typer.Option(help="Gradients per sample of chains.")] = 10,
    chains: Annotated[int, typer.Option(help="Independent chains per image.")] = 4,
    probacc: Annotated[str, typer.Option(help="Tolerances rho of ProbAcc.")] = "0.1,0.05,0.01",
) -> None:
    """Evaluate a model. The same command again continues where it was stopped.

    Without --suite, --threat and --intermediate-q: accuracy in each norm and in their union.

    Under torchrun its processes share the points; the result is the same.
    """
    if os.environ.get("RANK", "0") != "0":
        os.environ["ROBUSTCTL_QUIET"] = "1"
    require_target(json)
    many = suite is not None or bool(threat)
    if curve + many + (intermediate_q is not None) > 1:
        raise RequestError("--curve, --suite (or --threat) and --intermediate-q are evaluations of their own: give one")
    if suite is not None and threat:
        raise RequestError("--suite and --threat: give one of them; a suite's file can name every threat")
    _refuse_unread(context, q_curve=intermediate_q is not None, suite=many, curve=curve)
    from robustctl.devices import pick_device
    from robustctl.evaluation.families import default_batch_size, other_batch_sizes
    from robustctl.precision import pick_precision
    from robustctl.workflows.images import NamedImages, reading_of
    from robustctl.workflows.subject import choose_threats, open_subject

    corrupted = None
    if many:
        from robustctl.workflows.evaluate_suite import split_data

        data, corrupted = split_data(data)

    where = pick_device(device)
    images_a_batch = batch_size or default_batch_size(where)
    said = reading_of(columns, classes) if columns or classes or data else None
    with open_subject(
        model, model_code=model_code, weights=weights, data=data, split=split, reading=said, fetch=not dry_run
    ) as subject:
        if like is not None:
            from robustctl.workflows.like import settings_like

            as_before = settings_like(like, subject.found_model)
            norms, eps = as_before.threats(norms, ",".join(eps or []))
            data = data or as_before.images()
            typed = set(_typed(context, (*UNION_OPTIONS, "split", "n", "seed")))
            split = split if "split" in typed else as_before.split
            n = n if "n" in typed else as_before.n
            attack = attack if "attack" in typed else as_before.attack
            seed = seed if "seed" in typed else as_before.seed
            precision = precision if "precision" in typed else as_before.precision
            union_only = union_only or as_before.union_only
        images = NamedImages(data or subject.default_data(), split, n, said or subject.default_reading())
        if intermediate_q is not None:
            from robustctl.report.q_table import table
            from robustctl.workflows.evaluate_intermediate import (
                IntermediateOptions,
                evaluate_intermediate,
                intermediate_request,
            )

            texts = IntermediateOptions(
                intermediate_q, distribution, estimator, grid, samples, most_samples, leapfrog, chains, probacc, seed
            )
            asked = intermediate_request(texts, subject.default_threats(), images_a_batch)
            _refuse(
                context,
                asked.unread,
                f"is not read with --estimator {estimator}, --grid {grid} and {asked.perturbation}; leave it out",
            )
            if dry_run:
                from robustctl.workflows.evaluation_plan import rehearse_intermediate

                rehearse_intermediate(subject, asked, images, device=device)
                return
            estimates, path = evaluate_intermediate(subject, asked, images, device=device)
            save(estimates.write, json)
            say_table(table(estimates), json)
            terminal.tell(f"result: {path}")
            return
        if curve:
            from robustctl.report.curve_table import table as curve_table
            from robustctl.workflows.evaluate_curve import evaluate_curve, reaches_of

            usual, dataset = subject.default_threats(), subject.found_model.spec.dataset
            reaches = reaches_of(usual, dataset, norms, ",".join(eps or []))
            if dry_run:
                from robustctl.workflows.evaluation_plan import rehearse_curve

                rehearse_curve(
                    subject,
                    reaches,
                    up_to,
                    images,
                    by_decision=decision,
                    seed=seed,
                    batch_size=images_a_batch,
                    device=device,
                )
                return
            curves, path = evaluate_curve(
                subject,
                reaches,
                up_to,
                images,
                by_decision=decision,
                seed=seed,
                batch_size=images_a_batch,
                device=device,
            )
            if curves is None:  # one of torchrun's other processes; the first reports
                return
            save(curves.write, json)
            say_table(curve_table(curves), json)
            say(f"result: {path}")
            return
        if many:
            from robustctl import suites
            from robustctl.report.suite_table import table as suite_table
            from robustctl.workflows.evaluate_suite import SuiteOptions, evaluate_suite

            named, content = ("threats", suites.of_threats(threat)) if threat else suites.load(suite or "")
            how = SuiteOptions(attack, seed, images_a_batch, corrupted)
            if dry_run:
                from robustctl.workflows.evaluation_plan import rehearse_suite

                rehearse_suite(subject, named, content, how, images, device=device)
                return
            verdicts, path = evaluate_suite(subject, named, content, how, images, device=device)
            if verdicts is None:  # one of torchrun's other processes; the first reports
                return
            save(verdicts.write, json)
            say_table(suite_table([(subject.found_model.name, verdicts)]), json)
            say(f"result: {path}")
            return
        from robustctl.evaluation import reference
        from robustctl.evaluation.union_request import UnionRequest
        from robustctl.report.table import before_after
        from robustctl.workflows.evaluate import evaluate
        from robustctl.workflows.outside_attacks import parse_attacks, read_images

        threats = choose_threats(subject, norms, ",".join(eps) if eps else None)
        protocol, attacks = parse_attacks(attack)
        attacks += [read_images(x_adv)] if x_adv else []
        if protocol == reference.NAME and precision == "bf16":
            say(f"{protocol} runs the float32 model: --precision bf16 has no effect")
        chosen = pick_precision(precision, where)
        request = UnionRequest(
            threats,
            protocol,
            seed,
            images_a_batch,
            chosen,
            union_only,
            force,
            measure=precision == "auto",
            other_sizes=() if batch_size else other_batch_sizes(where),
            until=until,
        )
        if dry_run:
            from robustctl.workflows.evaluation_plan import rehearse

            rehearse(subject, request, images, device=device, attacks=attacks)
            return
        result, path = evaluate(subject, request, images, device=device, attacks=attacks)
    if result is None:  # one of torchrun's other processes; the first reports
        return
    save(result.write, json)
    say_table("\n".join([before_after([(subject.found_model.name, result)]), *result.origins()]), json)
    say(f"result: {path}")


def _refuse_unread(context: typer.Context, *, q_curve: bool, suite: bool, curve: bool) -> None:
    """Raise RequestError for an option that was typed and that this kind of evaluation does not read."""
    reader = "the evaluation of the union, without --intermediate-q" if q_curve else "--intermediate-q"
    _refuse(context, UNION_OPTIONS if q_curve else CURVE_OPTIONS, f"is read by {reader}; leave it out here")
    _refuse(context, NO_SUITE_OPTIONS if suite else (), "is not read with --suite and --threat; leave it out")
    _refuse(context, NO_CURVE_OPTIONS if curve else ONLY_CURVE, f"is {'not ' if curve else ''}read with --curve")


def _refuse(context: typer.Context, unread: Iterable[str], why: str) -> None:
    """Raise RequestError for an option that was typed and that nothing here reads."""
    for name in _typed(context, unread):
        raise RequestError(f"--{name.replace('_', '-')} {why}")


def _typed(context: typer.Context, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            yield name
