"""What the trainers' commands share, and the curve that their loops write."""

import argparse
import csv
import math

import pytest

from training.faces.runs import MissingRun, add_run_commands, begin_log, begun_with
from training.loops import Curve


def test_a_run_takes_settings_and_threads_and_training_alone_may_be_told_to_stop(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    add_run_commands(parser.add_subparsers(dest="command"), ("train", "judge"), tmp_path / "core.toml")

    options = parser.parse_args(["train", "other.toml", "--until", "7", "--threads", "2"])
    assert (options.config.name, options.until, options.threads) == ("other.toml", 7, 2)
    assert parser.parse_args(["judge"]).config == tmp_path / "core.toml"
    with pytest.raises(SystemExit):
        parser.parse_args(["judge", "--until", "7"])


def test_a_run_that_begins_with_one_that_is_not_there_says_what_to_train_first(tmp_path):
    with pytest.raises(MissingRun, match=r"yunet-core, .* train .*core\.toml first"):
        begun_with("yunet-core", None, tmp_path)
    assert begun_with("yunet-core", ("network", 3), tmp_path) == ("network", 3)


def test_the_log_holds_the_settings_as_they_are_now(tmp_path):
    config = tmp_path / "a.toml"
    for text in ("steps = 1", "steps = 2"):
        config.write_text(text)
        assert (begin_log(tmp_path / "runs", "run-a", config) / "config.toml").read_text() == text


def test_a_curve_holds_running_means_and_goes_on_where_it_was(tmp_path):
    path = tmp_path / "log" / "curve.csv"
    curve = Curve(path, ("step", "loss", "found"), momentum=0.75)
    curve.add({"loss": 4.0})
    curve.add({"loss": 8.0})
    curve.add({"loss": math.nan})
    curve.write({"step": 3}, {"found": 0.5})
    again = Curve(path, ("step", "loss", "found"), momentum=0.75)
    again.add({"loss": 1.0})
    again.write({"step": 4})

    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"step": "3", "loss": "5.0000", "found": "0.5000"},
        {"step": "4", "loss": "1.0000", "found": ""},
    ]
