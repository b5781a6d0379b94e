"""The columns or arrays of a source that hold the images and their labels: the user names them, or they have known
names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from robustctl.errors import RequestError

IMAGE = ("image", "img", "images", "png", "jpg", "webp")
LABEL = ("label", "labels", "fine_label", "target", "class")
"""Known names, the most usual first. A data set with several kinds of labels names its finest ``label``."""


@dataclass(frozen=True)
class Columns:
    """The names of the two columns; None is for what the source itself tells."""

    image: str | None = None
    label: str | None = None

    @classmethod
    def parse(cls, text: str | None) -> "Columns":
        """Read ``image=img,label=fine_label``; either may be missing.

        Raises:
            RequestError: another form, or a key other than these two.
        """
        given: dict[str, str] = {}
        for part in text.split(",") if text else []:
            key, equals, name = (word.strip() for word in part.partition("="))
            if not equals or not name or key not in ("image", "label") or key in given:
                raise RequestError(f"--columns {text!r} is not of the form image=img,label=fine_label")
            given[key] = name
        return cls(**given)

    def __str__(self) -> str:
        pairs = (("image", self.image), ("label", self.label))
        return ",".join(f"{key}={name}" for key, name in pairs if name is not None)

    def found(self, names: Iterable[str], where: str) -> "Columns":
        """Both names, each of them one that the source has.

        Raises:
            RequestError: a column is missing, or it is not clear which one is meant; the columns are listed.
        """
        present = list(names)
        return Columns(
            _chosen("image", self.image, IMAGE, present, where), _chosen("label", self.label, LABEL, present, where)
        )


@dataclass(frozen=True)
class Reading:
    """A user's words about a source that does not tell it by itself.

    Attributes:
        columns: the columns of tables, or the arrays of an ``.npz`` file, if their names are not usual ones.
        classes: the model's class (name or number) of each class of the data, if names do not tell it.
    """

    columns: Columns = Columns()
    classes: Mapping[str, str | int] | None = None


def _chosen(kind: str, asked: str | None, known: tuple[str, ...], present: list[str], where: str) -> str:
    listed = ", ".join(present) or "none"
    if asked is not None:
        if asked not in present:
            raise RequestError(f"{where} has no column {asked!r}; its columns: {listed}")
        return asked
    found = [name for name in known if name in present]
    if len(found) > 1 and kind == "image":
        raise RequestError(
            f"{where} has several columns of images ({', '.join(found)}); say --columns image={found[0]}"
        )
    if not found:
        raise RequestError(
            f"{where} has no column that is known to hold {kind}s ({' or '.join(known)}); its columns: {listed}. "
            f"Say which one it is: --columns {kind}=NAME"
        )
    return found[0]


def spelt_out(columns: Columns, present: Iterable[str]) -> str | None:
    """A note on the labels that were taken if the source has others too; None if there is only one kind."""
    others = [name for name in present if name != columns.label and (name in LABEL or name.endswith("_label"))]
    if not others:
        return None
    return f"labels are from column {columns.label}; for others say --columns label={others[0]}"
