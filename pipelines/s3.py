"""Spark and Delta on S3: the JARs, fetched when a lake is first there, the settings, and a log that many may write."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import pyspark
from py4j.java_gateway import JavaGateway, JavaObject

from pipelines import assets
from schemas.store import endpoint

HERE = Path(__file__).parent
MODULES = tuple(
    tuple(line.split()) for line in HERE.joinpath("s3.lock").read_text().splitlines() if not line.startswith("#")
)
FOLDER = assets.HOME / "jars-s3"
JARS = {FOLDER / f"{module}-{revision}.jar": digest for _, module, revision, digest in MODULES}
SOURCE = HERE / "ConditionalLogStore.java"


def jars() -> list[Path]:
    """Those that Spark needs for s3a://, fetched (13 MB) and compiled where they are missing."""
    assets.fetch("JARs for S3", JARS, lambda folder: assets.fetch_jars(folder, MODULES))
    return [*JARS, log_store()]


def log_store() -> Path:
    """A JAR with the class of SOURCE."""
    jar = FOLDER / f"log-store-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}.jar"
    if not jar.is_file():
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            compile_java(SOURCE, Path(folder))
            with zipfile.ZipFile(Path(folder, "made"), "w") as archive:
                for file in Path(folder).rglob("*.class"):
                    archive.write(file, file.relative_to(folder))
            Path(folder, "made").replace(jar)
    return jar


def compile_java(source: Path, folder: Path) -> None:
    """Its classes into a folder, by the Janino that comes with Spark: no JDK is needed."""
    gateway = java_gateway([])
    try:
        janino = gateway.jvm.org.codehaus.janino.Compiler()
        janino.setDestinationDirectory(gateway.jvm.java.io.File(str(folder)), False)
        janino.setClassPath(_array(gateway, _spark_jars()))
        janino.compile(_array(gateway, [source]))
    finally:
        gateway.shutdown()


def java_gateway(jars: list[Path]) -> JavaGateway:
    """A Java of its own, with the classes of Spark, of Delta and of these JARs."""
    known = _spark_jars()
    (py4j,) = (str(jar) for jar in known if jar.name.startswith("py4j"))
    path = os.pathsep.join(map(str, [*known, *jars]))
    return JavaGateway.launch_gateway(jarpath=py4j, classpath=path, java_path=assets.java(), die_on_exit=True)


def _spark_jars() -> list[Path]:
    return [*sorted(Path(pyspark.__file__).parent.joinpath("jars").glob("*.jar")), *assets.JARS]


def _array(gateway: JavaGateway, files: list[Path]) -> JavaObject:
    array = gateway.new_array(gateway.jvm.java.io.File, len(files))
    for i, file in enumerate(files):
        array[i] = gateway.jvm.java.io.File(str(file))
    return array


def settings() -> dict[str, str]:
    """Spark's, for the store that the environment names. Keys stay in the environment, where Hadoop looks for them."""
    told = {
        "spark.delta.logStore.s3a.impl": "millrace.ConditionalLogStore",
        "spark.hadoop.fs.s3a.endpoint.region": os.environ.get("AWS_REGION") or "us-east-1",
    }
    if place := endpoint():
        parts = urlsplit(place)
        told |= {
            "spark.hadoop.fs.s3a.endpoint": place,
            "spark.hadoop.fs.s3a.path.style.access": "true",
            "spark.hadoop.fs.s3a.connection.ssl.enabled": str(parts.scheme == "https").lower(),
        }
    return told
