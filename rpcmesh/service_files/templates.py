"""The shipped templates, filled in. A template with a name that nobody gives a value to is our bug."""

from __future__ import annotations

from typing import Any

import jinja2

from rpcmesh import paths


def render(name: str, values: dict[str, Any]) -> str:
    """The text of ``deploy/<name>`` with ``values`` in it, ending in one newline."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(paths.shipped("deploy")),
        undefined=jinja2.StrictUndefined,
        autoescape=name.endswith(".plist.j2"),
    )
    return environment.get_template(name).render(values) + "\n"
