"""The entry point: verbs, and which exit status each kind of failure has (1 the user's, 2 usage, 70 ours)."""

from __future__ import annotations

import importlib
import signal
import sys
import traceback

import click

from rpcmesh import __version__, disk
from rpcmesh.cli.output import print_error
from rpcmesh.errors import RpcmeshError

EXIT_OUR_BUG = 70
EXIT_INTERRUPTED = 130


# In the order of `rpcmesh --help`. Each is the object of that name in the module of that name beside this one.
VERBS = (
    "demo",
    "build",
    "init",
    "serve",
    "token",
    "join",
    "node",
    "status",
    "logs",
    "doctor",
    "key",
    "model",
    "plan",
    "chat",
    "connect",
    "firewall",
    "service",
    "bench",
)


class Verbs(click.Group):
    """Imports the one verb that was typed: a node's processes do not carry what only the coordinator needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        verb: click.Command = getattr(importlib.import_module(f"rpcmesh.cli.{cmd_name}"), cmd_name)
        return verb


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="rpcmesh")
def cli() -> None:
    """Run one large model across several machines with llama.cpp, safely.

    \b
    See it work on this machine:     rpcmesh demo
    On the coordinator:              rpcmesh init, rpcmesh serve, rpcmesh token create
    On each node:                    rpcmesh join STRING, rpcmesh node run
    For clients:                     rpcmesh key create

    State lies in RPCMESH_HOME; settings in its config.toml, each overridable as RPCMESH_SECTION_KEY.
    """


def main() -> None:
    """Run one verb. Never returns."""
    # As Ctrl-C: what was begun is cleaned up. Services replace both by an orderly stop.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(_run())


def _run() -> int:
    try:
        result = cli.main(standalone_mode=False)
    except RpcmeshError as error:
        print_error(error.message, error.hint)
        return 1
    except click.exceptions.Abort:
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        return 1
    except OSError as error:
        if not disk.is_full(error):
            return _report_bug()
        what = repr(str(error.filename)) if error.filename else "the output"
        print_error(f"cannot write {what}: {error.strerror}", "free some room on that disk")
        return 1
    except BaseExceptionGroup as group:
        return _report_group(group)
    except Exception:  # noqa: BLE001 (the outermost frame says that the fault is ours)
        return _report_bug()
    return result if isinstance(result, int) else 0


def _report_group(group: BaseExceptionGroup[BaseException]) -> int:
    """Tasks fail in groups; when only user errors are inside, the first one is the message."""
    ours, rest = group.split(RpcmeshError)
    if rest is None and ours is not None:
        first = next(_leaves(ours))
        if isinstance(first, RpcmeshError):
            print_error(first.message, first.hint)
            return 1
    if rest is not None and rest.split(KeyboardInterrupt)[1] is None:
        return EXIT_INTERRUPTED
    return _report_bug()


def _leaves(group: BaseExceptionGroup[BaseException]):  # type: ignore[no-untyped-def]
    for member in group.exceptions:
        if isinstance(member, BaseExceptionGroup):
            yield from _leaves(member)
        else:
            yield member


def _report_bug() -> int:
    traceback.print_exc()
    print_error("this is a bug in rpcmesh", "please report the lines above")
    return EXIT_OUR_BUG
