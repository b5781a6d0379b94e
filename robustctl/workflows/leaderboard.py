"""Makes a leaderboard of results: of directories, runs, studies, repos and files."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from robustctl import runs
from robustctl.errors import RequestError
from robustctl.files import write_text, writing
from robustctl.intermediate.results import IntermediateResult
from robustctl.models.find import FoundModel, entry_files, find_model, read_entry
from robustctl.models.safetensors_header import parameters
from robustctl.progress import say
from robustctl.publish import redact
from robustctl.reading import is_file, read_json
from robustctl.report.leaderboard import UNVERIFIED, Curve, Entrant, Published, boards, pages
from robustctl.results.curve import CurveResult, NormCurve
from robustctl.results.result_file import Result, read_as
from robustctl.results.suite import SuiteResult
from robustctl.results.union import UnionResult
from robustctl.results.verification import claim_sha256
from robustctl.spec import CONFIG, model_sha256
from robustctl.workflows.claimed_figures import newest_verdict
from robustctl.workflows.claims import RECORDS, Claim, find_claims, published_claims, read_claim
from robustctl.workflows.study import evaluated, is_study, scored

STEPS = 40
"""Steps between the radii of a curve."""
OWNED = ("board-*.html", "board-*.json", "entries.html", "entries.json", "index.html")
"""The files that only a leaderboard writes: an earlier one's are removed."""


def make_site(what: Sequence[str], folder: Path, *, entries: bool = False) -> list[Path]:
    """Write the pages of a leaderboard; returns its boards' pages.

    Args:
        what: directories (searched through), runs, studies (``.yaml``), repos, or files of results.
        entries: also a page of the figures that the registry's entries record.

    Raises:
        RequestError: something that is none of these, or no result in all of them.
        RunError: a repo could not be fetched, or the disk.
    """
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"-o {folder} is a file; name a directory for the pages")
    found = [one for text in what for one in _entrants(text)]
    if not found and not entries:
        raise RequestError("there is no result to rank; evaluate a model, or name directories that hold results")
    made = pages(boards(_once(found)), published() if entries else None)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in OWNED:
            for path in folder.glob(pattern):
                if path.name not in made:
                    path.unlink()
    for name, text in made.items():
        write_text(folder / name, text)
    return [folder / name for name in made if name.startswith("board-") and name.endswith(".html")]


def published() -> list[Published]:
    """The figures that the registry's entries record, with their sources."""
    found = []
    for name in entry_files():
        entry = read_entry(name)
        found += [
            Published(
                model=name,
                architecture=entry.architecture.name,
                parameters=entry.parameters,
                dataset=entry.dataset,
                threat=f"{one.norm}:{one.eps}" if one.norm else "clean",
                acc=one.value,
                n=one.n,
                protocol=one.protocol,
                source=one.source,
            )
            for one in entry.accuracies
        ]
    return found


def _once(entrants: Sequence[Entrant]) -> list[Entrant]:
    """Drop a claim that is there twice about the same model, as in a run and in what was pushed from it."""
    kept: dict[tuple[str, str], Entrant] = {}
    for one in entrants:
        key = claim_sha256(one.result), one.model_sha256
        before = kept.setdefault(key, one)
        more = [*before.more, *(line for line in one.more if line not in before.more)]
        kept[key] = replace(before, more=more, curves=before.curves or one.curves)
    return list(kept.values())


def _entrants(text: str) -> Iterator[Entrant]:
    path = Path(text)
    if is_study(text):
        yield from _of_study(path)
    elif path.is_dir():
        yield from _of_directory(path)
    else:
        claims = find_claims(text)
        yield from _of_claims(claims.found_model, claims.claims)


def _of_study(path: Path) -> Iterator[Entrant]:
    for one in map(scored, evaluated(path)):
        seed = "" if one.seed is None else f", seed {one.seed}"
        assert isinstance(one.result, UnionResult), "a study evaluates the norms"
        yield _entrant(f"{one.method}{seed}", one.result, _model_of(one.result.model))


def _of_directory(root: Path) -> Iterator[Entrant]:
    """Every claim below a directory: of what was pushed or pulled, and of evaluations."""
    for records in sorted({*root.rglob(RECORDS)}):
        if (records.parent / CONFIG).is_file() and records.is_dir():
            model = find_model(str(records.parent))
            try:
                yield from _of_claims(model, published_claims(model).claims)
            except RequestError as error:
                say(str(error))
    for path in sorted(root.rglob("*.json")):
        if path.parent.name != RECORDS and _schema(path) == "robustctl.eval/1":
            claim = read_claim(path)
            around = path.parent.parent
            named = str(around) if (around / CONFIG).is_file() else claim.result.model if claim.result else ""
            model_here = _model_of(named)
            yield from _of_claims(model_here, [claim])


