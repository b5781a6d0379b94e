"""What the literature has agreed on for the data sets that it compares on. No torch here."""

from dataclasses import dataclass

from robustctl.threats import Threat


@dataclass(frozen=True)
class Standard:
    """One data set.

    Attributes:
        source: where its images come from, in the words of ``--data``.
        input_shape: (channels, height, width).
        n_classes: number of classes.
        threats: the threats whose union is evaluated, in the order of tables.
    """

    source: str
    input_shape: tuple[int, int, int]
    n_classes: int
    threats: tuple[Threat, ...]


def _threats(linf: str, l2: str, l1: str) -> tuple[Threat, ...]:
    return Threat.of("linf", linf), Threat.of("l2", l2), Threat.of("l1", l1)


# Radii of CIFAR-10 and MNIST: Croce and Hein 2022 (E-AT), sections 3.3 and E. Those of digits are this project's own:
# no ball holds another, and the hull of the l_1 and l_inf balls holds an l_2 ball of radius 0.4638, above 0.45.
STANDARDS: dict[str, Standard] = {
    "cifar10": Standard("uoft-cs/cifar10", (3, 32, 32), 10, _threats("8/255", "0.5", "12")),
    "digits": Standard("digits", (1, 8, 8), 10, _threats("0.15", "0.45", "1.4")),
    "mnist": Standard("ylecun/mnist", (1, 28, 28), 10, _threats("0.3", "2", "10")),
}
