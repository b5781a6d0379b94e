"""Judges a published claim: every verdict anew from the witnesses, then a sample of the survivors by fresh attacks.

Witnesses prove which points are broken. Nothing can prove that a point is robust, so that a claim that hides broken
points is found by attacks alone: with a seed that nobody could know before, and of a kind that no protocol uses.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from robustctl.architectures import Classifier, device_of
from robustctl.checkpoint import weights_sha256
from robustctl.data import ImageData
from robustctl.devices import device_name
from robustctl.evaluation import consistency, referee
from robustctl.evaluation.audit import TIE, chunks
from robustctl.evaluation.challenge import SAMPLE, challenge
from robustctl.evaluation.families import default_batch_size
from robustctl.evaluation.witnesses import Witnesses
from robustctl.results.union import NormAccuracy, UnionResult
from robustctl.results.verification import Checked, Finding, Sample, Verdict, Verification, claim_sha256
from robustctl.spec import ModelSpec, model_sha256
from robustctl.threats import NORMS, Norm, Threat
from robustctl.version import versions

MOST_TIES, MOST_TIED = 3, 0.01
"""Ties that chance leaves: so many, or this share of the points. Tiny logits would make everything a tie."""


@dataclass
class _Ledger:
    """The findings so far."""

    findings: list[Finding] = field(default_factory=list)
    figures: dict[str, Checked] = field(default_factory=dict)
    eight_bit: dict[Norm, Checked] = field(default_factory=dict)
    survivors: dict[Norm, Sample] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, verdict: Verdict, text: str, points: Sequence[int] = ()) -> None:
        self.findings.append(Finding(verdict=verdict, text=text, points=tuple(points)))

    def count_ties(self, about: str, ties: int, n: int) -> None:
        """Ties are taken as they are claimed, so that many of them prove nothing."""
        if ties > max(MOST_TIES, MOST_TIED * n):
            text = f"{ties} of {n} verdicts {about} are float ties: the margins are too small to tell who is right"
            self.add("cannot be checked", text)


def verify(
    model: Classifier,
    spec: ModelSpec,
    data: ImageData | None,
    result: UnionResult,
    witnesses: Witnesses | None,
    *,
    name: str,
    claim: str,
    found: Sequence[Finding] = (),
    sample: int = SAMPLE,
    seed: int = 0,
) -> Verification:
    """Check a claim against a model.

    Args:
        model: on the device to be used.
        data: images that are said to be the claim's; None if nobody has them, which ``found`` tells.
        witnesses: of the claim; None if it has none.
        name, claim: what to call the model and the claim.
        found: what was found before, about the card for example.
        sample: survivors of each norm that are attacked.
        seed: of the sample and of the attacks; nobody who made the claim may know it.

    Raises:
        RequestError: a damaged file of witnesses.
        RunError: logits are not finite.
    """
    start = time.monotonic()
    model.eval()
    ledger = _Ledger(list(found))
    if _is_same(ledger, model, spec, data, result, witnesses) and data is not None:
        correct = _clean(ledger, model, data, result)
        broken = _witnessed(ledger, model, data, result, witnesses, correct)
        _means(ledger, result, correct, broken)
        if not any(one.verdict == "not reproduced" for one in ledger.findings):
            _challenge(ledger, model, data, result, correct, sample, seed)
    return Verification(
        model=name,
        claim=claim,
        claim_sha256=claim_sha256(result),
        weights_sha256=weights_sha256(model),
        model_sha256=model_sha256(spec),
        data=result.data,
        findings=ledger.findings,
        figures=ledger.figures,
        eight_bit=ledger.eight_bit,
        survivors=ledger.survivors,
        seed=seed,
        notes=[*ledger.notes, *_notes(result)],
        seconds=round(time.monotonic() - start, 3),
        date=today(),
        device=device_name(device_of(model)),
        versions=versions(),
    )


def today() -> str:
    """The time in UTC, as results write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def in_order(result: UnionResult) -> list[tuple[Norm, NormAccuracy]]:
    """The norms of a result in the order of the tables; files may have any other."""
    return [(norm, result.norms[norm]) for norm in NORMS if norm in result.norms]


