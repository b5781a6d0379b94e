"""Verdicts on claims, for people."""

from robustctl.report.columns import columns
from robustctl.results.verification import Checked, Sample, Verification

HEADER = ["accuracy in %", "claimed (at most)", "recomputed", "witnesses", "float ties"]


def text(one: Verification) -> str:
    """A claim's verdict, its figures beside the recomputed ones, and what the attack on survivors showed."""
    lines = [f"{one.model}, {one.claim}: {one.verdict}"]
    if one.figures:
        rows = {**one.figures, **{f"{norm}, 8-bit images": checked for norm, checked in one.eight_bit.items()}}
        lines.append(columns([HEADER, *(_row(name, checked) for name, checked in rows.items())]))
    lines += [_survivors(norm, sample, one.seed) for norm, sample in one.survivors.items()]
    lines += [*map(str, one.findings), *(f"note: {note}" for note in one.notes)]
    if one.data is not None:
        lines.append(f"{one.data.n} points of {one.data.text}, {one.seconds:.1f} s on {one.device}")
    return "\n".join(lines)


def _row(name: str, checked: Checked) -> list[str]:
    title = f"{name}:{checked.eps_text}" if checked.eps_text else name
    witnesses = "" if checked.witnesses is None else str(checked.witnesses)
    ties = str(checked.ties) if name not in ("average", "union") else ""
    return [title, f"{100 * checked.claimed:.1f}", f"{100 * checked.proven:.1f}", witnesses, ties]


def _survivors(norm: str, sample: Sample, seed: int | None) -> str:
    if not sample.sample:
        return f"{norm}: nothing is claimed to survive"
    low, high = (100 * bound for bound in sample.ci95)
    return (
        f"{norm}: {len(sample.fell)} of {sample.sample} survivors, drawn from {sample.survivors}, fell to fresh "
        f"attacks (seed {seed}): {low:.1f} to {high:.1f} % of all survivors would, with 95 % confidence"
    )
