"""Columns of text as a terminal shows them."""

from rich.cells import cell_len

from robustctl.report.columns import columns


def test_cells_stand_below_each_other_and_no_line_ends_in_spaces() -> None:
    assert columns([("a", "one", ""), ("longer", "b", "c")]) == "a       one\nlonger  b    c"


def test_a_header_gets_a_rule_and_numbers_end_at_the_right() -> None:
    text = columns([("name", "n"), ("x", "7"), ("y", "1234")], right=(1,), rule=True)
    assert text.splitlines() == ["name     n", "----  ----", "x        7", "y     1234"]


def test_brackets_are_text_and_long_cells_stay_on_their_line() -> None:
    cells = ("[bold]x[/bold]", "41.2 [38.0, 44.5]", "w" * 500)
    assert columns([cells]) == "  ".join(cells)


def test_wide_characters_take_two_places() -> None:
    first, second = columns([("\u732b", "1"), ("abc", "2")]).splitlines()
    assert cell_len(first[: first.index("1")]) == second.index("2")


def test_no_rows_are_no_text() -> None:
    assert columns([]) == ""
