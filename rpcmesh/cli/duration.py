"""A length of time on the command line: ``90s``, ``10m``, ``2h``, ``1d``."""

from __future__ import annotations

import re

import click

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType[float]):
    """Becomes seconds. Anything else is wrong usage: exit status 2."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", str(value), re.ASCII)
        if found is None:
            self.fail(f"{value!r} is not a duration: write 90s, 10m, 2h or 1d", param, ctx)
        return float(int(found[1]) * _UNITS[found[2]])


DURATION = Duration()
