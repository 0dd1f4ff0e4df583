"""What is wrong with a feature package, library or suite beyond the types of its manifest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from manifests.feature import FeaturePackage, LibraryPackage, SuitePackage
from manifests.problem import Problem


def feature_problems(manifest: FeaturePackage, folder: Path) -> Iterator[Problem]:
    """What is wrong with a feature package. folder: where its files are looked for."""
    yield from ()


def library_problems(manifest: LibraryPackage, folder: Path) -> Iterator[Problem]:
    """What is wrong with a library. folder: where its files are looked for."""
    yield from ()


def suite_problems(manifest: SuitePackage) -> Iterator[Problem]:
    """What is wrong with a suite."""
    yield from ()
