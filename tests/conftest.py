"""One Spark session for the whole suite in each of its processes; numba's compiled kernels are cached beside the checkout as in any run."""

import contextlib
import fcntl
import functools
import json
import os
import resource
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.home import Home
from schemas import recipe as recipes
from schemas.parts import Spark
from schemas.recipe import Recipe

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # Spark's workers import us

import corpus  # noqa: E402
import objects  # noqa: E402


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    """The real thing: local Spark with Delta, as a run starts it."""
    from pipelines.spark import session

    started = session(Spark(driver_memory="1g"), str(tmp_path_factory.mktemp("spark")))
    yield started
    started.stop()


@pytest.fixture(scope="session")
def language_model() -> bytes:
    from pipelines import assets

    if not assets.LANGUAGE_MODEL.exists():
        pytest.skip(f"{assets.LANGUAGE_MODEL} is missing: run `make setup`")
    return assets.LANGUAGE_MODEL.read_bytes()


def flows(
    *arguments: str, env: dict[str, str] | None = None, timeout: float = 900, file_size: int = resource.RLIM_INFINITY
) -> subprocess.CompletedProcess:
    """Run the command line as a user does: a process of its own, whose files may be so large (bytes)."""
    command = [sys.executable, "-m", "flows.cli", *arguments]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))  # noqa: E731
    environment = {**os.environ, **(env or {})}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, preexec_fn=limit)


@pytest.fixture(scope="session", autouse=True)
def mlflow_store(tmp_path_factory):
    """One for all runs but the small one: the tables of each home's own take seconds to make."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    yield
    del os.environ["MLFLOW_TRACKING_URI"]


@pytest.fixture(scope="session")
def port(tmp_path_factory):
    """Of an object store."""
    with objects.seaweed(tmp_path_factory.mktemp("store")) as port:
        yield port


@pytest.fixture
def trouble(port, monkeypatch):
    """What the proxy before the store does, to which the environment leads."""
    with objects.troubled(port) as (proxy, trouble):
        for name, value in objects.environment(proxy).items():
            monkeypatch.setenv(name, value)
        yield trouble


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory):
    """A Prefect server as a team has one. Runs that do not start their own save 10 s each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    home = {"PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    server = subprocess.Popen(command, env=os.environ | home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.environ["PREFECT_API_URL"] = url = f"http://127.0.0.1:{port}/api"
    while server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health") as answer:
            if answer.status == 200:
                break
        time.sleep(0.2)
    yield
    del os.environ["PREFECT_API_URL"]
    server.terminate()
    server.wait()


@dataclass(frozen=True)
class Finished:
    """A finished run of the small corpus: its recipe file, recipe, home folder, what was planted and what it printed; the TMPDIR that
    it was given, and when something was last made there."""

    file: Path
    recipe: Recipe
    home: Home
    planted: dict[str, dict[str, int]]
    printed: str
    elsewhere: Path
    elsewhere_at: int


@pytest.fixture(scope="session")
def finished_home(tmp_path_factory) -> Finished:
    """Made once, for all processes of `pytest -n`."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "main-job"
    folder.mkdir(exist_ok=True)
    file, told = folder / "recipe.yaml", folder / "told.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            told.write_text(json.dumps(finish_small_run(folder, file)))
    return Finished(file, recipes.load(file), Home(folder / "home"), elsewhere=folder / "elsewhere", **json.loads(told.read_text()))


def finish_small_run(folder: Path, file: Path) -> dict:
    planted = corpus.write(folder / "text")
    corpus.save(corpus.recipe(folder / "text", folder / "home"), file)
    (elsewhere := folder / "elsewhere").mkdir(exist_ok=True)
    made_at = elsewhere.stat().st_mtime_ns
    done = flows("run", "curriculum", "--recipe", str(file), env={"TMPDIR": str(elsewhere), "MLFLOW_TRACKING_URI": ""})
    assert done.returncode == 0, done.stdout + done.stderr
    return {"planted": planted, "printed": done.stdout, "elsewhere_at": made_at}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is dear first."""
    order = {"home": 0, "test_deploy": 1, "spark": 2}
    items.sort(key=lambda item: order.get(group(item.path), 3))


@functools.cache
def group(file: Path) -> str:
    """The fixture that is dear of those that a file's tests ask for, or the file. Deployments take as long as all else that needs
    the small run, and have one of their own."""
    text = "" if file.stem == "test_deploy" else file.read_text()
    return "home" if "(finished_home" in text or ", finished_home" in text else "spark" if "(spark" in text else file.stem


def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Two processes share the tests (`pytest -n 2`): the small run is made in one of them, Spark tests mostly run in the other, and
    the rest goes where there is time, file by file. (xdist 3.8's own groups are lost on pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class Shared(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(ROOT / nodeid.split("::")[0])

    config.option.loadscopereorder = False
    return Shared(config, log)
