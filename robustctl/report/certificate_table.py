"""Certificates as tables: certified at least, under attack at most, by norm and for the union."""

from robustctl.report.columns import columns
from robustctl.results.certificate import Certificate
from robustctl.results.result_file import Accuracy


def table(result: Certificate) -> str:
    """Certified and attacked accuracy in percent; the true one lies between them."""
    rows = [["accuracy in %", "radius", "certified, at least", "under attack, at most"]]
    rows.append(["clean", "", _percent(Accuracy.of(result.clean)), ""])
    for norm, text in result.eps.items():
        rows.append([norm, text, _percent(result.certified[norm]), _percent(result.most(norm))])
    if len(result.eps) > 1:
        rows.append(["union", "", _percent(result.union), _percent(result.most_union())])
    notes = [
        f"{result.model}: {result.data.n} points of {result.data.text}, {result.seconds:.0f} s on {result.device}. "
        f"Bounds by {result.bound} in float64; a certified point is right at every image of the ball.",
    ]
    if not result.attacked:
        notes.append("robustctl eval of the same model, images and radii fills the last column.")
    for norm in result.eps:
        if wrong := result.broken(norm):
            notes.append(f"flag: {len(wrong)} points are certified in {norm} and were broken: one of the two is wrong")
    return "\n".join([columns(rows, right=(2, 3)), "", *notes, *(f"flag: {flag}" for flag in result.flags)])


def _percent(one: Accuracy | None) -> str:
    return f"{100 * one.acc:.1f} [{100 * one.ci95[0]:.1f}, {100 * one.ci95[1]:.1f}]" if one else "-"
