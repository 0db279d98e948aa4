"""``rpcmesh serve``: run the coordinator."""

from __future__ import annotations

import click
import msgspec

from rpcmesh import paths
from rpcmesh.cli.build import configured
from rpcmesh.cli.running import run, until_drained
from rpcmesh.coordinator import founding, service
from rpcmesh.models import library
from rpcmesh.observe import error_log, logs


@click.command(short_help="Run the coordinator.")
@click.option("--model", metavar="NAME", help="Which model to load. Default: [engine] model in config.toml, else none.")
def serve(model: str | None) -> None:
    """Run the coordinator in the foreground: HTTPS endpoint, engine and tunnel.

    On Ctrl-C or SIGTERM it takes nothing new, lets open answers end for [coordinator] drain_s seconds, and stops. A
    second signal stops it at once.
    """
    home = paths.Home(paths.default_home())
    with founding.open_mesh(home) as mesh:
        settings = mesh.settings
        if model is not None:
            settings = msgspec.structs.replace(settings, engine=msgspec.structs.replace(settings.engine, model=model))
        if settings.engine.model:
            library.find(home, settings.engine.model)
        logs.configure(settings.log.level, settings.log.format, error_log.path_of(home.ensure()))
        built = configured(settings.build)
        mesh.settings = settings
        run(until_drained(lambda stop, hurry: service.run_coordinator(mesh, built, stop, hurry)))
