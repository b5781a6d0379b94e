"""The settings of a published evaluation, so that the same one can be made again."""

from dataclasses import dataclass
from pathlib import Path

from robustctl.errors import RequestError
from robustctl.models.find import FoundModel
from robustctl.publish.redact import LOCAL
from robustctl.results import union as results
from robustctl.results.union import UnionResult
from robustctl.threats import Norm
from robustctl.workflows.claims import CLAIM, Claims, published_claims

PUBLISHED = "published"


@dataclass(frozen=True)
class Settings:
    """The options for ``robustctl eval``: radii as written by norm, and the rest by the names of its options."""

    radii: dict[Norm, str]
    data: str
    split: str
    n: int
    attack: str
    seed: int
    precision: str
    union_only: bool

    def threats(self, norms: str | None, eps: str) -> tuple[str, list[str]]:
        """``--norms`` and ``--eps`` as the user typed them; what is missing comes from the result."""
        chosen = norms or ",".join(self.radii)
        typed = {part.partition(":" if ":" in part else "=")[0].strip() for part in eps.split(",")}
        wanted = {norm.strip() for norm in chosen.split(",")} - typed
        return chosen, [*filter(None, [eps]), *(f"{norm}:{self.radii[norm]}" for norm in self.radii if norm in wanted)]

    def images(self) -> str:
        """Where the images are; RequestError if only the publisher has them."""
        if self.data.startswith(LOCAL):
            raise RequestError(f"--like: {self.data} is on the publisher's machine; say where yours is: --data FOLDER")
        return self.data


def settings_like(what: str, found_model: FoundModel) -> Settings:
    """The settings of a result.

    Args:
        what: ``published``, for the one that the model's card shows, or the JSON file of a result.
        found_model: the model.

    Raises:
        RequestError: no such result, or one that no command makes again: of a selection of points, or with attacks from
            outside.
    """
    result = headline(published_claims(found_model)) if what == PUBLISHED else results.read(Path(what))
    index = result.points.index
    if index != list(range(len(index))):
        raise RequestError(f"--like {what}: it is of a selection of points, which no command line can name")
    if result.external:
        raise RequestError(f"--like {what}: its attacks from outside are not here ({result.external[0].name})")
    return Settings(
        radii={norm: one.eps_text for norm, one in result.norms.items()},
        data=result.data.pinned,
        split=result.data.split,
        n=result.data.n,
        attack=result.attack.name,
        seed=result.attack.seed,
        precision=result.attack.precision,
        union_only=result.attack.union_only,
    )


def headline(claims: Claims) -> UnionResult:
    """The claim that the card shows in its front matter; else the publisher's own claim with the most points."""
    from robustctl.publish.figures import contradictions, figures_in

    own = [one.result for one in claims.claims if one.result and one.name.startswith(CLAIM)]
    if not own:
        faults = "; ".join(one.fault for one in claims.claims if one.fault) or "it has proposals of others alone"
        raise RequestError(f"{claims.found_model.name} publishes no sound result of its own: {faults}")
    card = claims.directory / "README.md" if claims.directory else None
    try:
        shown = figures_in(card.read_text(encoding="utf-8", errors="replace")) if card and card.is_file() else []
    except RequestError:
        shown = []  # verify tells of it
    same = [one for one in own if shown and not contradictions(shown, [one])]
    return max(same or own, key=lambda one: one.data.n)
