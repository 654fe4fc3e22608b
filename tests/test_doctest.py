"""Every example in a docstring of the package is true."""

import doctest
from importlib import import_module
from importlib.util import find_spec
from pkgutil import walk_packages

import pytest

import eqprop_np

MODULES = [
    "eqprop_np",
    *(
        module.name
        for module in walk_packages(eqprop_np.__path__, "eqprop_np.")
        if not module.name.endswith(".__main__")  # importing one would run its command
        and (find_spec("sklearn") or module.name != "eqprop_np.classifier")
    ),
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_are_true(name: str) -> None:
    assert doctest.testmod(import_module(name)).failed == 0


def test_the_package_has_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [
        example for name in MODULES for test in finder.find(import_module(name)) for example in test.examples
    ]
    assert len(examples) >= 20
