"""The three steps of robustctl on the bundled model, in about a minute and without a network."""

from typing import TYPE_CHECKING

from robustctl import terminal
from robustctl.progress import say

if TYPE_CHECKING:
    from robustctl.results.union import UnionResult

MODEL, RECIPE, IMAGES = "digits-linf", "e-at", "digits"
NEXT = f"""
The fine-tuned model is the newest run. What to type next:
  robustctl push --repo USER/NAME --dry-run     what would go to the hub
  robustctl finetune {MODEL} --recipe {RECIPE} --set train.epochs=30
  robustctl eval --union                        the newest run again
  robustctl models list                         models to start from
  robustctl recipes list                        ways to train them
  robustctl finetune --help                     your own model and data"""


def command() -> None:
    """Evaluate the bundled model, fine-tune it for the union, evaluate again. Takes about a minute on two cores."""
    import torch

    from robustctl.report.table import before_after
    from robustctl.workflows.train import train
    from robustctl.workflows.training_request import TrainingRequest

    # The images have 64 pixels: a second thread costs more in waiting than it computes.
    torch.set_num_threads(1)
    say(f"1/3  robustctl eval {MODEL} --union")
    before = _evaluate(MODEL)
    say(f"2/3  robustctl finetune {MODEL} --recipe {RECIPE}")
    run = train(TrainingRequest("finetune", MODEL, RECIPE, device="cpu"))
    assert run is not None  # only torchrun's other processes get none
    terminal.show(run.path)
    say("3/3  robustctl eval --union")
    after = _evaluate(None)
    terminal.show("\n" + before_after([("before", before), ("after", after)]))
    terminal.show(NEXT)


def _evaluate(model: str | None) -> "UnionResult":
    """The result of ``robustctl eval [MODEL] --union`` on the whole test split."""
    from robustctl.devices import HOST
    from robustctl.evaluation.families import default_batch_size
    from robustctl.evaluation.protocols import DEFAULT
    from robustctl.evaluation.union_request import UnionRequest
    from robustctl.workflows.evaluate import evaluate
    from robustctl.workflows.images import NamedImages
    from robustctl.workflows.subject import find_subject

    subject = find_subject(model)
    request = UnionRequest(subject.default_threats(), DEFAULT, seed=0, batch_size=default_batch_size(HOST))
    result, _ = evaluate(subject, request, NamedImages(IMAGES), device="cpu")
    assert result is not None
    return result
