"""How robust a model is: in each norm and in their union."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustctl.cli import _intermediate
from robustctl.cli.models import names
from robustctl.errors import RequestError
from robustctl.progress import say
from robustctl.threats import NORMS, Norm, Threat, parse_norm

if TYPE_CHECKING:
    from robustctl.evaluation.checks import Recorded
    from robustctl.evaluation.store import Key
    from robustctl.evaluation.union import UnionRequest
    from robustctl.models.find import Located
    from robustctl.results.union import UnionResult
    from robustctl.runs import Record

Text = str | None


def command(
    model: Annotated[
        Text,
        typer.Argument(
            help="Entry, pulled repo, model directory or run; the newest run without.", autocompletion=names
        ),
    ] = None,
    union: Annotated[
        bool, typer.Option("--union", help="Accuracy in each norm and in their union (the default).")
    ] = True,
    union_only: Annotated[
        bool, typer.Option("--union-only", help="Only the union, faster; the norms' own figures become upper bounds.")
    ] = False,
    norms: Annotated[Text, typer.Option(help="Norms to attack in, e.g. linf,l2,l1.")] = None,
    eps: Annotated[
        Text, typer.Option(help="Radii, e.g. linf=8/255,l1=12; the others as the recipe or data set has them.")
    ] = None,
    attack: Annotated[
        str, typer.Option(help="Protocol: standard, fast (an estimate), full or autoattack.")
    ] = "standard",
    data: Annotated[Text, typer.Option(help="digits, a hub data set, a folder or an .npz file.")] = None,
    split: Annotated[str, typer.Option(help="Split of the data.")] = "test",
    n: Annotated[int | None, typer.Option("--n", help="Only the first N images.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images a forward pass; without, what suits the device.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the attacks.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="Of the attacks: float32, bf16 or auto. Verdicts are always taken in float32.")
    ] = "auto",
    json: Annotated[Path | None, typer.Option(help="Also write the result to this file.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Go on although the clean accuracy is not the recorded one.")
    ] = False,
    intermediate_q: Annotated[
        Text, typer.Option(help="Instead of the union: intermediate-q robustness for these q, e.g. 1,10,100,1000.")
    ] = None,
    distribution: Annotated[
        Text, typer.Option(help="For intermediate-q: linf:8/255, l2:0.5, gaussian:0.1 or spatial.")
    ] = None,
    estimator: Annotated[str, typer.Option(help="For intermediate-q: path (sampling), mc (Monte Carlo) or both.")] = (
        "both"
    ),
    grid: Annotated[
        str, typer.Option(help="For path sampling: graded, or thesis (biased, to compare with published numbers).")
    ] = "graded",
    samples: Annotated[int, typer.Option(help="Recorded samples an image and estimator.")] = 320,
    leapfrog: Annotated[int, typer.Option(help="Gradients a sample of path sampling.")] = 10,
    chains: Annotated[int, typer.Option(help="Independent chains an image.")] = 4,
    probacc: Annotated[str, typer.Option(help="Tolerances rho of ProbAcc.")] = "0.1,0.05,0.01",
) -> None:
    """Evaluate a model. The same command again continues where it was stopped.

    Under torchrun its processes share the points; the result is the same.
    """
    if os.environ.get("RANK", "0") != "0":
        os.environ["ROBUSTCTL_QUIET"] = "1"
    from robustctl.evaluation.families import default_batch_size
    from robustctl.oracle import pick_device, pick_precision

    subject = find_subject(model)
    where = pick_device(device)
    images_a_batch = batch_size or default_batch_size(where)
    if intermediate_q is not None:
        options = _intermediate.Options(
            intermediate_q, distribution, estimator, grid, samples, leapfrog, chains, probacc, seed, images_a_batch
        )
        source = data or subject.default_data()
        _intermediate.run(subject, options, source=source, split=split, n=n, device=device, json=json)
        return
    threats = choose_threats(subject, norms, eps)
    source = data or subject.default_data()
    if json is not None and not json.absolute().parent.is_dir():
        raise RequestError(f"--json {json}: there is no directory {json.absolute().parent}")
    from robustctl.evaluation import reference
    from robustctl.evaluation.union import UnionRequest
    from robustctl.report.table import before_after

    if attack == reference.NAME and precision == "bf16":
        say(f"{attack} runs the float32 model: --precision bf16 has no effect")
    request = UnionRequest(threats, attack, seed, images_a_batch, pick_precision(precision, where), union_only, force)
    result, path = evaluate(subject, request, source=source, split=split, n=n, device=device)
    if result is None:  # one of torchrun's other processes; the first reports
        return
    if json is not None:
        result.write(json)
    typer.echo(before_after([(subject.located.name, result)]))
    say(f"result: {path}")


@dataclass(frozen=True)
class Subject:
    """A model to be evaluated and the run that made it, if one did."""

    located: "Located"
    record: "Record | None"
    eval_dir: Path

    def default_data(self) -> str:
        """What it was trained on, else its data set's usual source; RequestError when neither is known."""
        from robustctl.standards import STANDARDS

        dataset = self.located.spec.dataset
        if self.record is not None:
            return str(self.record.data["source"])
        if dataset not in STANDARDS:
            raise RequestError(f"data set {dataset!r} has no usual source; say where its images are with --data")
        return STANDARDS[dataset].source

    def default_threats(self) -> tuple[Threat, ...]:
        """Those that its recipe evaluates, else its data set's usual ones; empty when neither is known."""
        from robustctl.standards import STANDARDS

        if self.record is not None:
            radii = self.record.recipe["evaluate"]["threats"]
            return tuple(Threat.of(norm, str(text)) for norm, text in radii.items())
        dataset = self.located.spec.dataset
        return STANDARDS[dataset].threats if dataset in STANDARDS else ()


