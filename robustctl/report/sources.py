"""The answers of the sources of registry entries, as lines or as one table."""

from collections import Counter
from collections.abc import Iterator, Sequence

from robustctl.models.fetch import Asked

Answers = Sequence[tuple[str, Asked]]
"""The name of an entry, and what one of its sources answers."""


def sources_lines(answers: Answers) -> Iterator[str]:
    """One line a source: its place, and what it answers or what is wrong with it."""
    for name, asked in answers:
        yield f"{name}: FAULT {asked.fault}" if asked.fault else f"{name}: {asked.source}: {asked.state}"


def sources_table(answers: Answers) -> Iterator[str]:
    """A table with one row a source, the count of each state, and then what is wrong in full."""
    width = max((len(name) for name, _ in answers), default=5)
    yield f"{'model':{width}}  {'state':9}  source"
    for name, asked in answers:
        yield f"{name:{width}}  {asked.state:9}  {asked.source}"
    states = Counter(asked.state for _, asked in answers)
    yield f"{len(answers)} sources: " + ", ".join(f"{count} {state}" for state, count in states.most_common())
    for name, asked in answers:
        if asked.fault:
            yield f"{name}: {asked.fault}"