def _of_claims(model: FoundModel | None, claims: Sequence[Claim]) -> Iterator[Entrant]:
    for claim in claims:
        if claim.result is None:
            say(f"{claim.path} is left out: {claim.fault}")
            continue
        yield _entrant(model.name if model else claim.result.model, claim.result, model, claim.path.parent)


def _entrant(name: str, result: UnionResult, model: FoundModel | None, beside: Path | None = None) -> Entrant:
    """A claim as it may be shown to anybody, with the newest verdict of this machine."""
    shown = redact.published(result, redact.data_names([result.data.source]))
    name = redact.last_part(name) if name.startswith(("/", "file:", ".", "~")) else name
    more = _more(result, beside) if beside else []
    curves = _curves(result, beside) if beside else []
    if model is None:
        return Entrant(name, shown, more=more, curves=curves)
    verdict = newest_verdict(result, model.spec)
    return Entrant(
        name,
        shown,
        model.spec.architecture.name,
        _size(model),
        model_sha256(model.spec),
        verdict.verdict if verdict else UNVERIFIED,
        verdict.date[:10] if verdict else None,
        more,
        curves,
    )


def _model_of(name: str) -> FoundModel | None:
    """The model of a result, if it is still here under that name: a run's, or what ``find_model`` knows."""
    run = runs.find(name)
    try:
        return find_model(str(run.path) if run else name)
    except RequestError:
        return None


def _size(model: FoundModel) -> int | None:
    if model.entry is not None and model.entry.parameters:
        return model.entry.parameters
    return parameters(model.weights) if is_file(model.weights) and model.weights.suffix == ".safetensors" else None


def _more(result: UnionResult, folder: Path) -> list[str]:
    """Other measurements of the same weights: threats beyond norms, and intermediate-q robustness."""
    lines = []
    for path in sorted(folder.rglob("*.json")):
        if (suite := _read(path, SuiteResult, "robustctl.suite/1")) and suite.weights_sha256 == result.weights_sha256:
            lines += _suite(suite)
        curve = _read(path, IntermediateResult, "robustctl.intermediate/1")
        if curve and curve.weights_sha256 == result.weights_sha256:
            values = ", ".join(f"q {one.q:g} {one.value:.3g} ({one.estimator})" for one in curve.estimates)
            lines.append(f"intermediate-q robustness, {curve.distribution.text}, mean loss: {values}")
    return lines


def _suite(suite: SuiteResult) -> list[str]:
    """A line for each group of threats; for each threat if they are in no group."""
    points = f"({suite.data.n} points)"
    if not suite.groups:
        return [f"{one.name}: {100 * one.acc:.1f} % {points}" for one in suite.members]
    return [
        f"suite {suite.suite}, {group.name}: worst {group.worst} {100 * group.worst_acc:.1f} %, mean "
        f"{100 * group.mean.mean:.1f} %, all at once {100 * group.union.acc:.1f} % {points}"
        for group in suite.groups
    ]


def _curves(result: UnionResult, folder: Path) -> list[Curve]:
    """The newest curves of accuracy against radius of the same weights on a split of the same name."""
    files = sorted(folder.rglob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    found = [one for path in files if (one := _read(path, CurveResult, "robustctl.curve/1"))]
    same = [one for one in found if (one.weights_sha256, one.data.text) == (result.weights_sha256, result.data.text)]
    return [_curve(norm, one, result) for norm, one in (same[0].norms.items() if same else ())]


def _curve(norm: str, curve: NormCurve, result: UnionResult) -> Curve:
    radii = [curve.bound * i / STEPS for i in range(STEPS + 1)]
    eps = next((one.eps for name, one in result.norms.items() if name == norm), None)
    return Curve(
        norm=norm,
        bound=curve.bound,
        accs=[curve.at(radius).acc for radius in radii],
        median=curve.median,
        eps=eps if eps and eps <= curve.bound else None,
    )


def _read(path: Path, kind: type[Result], schema: str) -> Result | None:
    try:
        return read_as(kind, schema, path) if _schema(path) == schema else None
    except RequestError:
        return None


def _schema(path: Path) -> object:
    try:
        content = read_json(path)
    except RequestError:
        return None
    return content.get("schema") if isinstance(content, dict) else None
