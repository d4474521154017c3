"""One Spark session for the whole suite; numba's compiled kernels are cached beside the checkout as in any run."""

import os
from pathlib import Path

import pytest

from schemas.recipe import Spark

ROOT = Path(__file__).parents[1]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # Spark's workers import us


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    """The real thing: local Spark with Delta, as a run starts it."""
    from pipelines.spark import session

    started = session(Spark(driver_memory="1g"), str(tmp_path_factory.mktemp("spark")))
    yield started
    started.stop()
