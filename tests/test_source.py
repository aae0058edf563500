"""Which files make the source of a function."""

import sys
from pathlib import Path

import pytest

from harness.problems import source
from harness.problems.source import source_hash

FILES = {
    "shapes/__init__.py": "",
    "shapes/build.py": "import json, torch\nfrom .parts.deep import layer\nimport nets as n\n",
    "shapes/parts/__init__.py": "",
    "shapes/parts/deep.py": "from ..sizes import WIDTH\n\ndef layer():\n    if WIDTH:\n        import lazy\n",
    "shapes/sizes.py": "WIDTH = 3\n",
    "nets.py": "from harness.problems import from_network\nfrom methods import ravel\n",
    "lazy.py": "import other_package.module\n",
    "other_package/__init__.py": "import shapes.apart\n",
    "other_package/module.py": "",
    "shapes/apart.py": "",
    "shapes/unused.py": "",
    "site-packages/installed.py": "",
    "plain/namespace/module.py": "import installed, shapes.mentioned",
    "shapes/mentioned.py": "",
}
OF_BUILD = {"shapes", "shapes/parts", "shapes/build", "shapes/parts/deep", "shapes/sizes", "nets", "lazy"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    source._file.cache_clear()
    source._spec.cache_clear()
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def counted(folder: Path, target: str, *mentioned: str) -> set[str]:
    """The files of which an edit changes the hash, without their suffix; a package by its folder."""
    before, found = source_hash(target, mentioned), set()
    for name in FILES:
        content = (folder / name).read_text()
        (folder / name).write_text(content + "# edited\n")
        if source_hash(target, mentioned) != before:
            found.add(name.removesuffix(".py").removesuffix("/__init__"))
        (folder / name).write_text(content)
    assert source_hash(target, mentioned) == before
    return found


def test_what_a_module_imports_counts_wherever_it_imports_it(folder: Path) -> None:
    assert counted(folder, "shapes.build.problem") == OF_BUILD | {"other_package", "other_package/module"}
    assert counted(folder, "shapes.parts.deep:layer.attribute") == {
        *(
            "shapes",
            "shapes/parts",
            "shapes/parts/deep",
            "shapes/sizes",
            "lazy",
            "other_package",
            "other_package/module",
        )
    }


def test_a_namespace_and_what_options_mention(folder: Path) -> None:
    target = "plain.namespace.module.f"
    assert counted(folder, target) == {"plain/namespace/module", "shapes", "shapes/mentioned"}
    assert counted(folder, "nets.f", "shapes.sizes.WIDTH", "torch.nn.Linear", "no.such", "a text.") == {
        *("nets", "shapes", "shapes/sizes")
    }
    assert source_hash("nowhere.f") == source_hash("elsewhere.f")


def test_an_installed_package_counts_for_its_own_functions_alone(folder: Path) -> None:
    assert counted(folder, "installed.f") == {"site-packages/installed"}


def test_a_clone_of_torch_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_file", lambda module: Path("clones", f"{module}.py"))
    assert [source._counts(module, "shapes") for module in ("torch.nn", "nets")] == [False, True]


def test_of_many_modules_the_nearest_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MOST_MODULES", 3)
    assert counted(folder, "shapes.build.problem") == {
        *("shapes", "shapes/build", "shapes/parts", "shapes/parts/deep", "nets")
    }


def test_nothing_is_imported_and_code_that_cannot_be_read_is_no_failure(folder: Path) -> None:
    (folder / "nets.py").write_text("def (:")
    source_hash("shapes.build.problem")
    assert not {"shapes", "nets", "lazy"} & set(sys.modules)
    assert source_hash("shapes.build.problem", options="a") != source_hash("shapes.build.problem", options="b")
