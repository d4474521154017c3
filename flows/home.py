"""The home folder of a recipe: where everything lies, what each step left there, and whether it still holds."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from flows import scratch
from pipelines.lake import MENDED, Lake
from schemas.errors import DataError
from schemas.files import file_sha256, write_json
from schemas.recipe import Recipe, RecipeError
from schemas.store import refusal

FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))  # Java quotes the same words
UNREADABLE = re.compile(r"FAILED_READ_FILE\S* .*?file:/*(/\S+?\.parquet)")  # as Spark says it
COMPARED = ".json", ".html", ".ranks"  # small: what they hold is compared whenever a step's state is asked for
MODELS = ".safetensors", ".bin"  # larger: what they hold is compared when a run begins
LEAST_FILES = 2_000  # more than the default run makes, Java's scratch included
LEAST_FREE = 500_000_000  # bytes; Prefect's database, Spark's scratch and the JVM's take half of it before any data


class DiskFull(RuntimeError):
    """The disk of a home folder has no room for what is to be written."""


@dataclass(frozen=True)
class Receipt:
    """What a finished step left behind: of which inputs and recipe part it was made, and what it wrote.

    `files` maps paths below the home folder to sizes in bytes, `sha256` some of them to hashes (none in homes made
    before December 2026); `tables` maps names to the Delta versions that the step wrote.
    """

    step: str
    hash: str
    part: Any
    inputs: dict[str, str]
    tables: dict[str, int]
    files: dict[str, int]
    counts: dict[str, float]
    run: str
    seconds: float
    finished_at: str
    sha256: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Home:
    """Paths below `root`. Deleting the folder is a complete uninstall of the run, tables in an object store left out.

    tables: URL of the lake; None: it is below root too.
    """

    root: Path
    tables: str | None = None

    @classmethod
    def of(cls, recipe: Recipe) -> Home:
        return cls(Path(recipe.home), recipe.lake)

    @property
    def lake(self) -> Lake:
        return Lake(self.tables or self.root / "lake")

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def quality_models(self) -> Path:
        """Which quality models there are, what they were made of, and why a language has none of its own."""
        return self.models / "quality.json"

    @property
    def languages(self) -> Path:
        """What is usual in the languages of the documents that the recipe trusts."""
        return self.models / "languages.json"

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def key(self) -> str:
        """What the home is called on a Prefect server: its folder's name and a hash of where it lies."""
        name = re.sub(r"[^a-z0-9]+", "-", self.root.resolve().name.lower()).strip("-")[:30]
        return f"{name}-{hashlib.blake2b(os.fsencode(self.root.resolve()), digest_size=4).hexdigest()}".lstrip("-")

    def receipt_file(self, step: str) -> Path:
        return self.root / "steps" / f"{step}.json"

    def receipt(self, step: str) -> Receipt | None:
        """What the step left when it last finished; None if it never did or has begun to write again, or if its
        receipt cannot be read."""
        return _read_receipt(self.receipt_file(step))

    def last_receipt(self, step: str) -> Receipt | None:
        """The same, or the one that was void when the step began to write again."""
        return self.receipt(step) or _read_receipt(self._void_file(step))

    def void(self, step: str) -> None:
        """To be called before a step's first write: what it left may be half written over from now on."""
        file, void = self.receipt_file(step), self._void_file(step)
        if file.exists():
            file.replace(void)
        elif not void.exists():
            write_json(void, {})

    def stopped(self, step: str) -> bool:
        """Whether the step has begun and not finished."""
        return self._void_file(step).exists() and not self.receipt_file(step).exists()

    def keep(self, receipt: Receipt) -> None:
        """Store the receipt, whole or not at all."""
        write_json(self.receipt_file(receipt.step), asdict(receipt))
        self._void_file(receipt.step).unlink(missing_ok=True)

    def _void_file(self, step: str) -> Path:
        return self.root / "steps" / f"{step}.void.json"

    def contents(self, files: list[Path]) -> tuple[dict[str, int], dict[str, str]]:
        """Sizes of files, and hashes of models and of what is small: `files` and `sha256` of a receipt."""
        named = {str(path.relative_to(self.root)): path for path in files}
        hashes = {name: file_sha256(path) for name, path in named.items() if path.suffix in COMPARED + MODELS}
        return {name: path.stat().st_size for name, path in named.items()}, hashes

    def damage(self, receipt: Receipt, *, models: bool = False) -> str | None:
        """Why the step's output is no longer what its receipt says; None if it is. Of MODELS the size is compared, and
        what they hold only with `models`."""
        for name, version in receipt.tables.items():
            if damage := self.lake.damage(name, version):
                return damage
        for name, size in receipt.files.items():
            path = self.root / name
            if not path.is_file():
                return f"file {name} is missing"
            if path.stat().st_size != size:
                return f"file {name} has {path.stat().st_size:,} bytes, the step left {size:,}"
            is_compared = name in receipt.sha256 and (models or path.suffix not in MODELS)
            if is_compared and file_sha256(path) != receipt.sha256[name]:
                return f"file {name} was changed: its SHA-256 is not that of what the step left"
        return None

    def report_page(self) -> Path:
        """The page of the last report. Raises FileNotFoundError if there is none."""
        receipt = self.last_receipt("report")
        pages = [name for name in receipt.files if name.endswith(".html")] if receipt else []
        if not pages:
            raise FileNotFoundError(f"{self.root} holds no report yet: `flows run curriculum` writes it")
        return self.root / pages[0]

    def require_space(self) -> None:
        """Raises DiskFull if there is too little to start with, and RecipeError if there can be no folder."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            found = f"{self.root}: {error.strerror}"
            raise RecipeError(f"home: expected a folder that can be made, found {found}") from None
        n_bytes, files = self._room()
        if n_bytes < LEAST_FREE or files < LEAST_FILES:
            raise DiskFull(
                f"expected at least {LEAST_FREE:,} bytes free on the disk of {self.root} and room for {LEAST_FILES:,} "
                f"files, found {n_bytes:,} bytes and {files:,} inodes: free some space"
            )

    def _room(self) -> tuple[int, float]:
        """(bytes, files) that the disk still takes; some file systems have no end of files."""
        disk = os.statvfs(self.root)
        return disk.f_bavail * disk.f_frsize, disk.f_favail if disk.f_files else float("inf")

    @contextlib.contextmanager
    def space_named(self, step: str) -> Iterator[None]:
        """Raise DiskFull for whatever Python, Java or a worker of Spark says of a full disk."""
        try:
            yield
        except Exception as error:
            if not any(said in f"{error}{error.__cause__}" for said in FULL):
                raise
            n_bytes, files = self._room()
            where = getattr(error, "filename", None) or self.root
            raise DiskFull(
                f"{step} could not write: the disk of {where} is full (in {self.root} {n_bytes:,} bytes and {files:,} "
                f"inodes are free). What is done is safe: free some space, and the same command goes on from {step}"
            ) from error

    @contextlib.contextmanager
    def tables_named(self) -> Iterator[None]:
        """Raise DataError naming the table for a file of it that Spark cannot read, and PermissionError where a store
        refuses the credentials, whichever library says so."""
        try:
            yield
        except Exception as error:
            named = UNREADABLE.search(str(error))
            file = Path(unquote(named[1])) if named else self.root
            lake = (self.root / "lake").resolve()
            if self.tables and not isinstance(error, PermissionError) and (advice := refusal(str(error))):
                raise PermissionError(f"{self.tables}: {advice}") from error
            if self.tables or not file.is_relative_to(lake):
                raise
            raise DataError(
                f"table {'.'.join(file.parent.relative_to(lake).parts)}: expected a Parquet file, found {file}, which "
                f"cannot be read. {MENDED}"
            ) from error

    @contextlib.contextmanager
    def held(self, on_wait: Callable[[str], None] | None = None) -> Iterator[Callable[[], None]]:
        """Hold the folder, and a lake in a bucket, for one run. Raises HomeBusy naming the run that has one of them;
        with `on_wait` waits for it.

        Gives what raises HomeBusy where another run has taken the lake over since.
        """
        with contextlib.ExitStack() as both:
            process, require_lake = both.enter_context(scratch.held(self.root, on_wait)), lambda: None
            if self.tables and self.tables.startswith("s3://"):
                from flows import lease

                require_lake = both.enter_context(lease.held(self.tables, self.root, process, on_wait)).require
            yield require_lake

    def hold_scratch(self) -> None:
        """Let all scratch of this process lie in the home: /tmp may be full or small."""
        os.environ["TMPDIR"] = str(self.root.resolve() / "tmp")
        tempfile.tempdir = None  # asked for already, it would stay

    def sweep(self) -> None:
        """End and remove what a run that was killed left. To be called while the folder is held."""
        scratch.sweep(self.root)

    def remember_server(self, pid: int) -> None:
        """Note the process of Prefect's temporary server: one that outlives a killed run is ended by the next."""
        scratch.server_file(self.root).write_text(str(pid))


def _read_receipt(file: Path) -> Receipt | None:
    try:
        told = json.loads(file.read_text())
        if "fingerprint" in told:  # as homes made before December 2026 call it
            told["hash"] = told.pop("fingerprint")
        return Receipt(**told)
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None
