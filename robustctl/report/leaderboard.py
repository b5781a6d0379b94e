"""Boards of models that compare by construction: the same images, points and radii. Made into static pages and JSON.

Only claims that were verified have a rank; the others stand below. If one model has several claims on a board, the
lowest union stands for it: what one evaluation broke stays broken.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from robustctl.report import style
from robustctl.results.union import UnionResult
from robustctl.threats import NORMS

UNVERIFIED = "not verified"
CONFIRMED = "confirmed"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Figure(_Frozen):
    """One accuracy of a row in [0,1] with its 95 % interval; ``is_bound`` if survivors fell to a second opinion."""

    name: str
    acc: float
    ci95: tuple[float, float]
    is_bound: bool = False

    @property
    def percent(self) -> str:
        """As a table shows it."""
        return f"{'<= ' if self.is_bound else ''}{100 * self.acc:.1f}"

    @property
    def interval(self) -> str:
        """The 95 % interval in percent."""
        return f"{100 * self.ci95[0]:.1f} to {100 * self.ci95[1]:.1f}"


class Curve(_Frozen):
    """Accuracy against radius in one norm: ``accs`` in [0,1] at evenly spaced radii from 0 to ``bound``.

    ``eps`` is the radius of the board, if it is within the bound. ``median`` is the radius at which half of the images
    are left; None if more are left at the bound.
    """

    norm: str
    bound: float
    accs: list[float]
    median: float | None
    eps: float | None = None

    @property
    def line(self) -> str:
        """The points of a line in a box of 200 by 80."""
        step = 200 / (len(self.accs) - 1)
        return " ".join(f"{step * i:.1f},{80 * (1 - acc):.1f}" for i, acc in enumerate(self.accs))

    @property
    def text(self) -> str:
        """For people."""
        half = "beyond it" if self.median is None else f"{self.median:.3g}"
        return f"{self.norm}, radii 0 to {self.bound:.3g}; half of the images are left at {half}"


class Row(_Frozen):
    """A model on a board.

    ``state`` is the newest verdict on its claim, and ``date`` the day of it. ``parameters`` is None if nobody knows.
    ``more`` are lines about what else was measured of these weights.
    """

    model: str
    architecture: str
    parameters: int | None
    figures: list[Figure]
    protocol: str
    families: str
    state: str
    date: str | None
    flags: list[str]
    facts: dict[str, str]
    more: list[str]
    curves: list[Curve] = []
    rank: int | None = None

    @property
    def union(self) -> float:
        """The figure that it is ranked by."""
        return self.figures[-1].acc

    @property
    def millions(self) -> str:
        """Its parameters, in millions."""
        return "?" if self.parameters is None else f"{self.parameters / 1e6:.3g}"


class Board(_Frozen):
    """Rows that compare; ``key`` names its files."""

    key: str
    data: str
    n: int
    threats: str
    content_sha256: str
    ranked: list[Row]
    claimed: list[Row]

    @property
    def titles(self) -> list[str]:
        """The figures of every row."""
        return [one.name for one in [*self.ranked, *self.claimed][0].figures]

    def choices(self, name: str) -> list[str]:
        """The different values of a row's field, for a filter."""
        return sorted({str(getattr(row, name)) for row in [*self.ranked, *self.claimed]})


@dataclass(frozen=True)
class Entrant:
    """A claim that may stand on a board; names in it are as they may be shown to anybody.

    Attributes:
        name: of the model.
        architecture, parameters: of the model, as far as they are known.
        model_sha256: which model it is, apart from its weights.
        state, date: the newest verdict and its day.
        more: lines about what else was measured.
        curves: accuracy against radius of the same weights.
    """

    name: str
    result: UnionResult
    architecture: str = "?"
    parameters: int | None = None
    model_sha256: str = ""
    state: str = UNVERIFIED
    date: str | None = None
    more: list[str] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)


def boards(entrants: Sequence[Entrant]) -> list[Board]:
    """Boards of what compares, those with the most rows first."""
    groups: dict[str, list[Entrant]] = {}
    for one in entrants:
        groups.setdefault(_key(one.result), []).append(one)
    found = [_board(key, group) for key, group in groups.items()]
    return sorted(found, key=lambda board: (-len(board.ranked) - len(board.claimed), board.data, board.threats))


