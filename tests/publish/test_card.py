"""Model cards: what they escape, and what of a user's own card survives byte for byte."""

import re

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from samples import result

from robustctl.models.licence import front_matter
from robustctl.publish import card
from robustctl.publish.card import TEXT_BEGIN, TEXT_END, YAML_BEGIN, YAML_END, Place, Story, plain, render
from robustctl.report.table import markdown
from robustctl.results.union import summarize
from robustctl.spec import Architecture, ModelSpec
from robustctl.threats import Threat

SPEC = ModelSpec(architecture=Architecture(name="kw-small"), input_shape=(1, 8, 8), n_classes=10, dataset="digits")


def story(**changes: object) -> Story:
    values = {
        "place": Place("alice/m"),
        "spec": SPEC,
        "licence": "mit",
        "results": [result("m", "0" * 64, 6)],
        "table": "|a|",
    }
    return Story(**(values | changes))


def outside(text: str) -> tuple[str, str]:
    """The user's part of a card: front matter and text without our sections."""
    front = re.sub(f"{YAML_BEGIN}.*?{YAML_END}\r?\n", "", text, flags=re.DOTALL)
    return tuple(re.sub(f"{TEXT_BEGIN}.*?{TEXT_END}", "", front, flags=re.DOTALL).partition("---")[::2])


OWN = [
    "",
    "# My model\n\nWords.\n",
    "no newline at the end",
    "---\nlanguage: en\n---\n# Mine\n",
    "---\nlanguage: en # comment\nlicense: apache-2.0\n---\n\n\ntext\n",
    "---\r\nlanguage: en\r\n---\r\n# Mine\r\n\r\ntext\r\n",
    "---\nbroken: [\n---\ntext\n",
    "---\nbroken: 2024-13-45\n---\ntext\n",
    "--- \nlanguage: en\n---  \ntext --- with dashes\n---\n",
    "text\n---\nnot front matter\n---\n",
    "caf\u00e9 \u2713 \t trailing  \n",
]


@pytest.mark.parametrize("own", OWN, ids=range(len(OWN)))
def test_a_users_own_card_survives_byte_for_byte_and_again(own: str) -> None:
    first = render(story(), own)
    second = render(story(licence="mit"), first)
    assert second == first
    changed = render(story(table="|another|"), first)
    assert changed != first
    assert outside(changed) == outside(first)
    text = re.sub(r"\A---[ \t]*\r?\n.*?^---[ \t]*\r?\n", "", own, flags=re.DOTALL | re.MULTILINE)
    assert text in changed


@example("\r")
@example("a\nb\r\n")
@given(st.text(alphabet=st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=200))
def test_any_text_survives(own: str) -> None:
    first = render(story(), own)
    assert render(story(), first) == first


def test_keys_that_the_user_has_set_stay_the_users() -> None:
    text = render(story(), "---\nlicense: apache-2.0\ntags: [mine]\n---\n")
    found = front_matter(text)
    assert (found["license"], found["tags"], found["library_name"]) == ("apache-2.0", ["mine"], "robustctl")


def test_both_line_ends_make_yaml() -> None:
    for own in OWN:
        if "broken" not in own:
            assert front_matter(render(story(), own))["library_name"] == "robustctl"


@pytest.mark.parametrize(
    "evil",
    [
        "<script>alert(1)</script>",
        "a | b | c",
        "](javascript:alert(1))",
        f"{TEXT_END} outside",
        "`code` *bold* # heading",
        "two\nlines\n# heading",
    ],
)
def test_quoted_values_are_not_markup(evil: str) -> None:
    text = render(story(base=evil, provenance={"recipe": evil}))
    assert "<script>" not in text
    assert text.count(TEXT_BEGIN) == text.count(TEXT_END) == 1
    assert "\n# heading" not in text
    assert "\n" not in plain(evil)


def test_a_name_that_would_break_the_yaml_is_quoted() -> None:
    text = render(story(licence="mit", base_repo="a/b: [c", base="x"))
    assert front_matter(text)["base_model"] == "a/b: [c"


def test_the_model_index_has_every_figure_with_its_attack_and_interval() -> None:
    (index,) = card.metadata(story())["model-index"]
    (one,) = index["results"]
    assert [metric["name"] for metric in one["metrics"]] == [
        "clean accuracy",
        "robust accuracy, linf, eps 0.15",
        "robust accuracy, l1, eps 1.8",
        "average robust accuracy",
        "union robust accuracy",
    ]
    for metric in one["metrics"]:
        assert 0 <= metric["value"] <= 1
        assert {"n", "attack", "protocol", "ci95"} <= set(metric["args"])
    assert yaml.safe_dump(index)


def test_a_model_that_was_not_evaluated_says_so() -> None:
    text = render(story(results=[], table=""))
    assert "Not evaluated." in text
    assert "model-index" not in front_matter(text)


def test_bounds_are_marked_in_the_table_and_are_no_accuracies_of_the_model_index() -> None:
    found = result("m", "0" * 64, 6)
    threats = [Threat.of("linf", "0.15"), Threat.of("l1", "1.8")]
    bounded = found.model_copy(update=dict(summarize(found.points, threats, {}, True)))
    text = render(story(results=[bounded], table=markdown([("after", bounded)])))
    (index,) = front_matter(text)["model-index"]
    names = [metric["name"] for metric in index["results"][0]["metrics"]]
    assert names == ["clean accuracy", "union robust accuracy"]
    for row in ("linf:0.15", "l1:1.8", "average"):
        assert f"| {row} | &lt;= 60.0 [" in text
    assert "| union | 60.0 [" in text
