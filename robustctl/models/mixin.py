"""The classifier as the hub's own mixin knows it: ``RobustClassifier.from_pretrained("user/name")``."""

from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from robustctl import checkpoint
from robustctl.architectures import build
from robustctl.errors import RequestError
from robustctl.hub.client import pytorch_mixin
from robustctl.models.find import pulled_directory
from robustctl.models.pull import pull
from robustctl.spec import WEIGHTS, ModelSpec, read_spec


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
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        map_location: str = "cpu",
        **_others: object,
    ) -> Self:
        """Pull and load as ``robustctl`` does: every file checked, shards too, tensors loaded strictly, no pickle ever.

        The mixin's own way would read ``pytorch_model.bin`` if there are no safetensors, and ignore missing tensors.
        Its other options (``cache_dir``, ``strict``, ...) change nothing here; the token comes from the environment.

        Raises:
            RequestError: no such model, or a damaged one.
            RunError: it could not be fetched.
        """
        if isinstance(token, str):
            raise RequestError("from_pretrained takes no token here; set HF_TOKEN")
        directory = _directory(str(pretrained_model_name_or_path), revision or "main", local_files_only)
        spec, weights = read_spec(directory), directory / WEIGHTS
        tensors = checkpoint.read_tensors(weights)
        checkpoint.require_fit(spec, tensors, str(weights))
        model = cls(spec.model_dump(mode="json", by_alias=True))
        checkpoint.load_weights(model.classifier, tensors, str(weights))
        return model.to(map_location).eval()


def _directory(model_id: str, revision: str, local_files_only: bool) -> Path:
    if Path(model_id).is_dir():
        return Path(model_id)
    if not local_files_only:
        return pull(model_id, revision)
    if (directory := pulled_directory(model_id, revision)) is None:
        raise RequestError(f"{model_id} is not here; robustctl pull {model_id}")
    return directory
