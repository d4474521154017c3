"""The house rules that a machine can check: who imports whom, lint, the lock file, downloaded files, types."""

import ast
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import fasttext
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from pyspark.sql import SparkSession
from tiktoken.load import load_tiktoken_bpe

from pipelines import assets
from schemas.errors import DataError

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
ROOMS = ("schemas", "pipelines", "flows", "kernels", "model")
COMPILED = {"triton.jit", "gluon.jit", "gluon.constexpr_function", "jit", "njit", "numba.njit", "inner"}
SOURCES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def tool(*command: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(command, cwd=cwd, env={"PATH": path, **environment}, capture_output=True, text=True)


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Public functions of a module and public methods of its public classes; torch dictates those of autograd's."""
    for node in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]:
        bases = {ast.unparse(base) for base in getattr(node, "bases", [])}
        if not getattr(node, "name", "").startswith("_") and not bases & {"torch.autograd.Function", "Function"}:
            yield from (child for child in node.body if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"))


def unannotated(function: ast.FunctionDef) -> list[str]:
    """What lacks a type: parameters by name, the result as `return`."""
    if any(ast.unparse(decorator).split("(")[0] in COMPILED for decorator in function.decorator_list):
        return []  # a compiled kernel: its pointers, blocks and arrays have no Python types
    a = function.args
    named = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    missing = [arg.arg for arg in named if arg.annotation is None and arg.arg not in {"self", "cls", "ctx"}]
    return missing + ["return"] * (function.returns is None)


class TestHouseRules:
    def test_rooms_import_only_what_they_may(self) -> None:
        done = tool("lint-imports", "--no-cache")
        assert done.returncode == 0, done.stdout + done.stderr

    def test_kernels_import_torch_and_triton_only(self) -> None:
        allowed = {"torch", "triton", "kernels"} | sys.stdlib_module_names
        for path in (ROOT / "kernels").rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
                assert not {name.split(".")[0] for name in names} - allowed, path

    def test_ruff_finds_nothing(self) -> None:
        done = tool("ruff", "check", "--no-cache", "--output-format=concise", ".")
        assert done.returncode == 0, done.stdout

    @pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
    def test_public_functions_state_their_types(self, path: Path) -> None:
        lacking = {f"{f.name} (line {f.lineno})": unannotated(f) for f in functions(ast.parse(path.read_text()))}
        assert not {name: missing for name, missing in lacking.items() if missing}

    def test_missing_types_are_noticed(self) -> None:
        tree = ast.parse("def f(a: int, b, *c, d=1): ...\nclass K:\n  def m(self) -> int: ...\n  def _p(self): ...\n  def n(self, x: int): ...")
        assert {f.name: unannotated(f) for f in functions(tree)} == {"f": ["b", "d", "c", "return"], "m": [], "n": ["return"]}

    def test_the_deployment_names_a_flow_that_exists(self) -> None:
        (deployment,) = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
        file, name = deployment["entrypoint"].split(":")
        flow = {f.name: f for f in functions(ast.parse((ROOT / file).read_text()))}[name]
        assert set(deployment["parameters"]) <= {arg.arg for arg in flow.args.args + flow.args.kwonlyargs}


class TestLock:
    def requirements(self) -> list[str]:
        return [block for block in LOCK.replace("\\\n", " ").splitlines() if block and not block.lstrip().startswith("#")]

    def test_names_no_host_and_no_option(self) -> None:
        assert "://" not in LOCK
        assert not [line for line in LOCK.splitlines() if line.startswith("-")]

    def test_every_requirement_has_hashes(self) -> None:
        assert len(self.requirements()) > 200
        assert not [line for line in self.requirements() if "--hash=sha256:" not in line or "==" not in line]

    def test_satisfies_what_the_project_asks_for(self) -> None:
        locked: dict[str, list[Version]] = {}
        for line in self.requirements():
            requirement = Requirement(line.split("--hash")[0])
            locked.setdefault(canonicalize_name(requirement.name), []).append(Version(str(requirement.specifier).removeprefix("==")))
        for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]:
            wanted = Requirement(text)
            versions = locked.get(canonicalize_name(wanted.name), [])
            assert versions and all(version in wanted.specifier for version in versions), f"{text}: locked are {versions}; regenerate the lock"


