"""The conventions of the literature about the data sets that it compares on. No torch here."""

from dataclasses import dataclass

from robustctl.threats import Threat

CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""


@dataclass(frozen=True)
class Known:
    """The known facts about the images of a data set.

    Attributes:
        input_shape: (channels, height, width).
        n_classes: number of classes.
        brightness: mean of all pixels, in [0,1].
        classes: their names in the order of the labels; None if the names differ between copies.
        mean, std: the constants of the channels that networks are usually normalised with, if there are usual ones.
    """

    input_shape: tuple[int, int, int]
    n_classes: int
    brightness: float
    classes: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


TEN_DIGITS = tuple("0123456789")
KNOWN: dict[str, Known] = {
    "cifar10": Known(
        (3, 32, 32),
        10,
        0.473,
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        (0.4914, 0.4822, 0.4465),
        (0.2471, 0.2435, 0.2616),
    ),
    "cifar100": Known(
        (3, 32, 32), 100, 0.478, tuple(CIFAR100.split()), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    ),
    "digits": Known((1, 8, 8), 10, 0.305, TEN_DIGITS),
    "imagenet": Known((3, 224, 224), 1000, 0.449, None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mnist": Known((1, 28, 28), 10, 0.131, TEN_DIGITS, (0.1307,), (0.3081,)),
    "svhn": Known((3, 32, 32), 10, 0.452, TEN_DIGITS, (0.4377, 0.4438, 0.4728), (0.198, 0.201, 0.197)),
}


@dataclass(frozen=True)
class Convention:
    """One data set that unions are compared on.

    Attributes:
        source: the place of its images, in the words of ``--data``.
        input_shape: (channels, height, width).
        n_classes: number of classes.
        threats: the threats whose union is evaluated, in the order of tables.
    """

    source: str
    input_shape: tuple[int, int, int]
    n_classes: int
    threats: tuple[Threat, ...]


def _convention(name: str, source: str, linf: str, l2: str, l1: str) -> Convention:
    threats = Threat.of("linf", linf), Threat.of("l2", l2), Threat.of("l1", l1)
    return Convention(source, KNOWN[name].input_shape, KNOWN[name].n_classes, threats)


# Radii of CIFAR-10 and MNIST: Croce and Hein 2022 (E-AT), sections 3.3 and E; CIFAR-100, whose images are of the same
# size, takes CIFAR-10's radii. The radii of digits are this project's own: no ball holds another, and the hull of the
# l_1 and l_inf balls holds an l_2 ball of radius 0.4638, above 0.45.
CONVENTIONS: dict[str, Convention] = {
    "cifar10": _convention("cifar10", "uoft-cs/cifar10", "8/255", "0.5", "12"),
    "cifar100": _convention("cifar100", "uoft-cs/cifar100", "8/255", "0.5", "12"),
    "digits": _convention("digits", "digits", "0.15", "0.45", "1.4"),
    "mnist": _convention("mnist", "ylecun/mnist", "0.3", "2", "10"),
}
