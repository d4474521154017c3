"""One Spark session for the whole suite; numba's compiled kernels are cached beside the checkout as in any run."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.home import Home
from schemas import recipe as recipes
from schemas.recipe import Recipe, Spark

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # Spark's workers import us

import corpus  # noqa: E402


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    """The real thing: local Spark with Delta, as a run starts it."""
    from pipelines.spark import session

    started = session(Spark(driver_memory="1g"), str(tmp_path_factory.mktemp("spark")))
    yield started
    started.stop()


def flows(*arguments: str, env: dict[str, str] | None = None, timeout: float = 400) -> subprocess.CompletedProcess:
    """Run the command line as a user does: a process of its own."""
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=timeout)


@dataclass(frozen=True)
class Finished:
    """A finished run of the small corpus: its recipe file, recipe, home folder, what was planted and what it printed."""

    file: Path
    recipe: Recipe
    home: Home
    planted: dict[str, dict[str, int]]
    printed: str


@pytest.fixture(scope="session")
def finished_home(tmp_path_factory) -> Finished:
    folder = tmp_path_factory.mktemp("main-job")
    planted = corpus.write(folder / "text")
    file = corpus.save(corpus.recipe(folder / "text", folder / "home"), folder / "recipe.yaml")
    done = flows("run", "curriculum", "--recipe", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    return Finished(file, recipes.load(file), Home(folder / "home"), planted, done.stdout)