class TestAssets:
    def test_all_are_here(self) -> None:
        assets.check()

    def test_java_starts_from_its_archived_classes(self, spark: SparkSession) -> None:
        java = spark._jvm.java.lang.management.ManagementFactory.getRuntimeMXBean()
        assert f"-XX:SharedArchiveFile={assets.CLASSES}" in list(java.getInputArguments())

    def test_jars_are_those_of_the_locked_delta(self) -> None:
        (version,) = [text.split("==")[1] for text in PROJECT["dependencies"] if text.startswith("delta-spark==")]
        assert f"delta-spark_4.2_2.13-{version}.jar" in {jar.name for jar in assets.JARS}

    def test_language_model_knows_french(self) -> None:
        model = fasttext.load_model(str(assets.LANGUAGE_MODEL))
        ((probability, label),) = model.f.predict("Le chat dort sur la chaise pendant que nous lisons.\n", 1, 0.0, "strict")
        assert label == "__label__fr" and probability > 0.9

    def test_vocabulary_is_cl100k(self) -> None:
        ranks = load_tiktoken_bpe(str(assets.CL100K_RANKS))
        assert len(ranks) == 100_256 and ranks[b" the"] == 279

    def test_a_missing_file_says_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"nowhere\.jar is missing: run `make setup`"):
            assets.check({tmp_path / "nowhere.jar": "0" * 64})

    def test_another_content_says_expected_and_found(self, tmp_path: Path) -> None:
        (tmp_path / "a.jar").write_bytes(b"")
        empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        with pytest.raises(ValueError, match=f"expected {'0' * 64}, found {empty}; run `make setup`"):
            assets.check({tmp_path / "a.jar": "0" * 64})

    def test_a_download_is_used_only_when_it_is_right(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(assets, "HOME", tmp_path)
        wanted = {tmp_path / "jars" / "a.jar": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}  # of "hello"
        with pytest.raises(DataError, match="expected 2cf24dba"):
            assets.fetch("a JAR", wanted, lambda folder: (folder / "a.jar").write_text("half"))
        assert not list(tmp_path.rglob("*"))
        assets.fetch("a JAR", wanted, lambda folder: (folder / "a.jar").write_text("hello"))
        assets.check(wanted)
        assets.fetch("a JAR", wanted, lambda folder: pytest.fail("fetched again"))


    def test_java_is_javahomes_or_says_what_to_install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("JAVA_HOME", str(tmp_path))
        with pytest.raises(FileNotFoundError, match="Java 17 or later is needed"):
            assets.java()
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "java").touch(mode=0o755)
        assert assets.java() == str(tmp_path / "bin" / "java")


class TestPrerequisites:
    @pytest.fixture
    def clone(self, tmp_path: Path) -> Path:
        """As much of a clean clone as set-up reads before it makes anything."""
        shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
        for name in ("requirements.lock", "pyproject.toml"):
            shutil.copy(ROOT / name, tmp_path)
        return tmp_path

    @pytest.mark.parametrize(
        ("environment", "says"),
        [
            ({"PYTHON": "/no/python3"}, "Python 3.11, 3.12 or 3.13 is needed: apt-get install"),
            ({"JAVA_HOME": "/no/java"}, "Java 17 or later is needed, /no/java/bin/java does not run: apt-get install"),
        ],
    )
    def test_one_line_says_what_to_install(self, clone: Path, environment: dict[str, str], says: str) -> None:
        done = tool(str(clone / ".ci" / "setup"), cwd=clone, **{"PYTHON": sys.executable, **environment})
        assert done.returncode == 1
        assert done.stderr.startswith(f"setup: {says}") and done.stderr.count("\n") == 1
        assert not (clone / ".venv").exists()
