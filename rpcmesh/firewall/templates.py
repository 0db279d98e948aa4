"""The rule templates that travel with the code. A name that a template uses and nobody gave is an error."""

from __future__ import annotations

import jinja2

from rpcmesh import paths


def render(name: str, **values: object) -> str:
    """``firewall/<name>.j2``, filled in. Values must be plain and checked: nothing is escaped here."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(paths.shipped("firewall")),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 (rule files, not HTML)
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(f"{name}.j2").render(values)
