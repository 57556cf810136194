"""The packages, with configs/ inside `harness`; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["harness*", "patches*"]), "harness._configs"],
    package_dir={"harness._configs": "configs"},
)
