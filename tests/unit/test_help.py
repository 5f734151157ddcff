"""`help()` on what is exported: each name, public method and property says what it gives."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import ray_pipelines as rp


def members() -> Iterator[tuple[str, object]]:
    """Every function, method and property that a user can reach from the package's names."""
    for name in rp.__all__:
        exported = getattr(rp, name)
        yield name, exported
        if inspect.isclass(exported) and exported.__module__.startswith("ray_pipelines"):
            for attribute, member in vars(exported).items():
                described = callable(member) or isinstance(member, property | classmethod | staticmethod)
                if described and not attribute.startswith("_"):
                    yield f"{name}.{attribute}", member


def test_everything_exported_has_help() -> None:
    found = dict(members())
    assert {"PipelineSpec.run", "RunOutput.to_pandas", "RunOutput.results"} <= found.keys()
    assert [name for name, member in found.items() if not inspect.getdoc(member)] == []


def test_help_names_every_argument_of_an_exported_function() -> None:
    unexplained = [
        f"{name}({parameter})"
        for name, member in members()
        if inspect.isfunction(member) and "." not in name
        for parameter in inspect.signature(member).parameters
        if parameter not in (inspect.getdoc(member) or "")
    ]
    assert unexplained == []