def _notes(result: UnionResult) -> list[str]:
    """The notes that are no faults, but that a reader must see."""
    notes = []
    index = result.points.index
    if index != list(range(len(index))):
        notes.append(f"the {len(index)} points are a selection, not the first {len(index)} of their split")
    if result.attack.passes > 1:
        notes.append(f"the model is random: each point is judged by {result.attack.passes} passes, and some may differ")
    if result.attack.union_only:
        notes.append("only the union was claimed: a norm's own figure is an upper bound")
    if not consistency.knows(result.attack.name):
        notes.append(f"this version knows no protocol {result.attack.name}: its name was not compared with its attacks")
    return notes + [f"flag of the claim: {flag}" for flag in result.flags]


def _is_same(
    ledger: _Ledger,
    model: Classifier,
    spec: ModelSpec,
    data: ImageData | None,
    result: UnionResult,
    witnesses: Witnesses | None,
) -> bool:
    """Whether weights and images are the claim's own, so that its points can be judged."""
    same = weights_sha256(model) == result.weights_sha256
    if not same:
        ledger.add("not reproduced", "the weights are not those that were evaluated")
    if data is not None and (fault := _fault_of(data, result)):
        ledger.add(*fault)
        same = False
    if witnesses is None:
        ledger.add("cannot be checked", "the claim has no witnesses: nothing proves which points are broken")
    origin = witnesses.origin if witnesses else None
    if origin is None:
        return same
    threats = {norm: one.eps_text for norm, one in result.norms.items()}
    if origin.model_sha256 != model_sha256(spec):
        ledger.add("not reproduced", "architecture or normalisation are not those that were evaluated")
    if origin.weights_sha256 != result.weights_sha256 or origin.threats != threats:
        ledger.add("not reproduced", "the witnesses are of other weights or radii than the claim")
    if result.data.content_sha256 and origin.content_sha256 != result.data.content_sha256:
        ledger.add("not reproduced", "the witnesses are of other images than the claim")
    return same


def _fault_of(data: ImageData, result: UnionResult) -> tuple[Verdict, str, list[int]] | None:
    """The reason why the images at hand are not the claim's, or why the claim contradicts itself."""
    if data.indices.tolist() != result.points.index or data.index_sha256 != result.data.index_sha256:
        return "not reproduced", "its list of points is not that which was evaluated", []
    wrong = [
        i
        for i, here, there in zip(result.points.index, data.y.tolist(), result.points.label, strict=True)
        if here != there
    ]
    if wrong:
        return "not reproduced", f"labels of the claim are not the labels of {data.where}", wrong
    known = result.data.content_sha256
    if known and not data.has_content(known):
        return "not reproduced", f"the images of {data.where} are not those that were evaluated", []
    return None


def _clean(ledger: _Ledger, model: Classifier, data: ImageData, result: UnionResult) -> list[bool]:
    """Classify the images; what differs is a finding. Returns which are right here."""
    right: list[bool] = []
    margins: list[float] = []
    for chunk in chunks(range(len(data)), _batch(model)):
        votes = referee.vote(model, data.images(chunk), data.y[chunk], result.attack.passes, "meets an image on which")
        right += (~votes.wrong).tolist()
        margins += votes.margin.tolist()
    claimed = [bool(one) for one in result.points.clean]
    differing = [i for i in range(len(data)) if right[i] != claimed[i]]
    ties = [i for i in differing if abs(margins[i]) <= TIE]
    index = result.points.index
    lost = [index[i] for i in differing if i not in ties and claimed[i]]
    won = [index[i] for i in differing if i not in ties and not claimed[i]]
    if lost:
        ledger.add("not reproduced", "images that are claimed to be right are classified wrongly", lost)
    if won:
        ledger.add("stronger than claimed", "images that are claimed to be wrong are classified rightly", won)
    ledger.count_ties("without an attack", len(ties), len(data))
    ledger.figures["clean"] = Checked(claimed=result.clean.acc, proven=sum(right) / len(right), ties=len(ties))
    return [claimed[i] if i in ties else right[i] for i in range(len(data))]


