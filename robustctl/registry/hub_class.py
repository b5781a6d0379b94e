"""The classifier as the hub's own mixin knows it: ``RobustClassifier.from_pretrained("user/name")``."""

from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from robustctl import checkpoint
from robustctl.architectures import build
from robustctl.registry.hub import pytorch_mixin
from robustctl.spec import ModelSpec


class RobustClassifier(nn.Module, pytorch_mixin()):  # type: ignore[misc]  # the class is known only at run time
    """A ``Classifier`` built from the content of ``config.json``: images (n, c, h, w) in [0,1] to logits."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.spec = ModelSpec.model_validate(config)
        self.classifier = build(self.spec)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x)
        return logits

    def _save_pretrained(self, save_directory: Path) -> None:
        checkpoint.save_model(self.classifier, self.spec, save_directory)

    @classmethod
    def _load_as_safetensor(cls, model: Self, model_file: str, map_location: str, strict: bool) -> Self:
        """Load the network's own tensor names; always strictly."""
        checkpoint.load_weights(model.classifier, checkpoint.read_tensors(Path(model_file)), model_file)
        return model.to(map_location).eval()
