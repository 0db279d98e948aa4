"""``rpcmesh build``: compile the native parts once for this machine."""

from __future__ import annotations

from pathlib import Path

import click

from rpcmesh import config, native_build, paths
from rpcmesh.cli import progress
from rpcmesh.cli.output import out, print_json


@click.command()
@click.option(
    "--backend",
    type=click.Choice(["auto", "cpu", "metal", "cuda", "vulkan"]),
    help="Which ggml backend computes. Default: config, else auto.",
)
@click.option(
    "--source",
    type=click.Path(path_type=Path, file_okay=False),
    help="A llama.cpp checkout of your own in place of the pinned source.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def build(backend: config.Backend | None, source: Path | None, as_json: bool) -> None:
    """Compile llama.cpp's worker and libraries, and the tunnel.

    The result is kept in the cache and found again: a second call takes a moment. All machines of a mesh must show
    the same build id.
    """
    settings = config.load(paths.Home(paths.default_home()).config).build
    built = open_or_build(backend or settings.backend, source or (Path(settings.source) if settings.source else None))
    if as_json:
        print_json({"build_id": built.build_id, "backend": built.backend, "dir": str(built.dir)})
    else:
        out.print(f"build {built.build_id} ({built.backend}) is ready in {built.dir}")


def open_or_build(backend: config.Backend, source: Path | None) -> native_build.Build:
    """The finished build for this machine, compiled with a progress bar when it is not there yet."""
    with progress.task("native build") as report:
        return native_build.build(
            cache=paths.default_cache(), native=paths.shipped("native"), backend=backend, llama=source, progress=report
        )


def configured(settings: config.Build) -> native_build.Build:
    """The build that ``config.toml`` asks for."""
    return open_or_build(settings.backend, Path(settings.source) if settings.source else None)
