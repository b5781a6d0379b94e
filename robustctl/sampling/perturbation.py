"""The distribution of perturbations as a user writes it: ``linf:8/255``. No torch here."""

from dataclasses import dataclass
from typing import Literal, get_args

from robustctl.discovery import unknown
from robustctl.errors import RequestError
from robustctl.threats import Threat, parse_eps

Kind = Literal["linf", "l2", "gaussian", "spatial"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SMALLEST_SIDE = 8  # pixels, for crops of up to 4


@dataclass(frozen=True)
class Perturbation:
    """A distribution of perturbed images around an image (Rice, thesis 2023, chapter 3).

    Attributes:
        kind: ``linf`` and ``l2``: uniform on the ball cut by the pixel box; ``gaussian``: normal noise on every pixel,
            not cut; ``spatial``: flips, rotations, scalings and crops.
        size: radius of the ball or standard deviation, > 0; None for ``spatial``.
        text: the size as written, e.g. ``"8/255"``; empty for ``spatial``.
    """

    kind: Kind
    size: float | None
    text: str

    @classmethod
    def parse(cls, text: str) -> "Perturbation":
        """Read ``linf:8/255``, ``l2:0.5``, ``gaussian:0.1`` or ``spatial``.

        Raises:
            RequestError: unknown kind, a size that is missing, surplus, or not a finite number above 0.
        """
        name, colon, size = (part.strip() for part in text.partition(":"))
        kind = next((kind for kind in KINDS if kind == name), None)
        if kind is None:
            raise unknown("distribution", name, KINDS)
        if kind == "spatial":
            if colon:
                raise RequestError(f"distribution {text!r}: spatial takes no size")
            return cls(kind, None, "")
        if not size:
            raise RequestError(f"distribution {text!r} lacks its size; write it like {kind}:{_example(kind)}")
        return cls(kind, parse_eps(size), size)

    def require(self, input_shape: tuple[int, int, int]) -> None:
        """Raise RequestError when images of this shape cannot be perturbed so: pixels lie in [0,1]."""
        shape = "x".join(map(str, input_shape))
        if self.kind == "spatial" and min(input_shape[1:]) < SMALLEST_SIDE:
            raise RequestError(
                f"distribution spatial crops up to 4 pixels; a model for {shape} images has no room for it"
            )
        if self.kind == "linf" and self.size is not None and self.size > 1:
            raise RequestError(f"distribution {self}: pixels lie in [0,1]; did you mean linf:{self.text}/255?")
        if self.kind == "l2" and self.size is not None and self.size**2 > _numel(input_shape):
            raise RequestError(f"distribution {self} is wider than the whole pixel box of {shape} images")

    @property
    def threat(self) -> Threat | None:
        """The ball that the distribution fills; None if it fills none."""
        if self.kind in ("linf", "l2"):
            return Threat.of(self.kind, self.text)
        return None

    def __str__(self) -> str:
        return f"{self.kind}:{self.text}" if self.text else self.kind


def _example(kind: Kind) -> str:
    return {"linf": "8/255", "l2": "0.5"}.get(kind, "0.1")


def _numel(shape: tuple[int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2]
