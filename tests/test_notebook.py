"""The notebooks run against a finished home folder, and are stored as they should be: without outputs."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import duckdb
import nbformat
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from nbclient import NotebookClient

from flows.home import Home, Receipt
from model.ledger import ledger_files
from pipelines import rules
from schemas import tables

NOTEBOOKS = {path.stem: path for path in (Path(__file__).parents[1] / "notebooks").glob("*.ipynb")}
SECONDS_PER_CELL = 120
SAID = {
    "explore": (" were kept", "records", "=== kept, tier"),
    "operation": (" runs of ", "=== web/2026-03", "no run of this home has compared deliveries yet"),
    "training": ("=== cost most in stage anneal", "=== loss fell most", "nats a token at step", "ms a step"),
    "quality": ("=== docs: ", "    shuffled  words ", "code                     elsewhere ", "=== docs: high begins at the percentile 0.6"),
    "signals": ("=== docs.no_stop_words: stop_words below 1", "numbers of failures are the judge's", "----"),
}


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS[name], as_version=4)


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def run(name: str, home: Home, folder: Path, monkeypatch) -> tuple[str, bool]:
    """What a notebook prints on a home, and whether it draws."""
    monkeypatch.setenv("MILLRACE_HOME", str(home.root.resolve()))
    notebook = read(name)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=SECONDS_PER_CELL, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    return "".join(output.get("text", "") for output in outputs), any("image/png" in output.get("data", {}) for output in outputs)


def test_each_is_known_here():
    assert set(NOTEBOOKS) == set(SAID)


@pytest.mark.parametrize("name", sorted(NOTEBOOKS))
def test_it_is_stored_without_outputs(name):
    cells = code(read(name))
    assert cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


def test_explore_runs_on_a_finished_home(finished_home, monkeypatch, tmp_path):
    said, draws = run("explore", finished_home.home, tmp_path, monkeypatch)
    assert draws and all(text in said for text in SAID["explore"])


@pytest.mark.servers
def test_signals_counts_what_the_judge_decided_and_shows_the_nearest_documents(finished_home, monkeypatch, tmp_path):
    said, draws = run("signals", finished_home.home, tmp_path, monkeypatch)
    assert draws and all(text in said for text in SAID["signals"])
    files = finished_home.home.lake.files
    of_rule = "from read_parquet(?) where domain = 'docs' and list_contains(reasons, 'no_stop_words')"
    with duckdb.connect() as db:
        verdicts = db.execute(f"select count(*), count(*) filter (len(reasons) = 1) {of_rule}", [files(tables.VERDICTS)]).fetchone()
        passing = """
            select min(stop_words) from read_parquet(?) join (select doc_id, reasons from read_parquet(?)) using (doc_id)
            where domain = 'docs' and stop_words >= 1 and not list_has_any(reasons, ['exact_duplicate', 'near_duplicate'])
        """
        (nearest,) = db.execute(passing, [files(tables.SIGNALS), files(tables.VERDICTS)]).fetchone()
    (row,) = re.findall(r"    no_stop_words +([\d,]+) +([\d,]+)", said)
    assert tuple(map(int, row)) == verdicts and verdicts[0] > 0
    one_a_side = r"=== docs\.no_stop_words: .*\n.*\n.*\nfails +0 against 1 .*\n.*\n(?: +also: .*\n)?-+\npasses +%d against 1 "
    assert re.search(one_a_side % nearest, said), said


def test_quality_shows_the_card_and_what_lies_at_the_borders_of_tiers(finished_home, monkeypatch, tmp_path):
    said, draws = run("quality", finished_home.home, tmp_path, monkeypatch)
    assert draws and all(text in said for text in SAID["quality"])
    card = json.loads((finished_home.home.models / "quality-docs.json").read_text())
    assert re.search(rf"shuffled  words {card['shuffled']['words']:.3f}  sentences \S+  lines \S+\n", said)
    told = {row["kind"]: row for row in card["transfer"]}
    assert re.search(rf"docs +positives +{told['positives']['texts']} +", said) and re.search(rf"code +elsewhere +100 +{told['elsewhere']['auc']:.3f}", said)
    files = finished_home.home.lake.files
    with duckdb.connect() as db:
        near = """
            (select percentile from v where keep and percentile < 0.6 order by percentile desc limit 2)
            union all (select percentile from v where keep and percentile >= 0.6 order by percentile limit 2)
        """
        db.read_parquet(files(tables.VERDICTS)).filter("domain = 'docs'").create_view("v")
        expected = sorted(row[0] for row in db.execute(near).fetchall())
    shown = said[said.index(SAID["quality"][-1]) :]
    rows = re.findall(r"\n(high|low) +([\d.]+)  score", shown)
    assert [(tier, float(percentile)) for tier, percentile in rows] == [(tier, pytest.approx(one, abs=1e-4)) for tier, one in zip(("low", "low", "high", "high"), expected, strict=True)]
    assert shown.index("low ") < shown.index("-" * 40) < shown.index("high ", shown.index("-" * 40))


def test_training_tells_what_the_run_left(finished_home, monkeypatch, tmp_path):
    """Speed, the dearest document of the last stage, the domains' last losses, the classes of the profile."""
    said, draws = run("training", finished_home.home, tmp_path, monkeypatch)
    assert draws and all(text in said for text in SAID["training"])
    folder = finished_home.home.runs / finished_home.home.receipt("train").hash[:12]
    took = sum(json.loads(line)["seconds"] for line in (folder / "seconds.jsonl").read_text().splitlines())
    assert f"tokens/s             {32 * 1024 / took:,.0f}\n" in said
    rows = [row for _, file in ledger_files(folder) for row in file.tolist()]  # in order of steps
    first_step, last = 24, {}  # of the last stage
    for step, doc, tokens, loss, _ in rows:
        if tokens >= 32:
            last[doc] = (loss / tokens, step)
    dearest = max(((nats, step, doc) for doc, (nats, step) in last.items() if step >= first_step))
    cost = re.search(r"=== cost most .*\n([\d.]+) nats a token at step (\d+), .*\n +(\w{32})  (\w+): (.*)\n", said)
    doc_id = dearest[2].to_bytes(8, "big", signed=True).hex()
    assert (cost[1], int(cost[2]), cost[3][:16]) == (f"{dearest[0]:.3f}", dearest[1], doc_id)
    assert cost[5].startswith(f"{cost[4]}.jsonl#")
    domains = dict(finished_home.home.lake.arrow(tables.TOKENS, ["doc_key", "domain"]).to_pandas().values)
    late = [(domains[doc], tokens, loss) for step, doc, tokens, loss, _ in rows if step * 10 // 32 == 9]
    means = {domain: sum(loss for d, _, loss in late if d == domain) / sum(n for d, n, _ in late if d == domain) for domain in ("code", "docs")}
    assert re.search(r"\n100 % +([\d.]+) +([\d.]+)", said).groups() == tuple(f"{means[domain]:.3f}" for domain in ("code", "docs"))


def test_training_says_how_a_profile_is_had(finished_home, monkeypatch, tmp_path):
    home = Home(tmp_path / "home")
    shutil.copytree(finished_home.home.root, home.root, ignore=shutil.ignore_patterns("profile*", "checkpoints", "shards"))
    said, _ = run("training", home, tmp_path, monkeypatch)
    assert said.endswith("This run has no profile. One whose recipe says `train: {profile: 5}` traces five steps in its middle.\n")


DAYS = {"2026-01": (100, {}), "2026-02": (110, {}), "2026-03": (900, {"n_bytes": 0.61})}  # a delivery's documents, and what went beyond


def operated(root: Path, *, with_deliveries: bool) -> Home:
    """A home after three runs, one of them stopped, and three deliveries, the last of which came twice before a gate: closed, then by hand."""
    home, steps, decisions = Home(root), [], []
    told = {"run": [], "step": [], "recipe": [], "fingerprint": [], "inputs": [], "tables": [], "counts": [], "seconds": [], "finished_at": []}
    for day, (snapshot, (documents, over)) in enumerate(DAYS.items(), 1):
        run = f"2026110{day}-020000-aaaaaa"
        for i, step in enumerate(("ingest", "measure", "judge", "report")[: 2 if over else 4]):
            steps.append((run, step, "r", "f", [], [], [("documents", float(documents))], 10.0 * day, f"2026-11-0{day}T02:0{i + 1}:00+00:00"))
        entry = {"at": f"2026-11-0{day}T02:02:00+00:00", "run": run, "source": "web", "snapshot": snapshot, "hash": "h", "against": None if day == 1 else "web/2026-01"}
        entry |= {"who": "millrace", "why": "", "measured": {"documents": float(documents)}, "drift": {"n_bytes": 0.61 if over else 0.02}, "beyond": over}
        decisions.append(entry | {"decision": "closed" if over else "accepted", "documents": {name: ["d" * 32] for name in over}})
    decisions.append(decisions[-1] | {"at": "2026-11-04T09:00:00+00:00", "run": None, "decision": "accepted by hand", "who": "ada", "why": "a new site"})
    string, number = pa.string(), pa.map_(pa.string(), pa.float64())
    kinds = {"inputs": pa.map_(string, string), "tables": pa.map_(string, pa.int64()), "counts": number, "seconds": pa.float64()}
    columns = {name: pa.array(values, kinds.get(name, string)) for name, values in zip(told, zip(*steps, strict=True), strict=True)}
    write_deltalake(str(root / "lake/ops/runs"), pa.table(columns))
    if with_deliveries:
        maps = {"measured": number, "drift": number, "beyond": number, "documents": pa.map_(string, pa.list_(string))}
        rows = [{name: list(value.items()) if name in maps else value for name, value in row.items()} for row in decisions]
        write_deltalake(str(root / "lake/ops/deliveries"), pa.Table.from_pylist(rows, pa.schema([(name, maps.get(name, string)) for name in rows[0]])))
    return home


def test_operation_tells_runs_steps_and_deliveries(monkeypatch, tmp_path):
    said, draws = run("operation", operated(tmp_path / "home", with_deliveries=True), tmp_path, monkeypatch)
    assert draws and all(text in said for text in SAID["operation"][:2])
    assert "home: 3 runs of 10 steps, 0.1 hours of work" in said  # 4 steps of 10 s, 4 of 20, 2 of 30
    assert re.search(r"2026-11-03 02:00 20261103-020000-aaaaaa +2 +60\.0  measure\n", said)
    assert re.search(r"ingest +3 +20\.0 +30\.0 +30\.0\n", said) and re.search(r"judge +2 +15\.0 +20\.0 +20\.0\n", said)
    assert re.search(r"ingest +documents +110 +900 +\+718\.2%", said)
    decided = re.findall(r"web/2026-0(\d) +(\S*) +(accepted|closed|accepted by hand)  ?(.*)\n", said)
    assert [(one, against, decision.strip()) for one, against, decision, _ in decided][:3] == [("1", "", "accepted"), ("2", "web/2026-01", "accepted"), ("3", "web/2026-01", "closed")]
    assert re.search(r"web/2026-03 +web/2026-01 +accepted by hand  n_bytes 0\.61\n +ada: a new site\n", said)
    assert said.count(f"=== web/2026-03, n_bytes: {'d' * 32}\n") == 1


def test_operation_says_why_there_are_no_deliveries(monkeypatch, tmp_path):
    said, draws = run("operation", operated(tmp_path / "home", with_deliveries=False), tmp_path, monkeypatch)
    assert draws and said.endswith(f"{SAID['operation'][2]}. The step `gate` writes it.\n")


def test_operation_runs_on_a_finished_home(finished_home, monkeypatch, tmp_path):
    said, draws = run("operation", finished_home.home, tmp_path, monkeypatch)
    assert draws and re.search(r": 1 runs of \d+ steps", said) and re.search(r"tokenise +tokens +[\d,]+ *\n", said)


@pytest.mark.parametrize(
    "change", [{}, {"long_words": 12}, {"long_words": {"de": 14}}, {"long_words": {"default": 9, "fr": None}}, {"long_words": None}]
)
def test_signals_finds_the_rules_as_they_applied_from_what_the_steps_left(change, tmp_path):
    """The recipe's thresholds and the fitted ones are brought together as the judge does it."""
    fitted = {"long_words": {"de": 13.5, "nl": 11.0}, "short_words": {"nl": 2.5}}
    home = Home(tmp_path)
    home.models.mkdir()
    (home.models / "languages.json").write_text(json.dumps({"thresholds": fitted}))
    noted = {"multilingual": {rule.name: asdict(rule) for rule in rules.load("multilingual", change)}}
    parts = {"learn": {"languages": {"trusted": [{"source": "web"}]}}, "judge": {"rules": noted}}
    for step, part in parts.items():
        home.keep(Receipt(step, "", part, {}, {}, {}, {}, "", 0.0, ""))
    (source,) = (cell.source for cell in code(read("signals")) if "def as_applied" in cell.source)
    exec(source, names := {"home": home})
    assert names["applied"] == {"multilingual": rules.load("multilingual", change, fitted)}
