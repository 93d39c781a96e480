"""What commands of the trainers of faces share: arguments, the run that another begins with, and a run's folder."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["MissingRun", "add_run_commands", "begin_log", "begun_with"]

Loaded = TypeVar("Loaded")


class MissingRun(Exception):
    """A run begins with another one that has no checkpoint; the message says what to train first."""


def add_run_commands(commands: Any, names: Sequence[str], config: Path) -> None:
    """Adds commands that take a run's settings and a number of threads, to what `add_subparsers` gave.

    Args:
        commands: of an `argparse.ArgumentParser`.
        names: of the commands; "train" can also be told when to stop.
        config: the settings' file where none is named.
    """
    for name in names:
        command: argparse.ArgumentParser = commands.add_parser(name)
        command.add_argument("config", nargs="?", type=Path, default=config)
        command.add_argument("--threads", type=int, default=1)
        if name == "train":
            command.add_argument("--until", type=int, help="stop after so many steps")


def begun_with(run: str, loaded: Loaded | None, configs: Path) -> Loaded:
    """What was loaded of the run that another begins with.

    Args:
        run: its name: the trainer's, a hyphen, and that of its settings.
        loaded: what its checkpoint held; None without one.
        configs: the folder of the trainer's settings.

    Raises:
        MissingRun: it has no checkpoint.
    """
    if loaded is None:
        first = configs / f"{run.partition('-')[2]}.toml"
        raise MissingRun(f"{run}, with which this run begins, has no checkpoint: train {first} first")
    return loaded


def begin_log(runs: Path, name: str, config: Path) -> Path:
    """The folder of a run's records, in which its settings lie as they are now."""
    log = runs / name
    log.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(config, log / "config.toml")
    return log