def _witnessed(
    ledger: _Ledger,
    model: Classifier,
    data: ImageData,
    result: UnionResult,
    witnesses: Witnesses | None,
    correct: list[bool],
) -> dict[Norm, set[int]]:
    """Judge every witness; returns the positions that are proven to be broken, by norm (ties as they are claimed)."""
    proven: dict[Norm, set[int]] = {}
    wrong = {position for position, right in enumerate(correct) if not right}
    for norm, accuracy in in_order(result):
        claimed = {position for position, robust in enumerate(result.points.robust[norm]) if not robust}
        rounded = claimed if accuracy.acc_8bit is not None else set()
        judged = _judge(model, data, Threat.of(norm, accuracy.eps_text), witnesses, result.attack.passes, rounded)
        _compare(ledger, norm, result.points.index, claimed - wrong, judged, wrong, witnesses is not None)
        _eight_bit(ledger, norm, result, judged, correct)
        proven[norm] = judged.broken | wrong | (judged.ties & claimed)
        ledger.count_ties(f"in {norm}", len(judged.ties), len(data))
        ledger.figures[norm] = Checked(
            claimed=accuracy.acc,
            proven=(len(data) - len(proven[norm])) / len(data),
            ties=len(judged.ties),
            witnesses=len(judged.all),
            eps_text=accuracy.eps_text,
        )
    return proven


@dataclass
class _Judged:
    """Positions of one norm by what their witnesses are; ``rounded`` has whether and by which margin the claim's own
    ones break their points as images of 8-bit pixels."""

    broken: set[int] = field(default_factory=set)
    outside: set[int] = field(default_factory=set)
    ties: set[int] = field(default_factory=set)
    withstood: set[int] = field(default_factory=set)
    rounded: dict[int, tuple[bool, float]] = field(default_factory=dict)

    @property
    def all(self) -> set[int]:
        return self.broken | self.outside | self.ties | self.withstood


def _judge(
    model: Classifier, data: ImageData, threat: Threat, witnesses: Witnesses | None, passes: int, rounded: set[int]
) -> _Judged:
    """Judge every witness of a norm, and the first one of each position in ``rounded`` as an 8-bit image too."""
    found = _Judged()
    for everything, images in witnesses.batches(threat, data) if witnesses else ():
        x = data.images(everything)
        inside = referee.in_ball(images, x, threat) & referee.in_box(images)  # NaN is outside, and is not classified
        found.outside |= {position for position, one in zip(everything, inside.tolist(), strict=True) if not one}
        positions = [position for position, one in zip(everything, inside.tolist(), strict=True) if one]
        if not positions:
            continue
        verdicts = referee.judge(model, x[inside], data.y[positions], images[inside], threat, passes)
        for position, breaks, margin in zip(positions, verdicts.broken.tolist(), verdicts.margin.tolist(), strict=True):
            near = found.ties if abs(margin) <= TIE else found.withstood
            (found.broken if breaks else near).add(position)
        first = [place for place, one in enumerate(positions) if one in rounded and one not in found.rounded]
        if first:
            chosen = [positions[place] for place in first]
            x_adv = images[inside][first]
            eight = referee.judge_8bit(model, x[inside][first], data.y[chosen], x_adv, threat, passes)
            found.rounded |= dict(
                zip(chosen, zip(eight.broken.tolist(), eight.margin.tolist(), strict=True), strict=True)
            )
    return found


def _compare(
    ledger: _Ledger,
    norm: Norm,
    index: Sequence[int],
    claimed: set[int],
    judged: _Judged,
    wrong: set[int],
    has_witnesses: bool,
) -> None:
    """Compare what witnesses show with the points ``claimed`` to be broken; the ``wrong`` ones need no witness."""

    def add(verdict: Verdict, text: str, positions: set[int]) -> None:
        if positions:
            ledger.add(verdict, f"{norm}: {text}", [index[position] for position in sorted(positions)])

    add("not reproduced", "witnesses lie outside the ball or the box", judged.outside)
    add("not reproduced", "points that are claimed to be robust are broken", judged.broken - claimed - wrong)
    withstood = judged.withstood & claimed
    add("stronger than claimed", "the model withstands witnesses of points that are claimed to be broken", withstood)
    if has_witnesses:
        add("cannot be checked", "points that are claimed to be broken have no witness", claimed - judged.all)


