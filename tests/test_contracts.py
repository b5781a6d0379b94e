"""Promises that hold for the project as a whole: they walk everything that is there."""

import ast
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "robustctl"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))

# The rooms of the house, from the top. A file may import only from its own room and from those above it.
ROOMS = (
    "version",
    "errors",
    "home",
    "discovery",
    "threats",
    "conventions",
    "files",
    "reading",
    "yaml_faults",
    "terminal",
    "parent",
    "progress",
    "locks",
    "user_code",
    "allocator",
    "modes",
    "results",
    "spec",
    "seeds",
    "devices",
    "geometry",
    "losses",
    "recipe",
    "architectures",
    "checkpoint",
    "data",
    "hub",
    "models",
    "precision",
    "fast_copy",
    "trusted_copy",
    "pieces",
    "oracle",
    "attacks",
    "perturbations",
    "corruptions",
    "suites",
    "sampling",
    "processes",
    "training",
    "evaluation",
    "intermediate",
    "certify",
    "report",
    "runs",
    "study",
    "publish",
    "workflows",
    "evaluate_functions",
    "bench",
    "cli",
    "__main__",
)
HEAVY = {"torch", "pydantic", "numpy", "rich", "sklearn", "pyarrow", "huggingface_hub", "safetensors", "pyautoattack"}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported_rooms(tree: ast.AST) -> set[str]:
    rooms = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            targets = [node.module] if node.module != "robustctl" else [f"robustctl.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            continue
        rooms |= {target.split(".")[1] for target in targets if target.startswith("robustctl.")}
    return rooms


def _imported_modules(tree: ast.AST, modules: set[str]) -> set[str]:
    """Modules of the package that are named in any import: at the top, in a function, or for the type checker."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & modules
            if inner - modules:
                found.add(node.module)
    return found & modules


def _circle(imports: dict[str, set[str]]) -> list[str]:
    """The modules of one import circle in their order, the first again at the end; empty if there is none."""
    done: set[str] = set()

    def search(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(imports[module]):
            if found := search(target, [*path, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(imports) if (found := search(module, []))), [])


def _imports_at_top(tree: ast.Module) -> set[str]:
    found = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_point_upwards(path: Path) -> None:
    room = _room(path)
    if room == "__init__":
        return
    assert room in ROOMS, f"{room} has no place in the list of rooms"
    above = set(ROOMS[: ROOMS.index(room) + 1])
    assert _imported_rooms(ast.parse(path.read_text())) <= above


def test_no_import_circle() -> None:
    parts = {path: path.relative_to(ROOT).with_suffix("").parts for path in MODULES}
    names = {path: ".".join(part for part in parts[path] if part != "__init__") for path in MODULES}
    modules = set(names.values())
    imports = {names[path]: _imported_modules(ast.parse(path.read_text()), modules) for path in MODULES}
    assert sum(map(len, imports.values())) > 500  # the imports were seen
    assert not (circle := _circle(imports)), "an import circle: " + " -> ".join(circle)


def test_a_circle_is_found_and_named() -> None:
    imports = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a", "e"}, "e": set()}
    assert _circle(imports) == ["b", "c", "b"]
    assert _circle(imports | {"c": set()}) == []
    assert _circle({"a": {"a"}}) == ["a", "a"]


@pytest.mark.parametrize("path", [path for path in MODULES if _room(path) == "cli"], ids=_name)
def test_command_files_import_nothing_heavy_at_their_top(path: Path) -> None:
    assert not _imports_at_top(ast.parse(path.read_text())) & HEAVY


@pytest.mark.parametrize("path", [path for path in MODULES if _room(path) == "cli"], ids=_name)
def test_no_command_calls_another(path: Path) -> None:
    commands = [other.stem for other in MODULES if _room(other) == "cli" and _is_command(other)]
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "robustctl.cli":
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("robustctl.cli."):
            imported.add(str(node.module).split(".")[2])
    assert len(commands) > 10
    assert not imported & set(commands)


def _is_command(path: Path) -> bool:
    return bool(re.search(r"^(def command\(|app = )", path.read_text(), re.MULTILINE)) and path.stem != "__init__"


def test_no_file_is_private() -> None:
    assert not [_name(path) for path in MODULES if path.stem.startswith("_") and not path.stem.startswith("__")]


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        ("safetensors", {"robustctl/checkpoint.py"}),
        ("huggingface_hub", {"robustctl/hub/client.py"}),
        ("yaml", None),
    ],
)
def test_a_library_has_its_owner(library: str, owners: set[str] | None) -> None:
    pattern = re.compile(rf"^\s*(?:from|import) {library}\b", re.MULTILINE)
    users = {_name(path) for path in MODULES if pattern.search(path.read_text())}
    if owners is None:
        assert not {user for user in users if user.startswith(("robustctl/training", "robustctl/attacks"))}
    else:
        assert users <= owners


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_everything_public_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    definitions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    # A training method's Config and Method are what its module's docstring is about.
    public = [node for node in definitions if not node.name.startswith("_") and node.name not in {"Config", "Method"}]
    assert ast.get_docstring(tree) or not tree.body
    assert not [node.name for node in public if not ast.get_docstring(node)]


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_tests_mirror_the_package() -> None:
    known = {path.relative_to(PACKAGE).with_suffix("") for path in MODULES}
    rooms = {path.parent for path in known}
    strays = []
    for path in (ROOT / "tests").rglob("test_*.py"):
        mirrored = path.relative_to(ROOT / "tests").with_suffix("")
        if mirrored.parts[0] == "standin":  # the same package, on another device
            mirrored = mirrored.relative_to("standin")
        name = mirrored.name.removeprefix("test_")
        subject = name.split("__")[0]
        of_a_file = mirrored.parent / subject in known
        of_a_room = mirrored.parent in rooms and subject == mirrored.parent.name
        alone = {"contracts", "code_style", "stored_runs", "standin", "mutation"}
        whole = mirrored.parent == Path() and subject in alone
        if not (of_a_file or of_a_room or whole):
            strays.append(_name(path))
    assert not strays, "name a test file after the file it tests (test_apgd.py, or test_apgd__projection.py)"


def test_no_file_names_a_place_outside_the_project() -> None:
    outside = re.compile(r"(?<![\w.])/(?:work|home|root|mnt|opt)/\w+|pypi\.org|localhost:\d")
    texts = [path for path in _tracked() if path.suffix in {".py", ".md", ".yaml", ".toml", ".cfg", ""}]
    found = [f"{_name(path)}: {match}" for path in texts for match in outside.findall(path.read_text())]
    assert not [line for line in found if not line.startswith("tests/test_contracts.py")]


def _tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in listing.stdout.splitlines() if (ROOT / line).is_file()]


def _modules_after(arguments: list[str]) -> tuple[set[str], str]:
    """Run the command line in a process of its own; the top-level modules it imported, and its output."""
    program = (
        "import sys\n"
        "from robustctl.cli import main\n"
        f"sys.argv = ['robustctl', *{arguments!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    code = stop.code\n"
        "print('\\nMODULES', *{name.split('.')[0] for name in sys.modules})\n"
        "sys.exit(code)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    output, _, modules = run.stdout.rpartition("MODULES")
    return set(modules.split()), output + run.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["eval", "--help"],
        ["finetune", "--help"],
        ["train", "--help"],
        ["push", "--help"],
        ["models", "list"],
        ["recipes", "list"],
        ["recipes", "show", "digits/e-at"],
        ["runs"],
    ],
    ids=" ".join,
)
def test_help_listings_and_recipes_never_import_torch(arguments: list[str]) -> None:
    modules, output = _modules_after(arguments)
    assert output.strip()
    assert "robustctl" in modules
    assert not modules & {"torch", "sklearn", "pyarrow", "huggingface_hub"}


def test_help_answers_at_once() -> None:
    # Processor time: the wall clock tells more about what else runs here.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(4):
        subprocess.run([sys.executable, "-c", "from robustctl.cli import main; main()", "--help"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 4 < 0.3


def test_kinds_of_devices_are_told_apart_in_one_file() -> None:
    """A branch for CUDA elsewhere would be one that no test without a GPU reaches, and that other devices miss."""
    found = [
        f"{_name(path)}:{number}"
        for path in PACKAGE.rglob("*.py")
        if path != PACKAGE / "devices.py"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"torch\.(cuda|xpu|mps)\b|\.is_cuda|device\.type ==|device\(\"cpu\"\)", line)
    ]
    assert not found
