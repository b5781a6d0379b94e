"""Sets rows of text in columns, for the terminal."""

import io
from collections.abc import Iterable, Sequence


def columns(rows: Iterable[Sequence[str]], *, right: Sequence[int] = (), rule: bool = False) -> str:
    """The rows with their cells one below the other, two spaces apart, every line as long as it needs.

    Widths are what a terminal shows: an ideograph takes two places, a combining accent none.

    Args:
        rows: with the same number of cells each; a cell is one line.
        right: the columns (from 0) that end at their right edge, as numbers do.
        rule: whether a line of dashes follows the first row, which is then a header.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    lines = [list(row) for row in rows]
    if not lines:
        return ""
    if rule:
        lines.insert(1, ["-" * max(cell_len(row[i]) for row in lines) for i in range(len(lines[0]))])
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for i in range(len(lines[0])):
        table.add_column(justify="right" if i in right else "left", no_wrap=True)
    for line in lines:
        table.add_row(*map(Text, line))  # as Text, so that brackets are no markup
    width = sum(max(cell_len(row[i]) for row in lines) + 2 for i in range(len(lines[0])))
    written = io.StringIO()
    Console(file=written, width=width, color_system=None, legacy_windows=False).print(table)
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines())