def _key(result: UnionResult) -> str:
    """The same for results of the same images, points and radii, whatever the images are called."""
    data = result.data
    images = data.content_sha256 or f"{data.source} {data.split} {data.index_sha256} {data.preprocessing}"
    radii = sorted((norm, one.eps) for norm, one in result.norms.items())
    return hashlib.sha256(json.dumps([images, data.n, radii]).encode()).hexdigest()[:10]


def _board(key: str, entrants: Sequence[Entrant]) -> Board:
    result = entrants[0].result
    models: dict[tuple[str, str], list[Entrant]] = {}
    for one in entrants:
        models.setdefault((one.result.weights_sha256, one.model_sha256), []).append(one)
    rows = [_row(group) for group in models.values()]
    confirmed = sorted((row for row in rows if row.state == CONFIRMED), key=lambda row: (-row.union, row.model))
    ranked = [
        row.model_copy(update={"rank": 1 + sum(other.union > row.union for other in confirmed)}) for row in confirmed
    ]
    claimed = sorted((row for row in rows if row.state != CONFIRMED), key=lambda row: (-row.union, row.model))
    return Board(
        key=key,
        data=result.data.text,
        n=result.data.n,
        threats=", ".join(f"{norm}:{result.norms[norm].eps_text}" for norm in NORMS if norm in result.norms),
        content_sha256=result.data.content_sha256 or "unknown",
        ranked=ranked,
        claimed=claimed,
    )


def _row(claims: Sequence[Entrant]) -> Row:
    """The row of one model: its lowest union, verified ones before others."""
    best, *others = sorted(claims, key=lambda one: (one.state != CONFIRMED, one.result.union.acc))
    result = best.result
    more = [*best.more]
    for one in others:
        state = f"{one.state}{f', {one.date}' if one.date else ''}"
        more.append(f"evaluated too with {one.result.attack.name}: union {100 * one.result.union.acc:.1f} % ({state})")
    for norm, opinion in (result.second_opinion or {}).items():
        more.append(f"second opinion, {norm}: {opinion.fell} of {opinion.sample} sampled survivors fell")
    return Row(
        model=best.name,
        architecture=best.architecture,
        parameters=best.parameters,
        figures=_figures(result),
        protocol=result.attack.name + (", union only" if result.attack.union_only else ""),
        families=result.attack.protocol,
        state=best.state,
        date=best.date,
        flags=result.flags,
        facts={
            "weights": result.weights_sha256,
            "attack": f"seed {result.attack.seed}, {result.attack.precision}",
            "time": f"{result.seconds:.0f} s on {result.device}",
            "versions": ", ".join(f"{name} {version}" for name, version in result.versions.items()),
        },
        more=more,
        curves=next((one.curves for one in [best, *others] if one.curves), []),
    )


def _figures(result: UnionResult) -> list[Figure]:
    named = [("clean", result.clean.acc, result.clean.ci95)]
    named += [(norm, result.norms[norm].acc, result.norms[norm].ci95) for norm in NORMS if norm in result.norms]
    named += [("average", result.average, result.average_ci95), ("union", result.union.acc, result.union.ci95)]
    return [Figure(name=name, acc=acc, ci95=ci95, is_bound=result.is_bound(name)) for name, acc, ci95 in named]


class Published(_Frozen):
    """A figure that somebody else has published about an entry of the registry; nothing here was measured."""

    model: str
    architecture: str
    parameters: int | None
    dataset: str
    threat: str
    acc: float
    n: int | None
    protocol: str
    source: str


def pages(found: Sequence[Board], entries: Sequence[Published] | None = None) -> dict[str, str]:
    """The files of the site by their names: pages, and the same as JSON beside them."""
    files = {}
    for board in found:
        content = {"schema": "robustctl.leaderboard/1", **board.model_dump(mode="json")}
        files[f"board-{board.key}.json"] = json.dumps(content, indent=1) + "\n"
        files[f"board-{board.key}.html"] = style.fill("leaderboard.html", board=board, has_entries=entries is not None)
    if entries is not None:
        rows = [one.model_dump(mode="json") for one in entries]
        files["entries.json"] = json.dumps({"schema": "robustctl.entries/1", "published": rows}, indent=1) + "\n"
        files["entries.html"] = style.fill("leaderboard_entries.html", rows=entries)
    files["index.html"] = style.fill("leaderboard_index.html", boards=found, has_entries=entries is not None)
    return files
