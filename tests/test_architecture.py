"""The rules of the house: who imports whom, what an import costs, what a docstring holds, how long a file may be."""

import ast
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LAYERS = {  # each may import from itself and from those of a lower number
    "mathai.nn": 0,
    "mathai.generative": 0,
    "mathai.rl": 0,
    "mathai.kernel": 0,
    "mathai.reduction": 0,
    "mathai.models": 1,
    "mathai.learners": 2,
    "experiments": 3,
    "configs": 4,
}
FORMULAS = tuple(package for package, layer in LAYERS.items() if layer == 0)
LONGEST = 400


def files(*packages):
    """All Python files of packages, `mathai.rl` or `experiments` say; those that do not exist have none."""
    return [file for package in packages for file in sorted((ROOT / package.replace(".", "/")).rglob("*.py"))]


def module_name(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_within(module, package):
    return module == package or module.startswith(package + ".")


def layer_of(module):
    return next((layer for package, layer in LAYERS.items() if is_within(module, package)), None)


def imports_of(tree, module, is_package):
    """Full names of all that a file imports, at its top or inside its functions.

    `from a import b` counts as a.b, which is a module or a name in one: the rules are about what the name begins with.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if is_package else module.split(".")[:-1]
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, node.module] if node.module else base)
            yield from (f"{source}.{alias.name}" for alias in node.names)


def parse(file):
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imports(file):
    return set(imports_of(parse(file), module_name(file), file.name == "__init__.py"))


def name_of(file):
    return str(file.relative_to(ROOT))


# Imports


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import mathai.rl.ppo as p", {"mathai.rl.ppo"}),
        ("from mathai import learners", {"mathai.learners"}),
        ("def f():\n  import optax", {"optax"}),
        ("from . import base", {"mathai.learners.base"}),
        ("from ..rl.returns import n_step_returns", {"mathai.rl.returns.n_step_returns"}),
    ],
)
def test_every_form_of_import_is_seen(source, expected):
    assert set(imports_of(ast.parse(source), "mathai.learners.ppo", is_package=False)) == expected


def test_every_file_has_a_place_in_the_house():
    strangers = [name_of(f) for f in files("mathai") if layer_of(module_name(f)) is None]
    assert strangers == ["mathai/__init__.py"]
    assert len(files(*LAYERS)) > 10  # the rules below do look at files


@pytest.mark.parametrize("file", files("mathai", "experiments", "configs"), ids=name_of)
def test_imports_point_one_way(file):
    rank = layer_of(module_name(file)) or 0
    for name in imports(file):
        if (layer := layer_of(name)) is not None:
            assert layer <= rank, f"{name_of(file)} imports {name}, which is built on top of it"


@pytest.mark.parametrize("file", files(*FORMULAS), ids=name_of)
def test_formulas_need_neither_flax_nor_optax_nor_gymnax(file):
    for name in imports(file):
        assert name.split(".")[0] not in {"flax", "optax", "gymnax"}, name


@pytest.mark.parametrize("file", files("mathai"), ids=name_of)
def test_the_library_needs_neither_absl_nor_ml_collections(file):
    for name in imports(file):
        assert name.split(".")[0] not in {"absl", "ml_collections"}, name


@pytest.mark.parametrize("file", [f for f in files("mathai") if f.name == "__init__.py"], ids=name_of)
def test_packages_only_re_export(file):
    docstring, *rest = parse(file).body
    assert isinstance(docstring, ast.Expr)
    for node in rest:
        is_all = isinstance(node, ast.Assign) and all(getattr(t, "id", None) == "__all__" for t in node.targets)
        assert is_all or isinstance(node, ast.Import | ast.ImportFrom), ast.unparse(node)


# What an import does. A process of its own, for here everything has been imported already.

IMPORT_ALL = """
import importlib, json, sys
import jax
from jax._src import xla_bridge

before, config = set(sys.modules), dict(jax.config.values)
import mathai
result = {"imported": sorted(set(sys.modules) - before), "started": [], "changed": [], "formulas": []}
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
    if xla_bridge.backends_are_initialized():
        result["started"].append(name)
    if dict(jax.config.values) != config:
        result["changed"].append(name)
    if name in json.loads(sys.argv[2]):
        result["formulas"] += {"flax", "optax", "gymnax"} & set(sys.modules)
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def imported():
    """What importing mathai, and then every module in it with formulas first, did to a fresh process."""
    formulas = [module_name(f) for f in files(*FORMULAS)]
    modules = formulas + [m for f in files("mathai") if (m := module_name(f)) not in formulas]
    command = [sys.executable, "-c", IMPORT_ALL, json.dumps(modules), json.dumps(formulas)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_importing_mathai_imports_no_more_than_jax(imported):
    assert imported["imported"] == ["mathai"]


def test_no_module_starts_a_backend(imported):
    assert imported["started"] == []


def test_no_module_changes_the_configuration_of_jax(imported):
    assert imported["changed"] == []


def test_formulas_load_neither_flax_nor_optax_nor_gymnax_through_others(imported):
    assert imported["formulas"] == []


# Docstrings


def is_private(file):
    return file.name.startswith("_") and file.name != "__init__.py"


def public_definitions(file):
    """The module itself, and its public functions and classes."""
    tree = parse(file)
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return [tree] + [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


@pytest.mark.parametrize("file", files("mathai"), ids=name_of)
def test_every_public_name_says_what_it_is(file):
    for node in public_definitions(file):
        assert ast.get_docstring(node), f"{name_of(file)}: {getattr(node, 'name', 'the module')} has no docstring"


@pytest.mark.parametrize("file", [f for f in files(*FORMULAS) if not is_private(f)], ids=name_of)
def test_every_formula_has_arguments_returns_a_source_and_an_example(file):
    for node in public_definitions(file):
        if isinstance(node, ast.FunctionDef):
            lines = [line.strip() for line in (ast.get_docstring(node) or "").splitlines()]
            takes_arguments = bool(ast.unparse(node.args))
            for section in ["Returns:", "Source:", *(["Args:"] if takes_arguments else [])]:
                assert section in lines, f"{name_of(file)}: {node.name} has no section {section}"
            assert any(line.startswith(">>>") for line in lines), f"{name_of(file)}: {node.name} has no example"


# Size


@pytest.mark.parametrize("file", files("mathai"), ids=name_of)
def test_a_module_longer_than_400_lines_is_two(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST
