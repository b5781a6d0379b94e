"""robustctl: adversarial robustness against several threat models at once."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustctl.architectures import Classifier

__version__ = "0.1.0"


def load_model(name: str) -> "Classifier":
    """Load a model: images (n, c, h, w) in [0,1] to logits (n, n_classes), in eval mode on the CPU.

    Args:
        name: an entry of the registry, a hub repo ``user/name`` or ``user/name@revision`` (pulled if it is not here
            yet), or a directory with ``config.json`` and ``model.safetensors``.

    Raises:
        RequestError: no such model, or it is damaged.
        RunError: it could not be fetched.
    """
    from robustctl import checkpoint
    from robustctl.workflows.obtain import obtain

    located = obtain(name, pull=True)
    return checkpoint.load_from(located.spec, located.weights)