def _eight_bit(ledger: _Ledger, norm: Norm, result: UnionResult, judged: _Judged, correct: list[bool]) -> None:
    """Compare the accuracy on images of 8-bit pixels with what the claim's own witnesses give once they are rounded.

    Earlier versions rounded in another way and kept no verdicts of points: there the share alone can be compared.
    """
    share, column = result.norms[norm].acc_8bit, (result.points.robust_8bit or {}).get(norm)
    if share is None:
        return
    here, ties = [int(right) for right in correct], 0
    for position, (breaks, margin) in judged.rounded.items():
        found = here[position] and int(not breaks)
        if column is not None and found != column[position] and abs(margin) <= TIE:
            found, ties = column[position], ties + 1
        here[position] = found
    proven = sum(here) / len(here)
    ledger.eight_bit[norm] = Checked(claimed=share, proven=proven, ties=ties)
    if column is None:
        if abs(share - proven) > 0.5 / len(here):
            text = f"{norm}: the accuracy on 8-bit images is another here, and the claim does not say on which points"
            ledger.add("cannot be checked", text)
        return
    index = result.points.index
    fell = [index[position] for position in judged.rounded if column[position] > here[position]]
    held = [index[position] for position in judged.rounded if column[position] < here[position]]
    if fell:
        ledger.add("not reproduced", f"{norm}: points that are claimed to withstand their 8-bit images do not", fell)
    if held:
        ledger.add(
            "stronger than claimed", f"{norm}: the model withstands 8-bit images that are claimed to break", held
        )


def _means(ledger: _Ledger, result: UnionResult, correct: list[bool], broken: dict[Norm, set[int]]) -> None:
    """Average and union, as they follow from what was proven."""
    n = len(correct)
    average = sum(n - len(positions) for positions in broken.values()) / (n * len(broken))
    union = (n - len(set().union(*broken.values()))) / n
    ledger.figures["average"] = Checked(claimed=result.average, proven=average)
    ledger.figures["union"] = Checked(claimed=result.union.acc, proven=union)


def _challenge(
    ledger: _Ledger,
    model: Classifier,
    data: ImageData,
    result: UnionResult,
    correct: list[bool],
    sample: int,
    seed: int,
) -> None:
    """Attack a sample of what is claimed to survive.

    The points that fall lower the figure. The claim is not reproduced if that takes it out of its own 95 % interval: a
    few points that another start breaks are within what any attack misses.
    """
    if not sample:
        ledger.add("cannot be checked", "no survivor was attacked, and no witness can prove that a point is robust")
        return
    samples = challenge(model, data, result, correct, size=sample, seed=seed, batch_size=_batch(model))
    if samples is None:
        ledger.add("cannot be checked", "the model gives no gradient, so that survivors cannot be attacked")
        return
    ledger.survivors |= samples
    for norm, one in samples.items():
        if not one.fell:
            continue
        claimed = result.union if result.attack.union_only else result.norms[norm]
        most, least = claimed.acc * (1 - one.ci95[0]), claimed.ci95[0]
        text = f"{norm}: {len(one.fell)} of {one.sample} sampled survivors fell to fresh attacks"
        if most < least:
            so = f"at most {100 * most:.1f} % are robust (with 97.5 % confidence), and the claim's interval begins at"
            ledger.add("not reproduced", f"{text}: {so} {100 * least:.1f} %", one.fell)
        else:
            named = ", ".join(map(str, one.fell))
            interval = f"{100 * least:.1f} to {100 * claimed.ci95[1]:.1f} %"
            ledger.notes.append(f"{text} (points {named}), which is within the claim's own interval of {interval}")


def _batch(model: Classifier) -> int:
    return default_batch_size(device_of(model))
