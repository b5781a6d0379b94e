"""The attacks of other libraries in docs/own.md, each run if its library is installed; and the page's own attack."""

import re
import sys
import types
from pathlib import Path

import pytest

import robustctl
from robustctl.results.union import UnionResult

PAGE = (Path(__file__).parents[2] / "docs" / "own.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))


def evaluated(tmp_path: Path, file: str, name: str, norms: str) -> UnionResult:
    (tmp_path / file).write_text(FILES[file])
    return robustctl.evaluate(
        "digits-linf", n=40, protocol="fast", threats=norms, attacks=[f"{tmp_path / file}:{name}"], store=tmp_path / "s"
    )


def test_the_page_s_own_attack_runs(tmp_path: Path) -> None:
    (one,) = evaluated(tmp_path, "my_attack.py", "fgsm(steps=20)", "linf:0.15").external or []
    assert one.name == "my_attack.py:fgsm(steps=20)" and one.norms["linf"].broken > 5


def test_the_page_s_own_model_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(FILES["net.py"])
    run = robustctl.train(
        None, "digits/linf-at", model_code="net.py:build(width=8)", max_steps=1, overrides=["selection.images=20"]
    )
    assert run.read().model == "net.build"


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("library", "file", "name", "norms"),
    [
        ("foolbox", "with_foolbox.py", "pgd", ("linf", "l2", "l1")),
        ("torchattacks", "with_torchattacks.py", "pgd", ("linf", "l2")),
        ("adv_lib.attacks", "with_adv_lib.py", "adversarial_library", ("linf", "l2", "l1")),
        ("art.attacks.evasion", "with_art.py", "pgd", ("linf", "l2", "l1")),
    ],
)
def test_attacks_of_other_libraries_break_points_and_stay_inside(
    tmp_path: Path, library: str, file: str, name: str, norms: tuple[str, ...]
) -> None:
    sys.modules.setdefault("visdom", types.ModuleType("visdom"))  # adversarial-library draws with it if asked to
    pytest.importorskip(library)
    result = evaluated(tmp_path, file, name, "linf:0.15,l2:0.45,l1:1.4")
    (one,) = result.external or []
    assert tuple(one.norms) == norms
    for norm, figures in one.norms.items():
        assert figures.broken > 0, norm
    assert not [flag for flag in result.flags if flag.startswith("outside")]
