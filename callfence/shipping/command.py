"""`callfence ship`: read the events of `enforce --log`, and send them to monitoring."""

from __future__ import annotations

import os
from functools import cache
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callfence.policygen.text import pip_install
from callfence.shared.inputs import print_error, run_command
from callfence.shared.options import Parser
from callfence.tracer.errors import UserError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection, Sequence

    from callfence.shipping.destinations import Destination
    from callfence.shipping.loop import Pipeline
    from callfence.shipping.sources import Source
    from callfence.shipping.state import State

DESCRIPTION = """\
Read what `enforce --log` writes, and send it on: as metrics for Prometheus, as logs and metrics for OpenTelemetry, or both.
Each LOG is followed, also when it is rotated; - is standard input.  Nothing is lost without being counted: what was delivered
is noted in the state, and what was not is sent again.  docs/telemetry.md has the metrics, and what happens when things fail."""

EPILOG = """\
Exit status: 0 everything was delivered; 1 something was not, and remains where it is; 2 bad options, or a state or a
destination that cannot be used.  SIGTERM ends it."""

EVERY = 5.0
"""Seconds between publications of the metrics."""


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="callfence ship", description=DESCRIPTION, epilog=EPILOG)
    listen = (
        "listen at a socket for `enforce --log unix:PATH`: unix:PATH (a stream), unix-datagram:PATH or unix-seqpacket:PATH; or "
        "at one that systemd has bound, fd:3"
    )
    parser.add_argument("--listen", metavar="ADDRESS", action="append", default=[], help=listen)
    parser.add_argument("--journal", action="store_true", help="read what `enforce --log journal` wrote, by journalctl")
    prometheus = "write the metrics to a file for the textfile collector of Prometheus' node_exporter"
    parser.add_argument("--prometheus", metavar="FILE.prom", type=Path, help=prometheus)
    otlp = "send logs and metrics to a collector by OTLP over HTTP (the `otel` extra), such as http://localhost:4318"
    parser.add_argument("--otlp", metavar="URL", help=otlp)
    state = "where the positions in the logs, and the counters, are saved; one folder for each shipper"
    parser.add_argument("--state", metavar="FOLDER", type=Path, required=True, help=state)
    every = "write the metrics so often (default: 5)"
    parser.add_argument("--every", metavar="SECONDS", type=float, default=EVERY, help=every)
    parser.add_argument("--once", action="store_true", help="end at the end of the logs, instead of waiting for more")
    logs = "a log of `enforce --log LOG`, or a pattern of several; - is standard input"
    parser.add_argument("logs", metavar="LOG", nargs="*", help=logs)
    return parser


def main(arguments: list[str]) -> int:
    """Run `ship`.  Return 0 if everything was delivered, 1 if not, 2 if the shipper cannot begin or go on."""
    command = parser()
    options = command.parse_args(arguments)
    if not (options.logs or options.listen or options.journal):
        command.error("give a LOG, --listen or --journal: what is to be read")
    if not (options.prometheus or options.otlp):
        command.error("give --prometheus or --otlp: where it is to be sent")
    if options.once and options.listen:
        command.error("--once and --listen exclude each other: a socket has no end")
    if not options.every > 0:
        command.error("--every must be more than 0")
    return run_command("ship", lambda: _ship(options))


def _ship(options: argparse.Namespace) -> int:
    from callfence.shipping.loop import run
    from callfence.shipping.receiving import Receiver, Spool
    from callfence.shipping.state import State

    destinations = _destinations(options)
    state = State(options.state)
    pipelines: list[Pipeline] = []
    spool_path = _spool(options)

    def is_read(file: tuple[int, int]) -> bool:
        """Return whether each destination has all of a moved spool file; before the first position is known it has not."""
        places = [pipeline.positions[spool_path]["files"] for pipeline in pipelines]
        return bool(places) and all(each and [*file] not in [place[:2] for place in each] for each in places)

    spool = Spool(Path(spool_path), is_read)
    failures: dict[str, int] = {}
    pipelines += [_pipeline(options, destination, state, failures) for destination in destinations]
    receiver = Receiver(spool, options.listen, reads_input="-" in options.logs)
    is_finite = options.once or not (options.listen or options.journal or {*options.logs} - {"-"})
    return run(pipelines, receiver, options.every, is_once=is_finite)


def _destinations(options: argparse.Namespace) -> list[Destination]:
    from callfence.shipping.destinations import TextFile

    destinations: list[Destination] = []
    if options.prometheus:
        destinations.append(TextFile(options.prometheus))
    if options.otlp:
        try:
            from callfence.shipping.otlp import Collector
        except ImportError as error:
            raise UserError(f"--otlp needs a package that is missing ({error}): {pip_install('otel')}") from error
        if not options.otlp.startswith(("http://", "https://")):
            raise UserError(f"--otlp {options.otlp}: give the URL of a collector's OTLP over HTTP, such as http://localhost:4318")
        destinations.append(Collector(options.otlp))
    return destinations


def _pipeline(options: argparse.Namespace, destination: Destination, state: State, failures: dict[str, int]) -> Pipeline:
    from callfence.shipping.journal import Journal
    from callfence.shipping.loop import Pipeline
    from callfence.shipping.sources import LogFile

    spool = _spool(options)

    def sources(positions: dict[str, Any], known: Collection[str]) -> Sequence[Source]:
        made: list[Source] = []
        for path in _files(options):
            try:
                made += [LogFile(path, positions.get(path))] if path not in known else []
            except (UserError, OSError):
                if path in map(os.path.abspath, options.logs):
                    raise
                _say_unreadable(path)  # exchanged since it was looked at
        if spool not in known:
            made.append(LogFile(spool, positions.get(spool), is_spool=True))
        if options.journal and Journal.name not in known:
            made.append(Journal(positions.get(Journal.name), is_once=options.once))
        return made

    return Pipeline(destination, state, failures, spool, sources)


def _files(options: argparse.Namespace) -> list[str]:
    """Return the paths of the logs; of a pattern, those of the files that there are now and can be read: any user who may write
    to one of the folders can put something else there."""
    words = [log for log in options.logs if log != "-"]
    paths = [path for log in words for path in (filter(_is_readable, sorted(glob(log))) if has_magic(log) else [log])]
    return list(dict.fromkeys(map(os.path.abspath, paths)))


def _is_readable(path: str) -> bool:
    """Return whether a path is that of a file that can be read; print it the first time that it is not."""
    if os.path.isfile(path) and os.access(path, os.R_OK):
        return True
    _say_unreadable(path)
    return False


@cache
def _say_unreadable(path: str) -> None:
    print_error(f"callfence ship: {path} is not a file that can be read: it is left out until it is one")


def _spool(options: argparse.Namespace) -> str:
    """Return the path of the spool, which is a source of each pipeline: it may have records of an earlier shipper."""
    return os.path.join(os.path.abspath(options.state), "received.log")
