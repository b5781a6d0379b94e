"""Commands that somebody who has pulled a model can type as they stand."""

import shlex
from pathlib import Path

from robustctl.conventions import CONVENTIONS
from robustctl.errors import RequestError
from robustctl.models.find import find_model
from robustctl.publish.redact import LOCAL
from robustctl.spec import read_spec
from robustctl.workflows.claims import published_claims
from robustctl.workflows.like import headline


def next_lines(repo: str, place: Path) -> list[str]:
    """How to verify a pulled repo's claims and evaluate it as they were; without claims, how to evaluate it at all.

    Args:
        repo: as the user named it. place: its present place.
    """
    name = shlex.quote(repo)
    try:
        result = headline(published_claims(find_model(str(place))))
    except RequestError:  # it publishes none
        known = read_spec(place).dataset in CONVENTIONS
        return [f"robustctl eval {name} --union" + ("" if known else " --data FOLDER --eps linf:RADIUS")]
    data = " --data FOLDER" if result.data.source.startswith(LOCAL) else ""
    return [f"robustctl verify {name}{data}", f"robustctl eval {name} --like published{data}"]
