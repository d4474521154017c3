"""MLflow's page over the training runs of a home, from an environment of its own: its package does not fit ours."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from importlib.metadata import version

from flows.home import Home
from flows.tracking import PATIENCE, store
from pipelines.assets import HOME
from schemas.errors import DataError

ENVIRONMENT = HOME / "mlflow"


def serve(home: Home, port: int, say: Callable[[str], None]) -> int:
    """Serve the page on loopback until it is interrupted; the exit code of its server. Raises DataError for a home of
    which MLflow knows nothing, and where the package cannot be had."""
    if os.environ.get("MLFLOW_TRACKING_URI"):
        raise DataError(
            "expected runs in the home, found MLFLOW_TRACKING_URI: they are on that server, which has the page"
        )
    if not (home.root / "mlflow.db").is_file():
        raise DataError(f"{home.root} holds no mlflow.db yet: `flows run curriculum` makes it when it trains")
    install(say)
    say(f"http://127.0.0.1:{port} shows the training runs of {home.root}. Ctrl-C ends it")
    command = [ENVIRONMENT / "bin" / "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", store(home), "--no-serve-artifacts"]
    try:
        return subprocess.run(command, env=os.environ | PATIENCE, check=False).returncode
    except KeyboardInterrupt:
        return 0


def install(say: Callable[[str], None]) -> None:
    """The package, of the version that writes, once: `done` is written last."""
    wanted = f"mlflow=={version('mlflow-skinny')}"
    done = ENVIRONMENT / "done"
    if done.is_file() and done.read_text() == wanted:
        return
    say(f"setup: {wanted} in an environment of its own (700 MB, once)")
    venv.create(ENVIRONMENT, clear=True, with_pip=True)
    pip = [ENVIRONMENT / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wanted]
    if subprocess.run(pip, stdout=sys.stderr, check=False).returncode:
        raise DataError(f"expected {wanted} from the package index, found none: what pip said is above")
    done.write_text(wanted)