def find_subject(text: str | None) -> Subject:
    """The run or model that the user names; the newest run for None. Raises RequestError when there is none.

    Of a run it is the last weights; one that did not do all of its steps is said to have done fewer.
    """
    from robustctl import runs
    from robustctl.models.find import locate

    run = runs.newest() if text is None else runs.find(text)
    if run is None:
        assert text is not None
        located = locate(text)
        made_by = runs.find(str(located.weights.resolve().parent))  # for RUN/best.safetensors
        eval_dir = runs.root() / "eval" / located.name.replace("/", "--")
        return Subject(located, made_by.read() if made_by else None, eval_dir)
    record, status = run.read(), run.status()
    if status in ("running", "stopped"):
        say(f"{run.name} is {status}: these are the weights that it saved last")
    elif record.step < record.steps:
        say(f"{run.name} did {record.step} of its {record.steps} steps: these are its last weights")
    return Subject(locate(str(run.path)), record, run.path / "eval")


def choose_threats(subject: Subject, norms: str | None, eps: str | None) -> tuple[Threat, ...]:
    """Threats of ``--norms`` and ``--eps``, filled up from the subject's own; in the order of the tables.

    Raises:
        RequestError: unknown or repeated norm, bad radius, a radius for a norm that is not asked for, or none known.
    """
    radii = {threat.norm: threat for threat in subject.default_threats()}
    written = _parse_eps(eps)
    chosen = _parse_norms(norms) if norms else list(dict.fromkeys([*radii, *written]))
    if extra := [norm for norm in written if norm not in chosen]:
        raise RequestError(f"--eps names {extra[0]}, which --norms {norms} leaves out")
    radii |= written
    if missing := [norm for norm in chosen if norm not in radii]:
        raise RequestError(f"no usual radius is known for {', '.join(missing)}; give it: --eps {missing[0]}=RADIUS")
    if not chosen:
        raise RequestError(
            f"no usual radii are known for data set {subject.located.spec.dataset!r}; give them, "
            "e.g. --eps linf=8/255,l2=0.5,l1=12"
        )
    return tuple(radii[norm] for norm in NORMS if norm in chosen)


def _parse_norms(text: str) -> list[Norm]:
    chosen = [parse_norm(part.strip()) for part in text.split(",")]
    if len(set(chosen)) < len(chosen):
        raise RequestError(f"--norms {text} names a norm twice")
    return chosen


def _parse_eps(text: str | None) -> dict[Norm, Threat]:
    threats: dict[Norm, Threat] = {}
    for part in text.split(",") if text else []:
        norm, equals, radius = part.partition("=")
        if not equals:
            raise RequestError(f"--eps {part!r} is not of the form norm=radius, e.g. linf=8/255,l1=12")
        threat = Threat.of(norm.strip(), radius.strip())
        if threat.norm in threats:
            raise RequestError(f"--eps names {threat.norm} twice")
        threats[threat.norm] = threat
    return threats


def evaluate(
    subject: Subject, request: "UnionRequest", *, source: str, split: str, n: int | None, device: str
) -> tuple["UnionResult | None", Path]:
    """Evaluate a subject on the first ``n`` images of a split; verdicts and result go into its ``eval_dir``.

    Returns:
        The result (None in all but the first of torchrun's processes) and its file.

    Raises:
        RequestError, RunError: as ``evaluation.union.evaluate_union``, and where model or images cannot be loaded.
    """
    from robustctl import checkpoint
    from robustctl.evaluation import shards, union
    from robustctl.evaluation.store import digest
    from robustctl.files import writing
    from robustctl.oracle import pick_device
    from robustctl.workflows.images import load_images

    union.require_protocol(request.protocol)
    chosen_device = pick_device(shards.local_device(device))
    spec = subject.located.spec
    images = load_images(source, split, n, spec)
    images.require(spec.input_shape, spec.n_classes)
    model = checkpoint.load_from(spec, subject.located.weights).to(chosen_device)
    request = union.confirmed(model.eval(), images, request)
    key = union.evaluation_key(model, spec, images, request)
    with writing(subject.eval_dir):
        subject.eval_dir.mkdir(parents=True, exist_ok=True)
    path = subject.eval_dir / f"{request.protocol}-{len(images)}-{digest(key)[:12]}.json"
    _say_if_afresh(path.with_suffix(".sqlite"), key)
    result = union.evaluate_union(
        model,
        spec,
        images,
        request,
        name=subject.located.name,
        device=chosen_device,
        store_path=path.with_suffix(".sqlite"),
        recorded=_recorded(subject),
    )
    if result is not None:
        result.write(path)
    return result, path


def _say_if_afresh(store_path: Path, key: "Key") -> None:
    """Say on stderr why verdicts that lie here already are not those of this evaluation."""
    from robustctl.evaluation.store import differing, plain, read_key

    others = sorted(store_path.parent.glob("*.sqlite"), key=lambda path: path.stat().st_mtime)
    if others and not store_path.exists():
        fields = differing(read_key(others[-1]), plain(key))
        say(f"new evaluation; it differs from the last one here in: {', '.join(fields)}")


def _recorded(subject: Subject) -> "Recorded | None":
    """The clean accuracy that the entry records, the most exact one where there are several."""
    from robustctl.evaluation.checks import Recorded
    from robustctl.standards import STANDARDS

    entry = subject.located.entry
    clean = [one for one in entry.accuracies if one.norm is None] if entry else []
    if entry is None or not clean:
        return None
    best = max(clean, key=lambda one: one.n or 0)
    source = STANDARDS[entry.dataset].source if entry.dataset in STANDARDS else entry.dataset
    return Recorded(best.value, best.n, source, best.split)
