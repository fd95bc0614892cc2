"""What users name as `package.module:name`."""

import sys

import pytest

from bmg.storage import modules


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a module of the user's."""
    monkeypatch.syspath_prepend(tmp_path)
    yield (tmp_path / "own_module.py").write_text
    sys.modules.pop("own_module", None)


@pytest.mark.parametrize(
    "source, words",
    [
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def make(:", "SyntaxError: .*own_module.py, line 1"),
        ("import nowhere_else", "No module named 'nowhere_else'"),
        ("", "has no attribute 'make'"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told(write, source, words):
    write(source)
    with pytest.raises(ValueError, match=f"own_module:make cannot be imported: .*{words}") as error:
        modules.load_named("own_module:make")
    assert "\n" not in str(error.value)
    assert "install it" not in str(error.value), "the module itself is there"


def test_the_place_is_the_innermost_line_of_the_users(write, tmp_path):
    write(
        "import json\n"
        "def parse(text):\n"
        "  return json.loads(text)\n"
        "def make():\n"
        "  return parse('{')\n"
    )
    with pytest.raises(ValueError) as caught:
        modules.load_named("own_module:make")()
    assert modules.raised(caught.value).endswith(f" ({tmp_path / 'own_module.py'}:3)")
    with pytest.raises(ValueError) as caught:
        modules.load_named("no name")
    assert "test_modules.py:" in modules.raised(caught.value), "not the package's own"


def test_who_stops_the_program_stops_it(write):
    write("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        modules.load_named("own_module:make")
