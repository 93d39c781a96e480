"""Pictures and repositories made on the spot."""

import io
import os
import subprocess

import numpy as np
import pytest
from PIL import Image

from training.data.settings import DataSettings


def scene(seed, side=240):
    """A smooth random picture, uint8 (side, side, 3): unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def as_file(rgb, image_format="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, image_format, **options)
    return buffer.getvalue()


@pytest.fixture
def settings(tmp_path):
    reserved = tmp_path / "reserved.txt"
    reserved.write_text("")
    return DataSettings(
        data=tmp_path / "data", data_mirror=tmp_path / "mirror", shared_data=tmp_path / "shared", reserved=reserved
    )


@pytest.fixture
def make_repository(settings):
    """Commits files to a new repository of the mirror; returns its commit."""

    def make(name, files):
        folder = settings.data_mirror / name.replace("/", "+") / "repo"
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(folder)]
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "--allow-empty", "-m", "pictures"]):
            subprocess.run([*git, *arguments], check=True, env=environment)
        done = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True, env=environment)
        return done.stdout.strip()

    return make
