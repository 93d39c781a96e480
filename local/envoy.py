"""Runs the edge in the foreground: `python -m local.envoy`.

Renders envoy/edge.yaml into ${PENTIMENTO_HOME}/run/envoy.yaml and becomes Envoy, so that whoever started this process
signals and watches Envoy itself. SIGTERM ends it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RENDER = ROOT / "envoy" / "render.py"


def main() -> None:
    """Renders the configuration and becomes Envoy."""
    home = Path(os.environ.get("PENTIMENTO_HOME") or ROOT / ".pentimento")
    config = home / "run" / "envoy.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    # A program of its own, as in the cluster's image: envoy/ cannot be imported (see there).
    rendered = subprocess.run([sys.executable, str(RENDER)], stdout=subprocess.PIPE, check=False)
    if rendered.returncode != 0:
        raise SystemExit(rendered.returncode)
    config.write_bytes(rendered.stdout)

    envoy = Path(sys.executable).parent / "envoy"
    options = [
        f"--config-path {config}",
        "--concurrency 2",
        # Hot restart would tie this process to every other Envoy of the machine through shared memory.
        "--disable-hot-restart",
        "--log-level warning",
        # The access log is for reading along.
        "--file-flush-interval-msec 500",
    ]
    os.execv(envoy, [str(envoy), *(word for option in options for word in option.split(" ", 1))])  # noqa: S606


if __name__ == "__main__":
    main()
