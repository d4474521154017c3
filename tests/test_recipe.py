"""Recipes are refused with the field's path, what was expected and what was found."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import corpus
import datasketch
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines import rules
from pipelines.readers import READERS
from pipelines.signals.personal import PLACEHOLDERS
from schemas import fields, parts
from schemas import recipe as recipes
from schemas.errors import DataError
from schemas.manifest import Draw, LearningRate, Manifest, Plan, Stage, load_manifest, load_plan, save
from schemas.strict_yaml import load_yaml

RECIPES = sorted((Path(__file__).parents[1] / "flows" / "recipes").glob("*.yaml"))


@pytest.fixture
def good(tmp_path):
    return corpus.recipe(tmp_path, tmp_path / "home")


def changed(value, path: str, new):
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    at = value
    for key in parents:
        at = at[key]
    at[last] = new
    return value


@pytest.mark.parametrize(
    "path, new, said",
    [
        ("colour", "red", "colour: no such field"),
        ("sources.0.pth", "x", r"sources\[0\]\.pth: no such field"),
        ("model.experst", 8, r"model\.experst: "),
        ("train.learning_rate", 8, r"train\.learning_rate: "),
        ("stages.0.tokens", "many", r"stages\[0\]\.tokens: .*integer.*found 'many'"),
        ("stages.0.tokens", -5, r"stages\[0\]\.tokens: .*greater than 0, found -5"),
        ("stages.0.mixture.weights", {"code": 0.9}, r"stages\[0\]\.mixture: weights must sum to 1, found 0.9"),
        ("stages.0.mixture.weights", {"code": 0.5, "cod": 0.5}, r"stages\[0\]\.mixture\.weights: expected names among code, docs; found cod"),
        ("stages.1.mixture.tiers", {"hi": 2}, r"stages\[1\]\.mixture\.tiers: expected names among high, low; found hi"),
        ("stages.0.seq_len", 100, r"stages\[0\]\.seq_len \(100\) must divide train\.batch_tokens \(1024\)"),
        ("stages.0.lr", {"shape": "cubic"}, r"stages\[0\]\.lr: .*expected|shape must be constant"),
        ("stages.0.name", "anneal", "names must differ, found twice: anneal"),
        ("stages", [], "stages: .*at least 1"),
        ("tiers", {"high": 0.6}, "tiers must begin at different percentiles, one of them at 0"),
        ("quality.poems", {"positives": [{"source": "docs"}]}, "quality: expected names among code, docs; found poems"),
        ("quality.docs.positives", [{"source": "dcos"}], r"quality\.docs\.positives: expected names among code, docs; found dcos"),
        ("model.heads", 5, r"model: d_model \(32\) must divide by heads \(5\)"),
        ("model", "moe", r"model: expected a preset among dbrx, moe-b, moe-a, .*; found 'moe'$"),
        ("model", {"preset": "moe"}, r"model: expected a preset among dbrx, .*; found 'moe'$"),
        ("model", {"preset": None, "layers": 2}, r"model: expected a preset among dbrx, .*; found None$"),
        ("model", {"preset": "moe-a", "layer": 2}, r"model\.layer: no such field; `flows recipe fields` lists them$"),
        ("model", {"preset": "moe-a", "heads": 5}, r"model: d_model \(2048\) must divide by heads \(5\)"),
        ("model", 7, r"model: expected fields, or a preset's name among dbrx, .*; found 7$"),
        ("train.precision", "fp8", "precision must be bf16 or fp32, found 'fp8'"),
        ("home", 7, r"home: .*string.*found 7"),
        ("sources.0.snapshots", ["a", "b"], r"sources\[0\]: path must hold \{snapshot\} where there are several snapshots"),
        ("sources.0.snapshots", ["a", "a"], r"sources\[0\]: snapshots must differ, found a, a"),
        ("near_duplicates", {"threshold": 0.6, "bands": 30}, "near_duplicates: expected bands and rows together, or neither, .*; found bands alone \\(30\\)"),
        ("near_duplicates", {"rows": 4}, "near_duplicates: expected bands and rows together, or neither, .*; found rows alone \\(4\\)"),
        ("near_duplicates", {"threshold": 8}, "^[^\n]*near_duplicates.threshold: .*less than or equal to 1, found 8$"),
        ("near_duplicates", {"bands": None, "rows": None}, "near_duplicates.bands: .*integer, found None"),
        ("sources.0.snapshots", ["../x"], r"sources\[0\]\.snapshots\[0\]: .*match pattern"),
        ("stages.0.tokens", 1000, r"stages\[0\]\.tokens \(1000\) must be at least those of one step, train\.batch_tokens \(1024\)"),
        ("stages.0.lr", {"warmup_tokens": 10**9}, r"stages\[0\]\.lr\.warmup_tokens \(1000000000\) must be at most the stage's tokens"),
        ("stages.0.rope_theta", 0, r"stages\[0\]\.rope_theta: .*greater than 0, found 0"),
        ("stages.0.rope_theta", float("inf"), r"stages\[0\]\.rope_theta: .*finite number, found inf"),
        ("stages.0.lr", {"start": 0.0}, r"stages\[0\]\.lr: start must be above 0"),
        ("sources.0.snapshots", [], r"sources\[0\]\.snapshots: .*at least 1"),
        ("heldout.fraction", 1.0, r"heldout\.fraction: .*less than 1, found 1.0"),
        ("home", "~nosuchuser/x", r"home: expected a user of this machine after ~, found '~nosuchuser/x'; \./~nosuchuser/x is"),
        ("sources.0.path", "~nosuchuser", r"sources\[0\]\.path: expected a user of this machine after ~"),
        *[("spark.master", master, rf"spark\.master: expected local, .*, found {re.escape(repr(master))}")
          for master in ("nonsense", "", "local[0]", "local[]", "local[2", "spark://", "Local", "yarn-client", "local-cluster[1,2]")],
        ("spark.driver_memory", "0g", r"spark\.driver_memory: "),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_refused_with_place_expected_and_found(good, tmp_path, path, new, said):
    file = corpus.save(changed(good, path, new), tmp_path / "r.yaml")
    with pytest.raises(recipes.RecipeError, match=said) as refused:
        recipes.load(file)
    assert str(refused.value).startswith(str(file))


@pytest.mark.parametrize("master", ["local", "local[*]", "local[12]", "local[*, 3]", "local-cluster[2, 1,1024]", "yarn", "spark://a:7077,b:7077", "k8s://https://a:443"])
def test_masters_that_spark_knows_are_taken(good, tmp_path, master):
    assert recipes.load(corpus.save(changed(good, "spark.master", master), tmp_path / "r.yaml")).spark.master == master


@pytest.mark.parametrize(
    "path, new",
    [
        ("max_epochs", True),
        ("seed", False),
        ("model.layers", True),
        ("model", {"preset": "moe-a", "layers": True}),
        ("train.betas", [False, 0.9]),
        ("stages.0.lr.start", True),
        ("stages.1.mixture.tiers", {"high": True}),
        ("rules.docs", {"too_few_words": True}),
        ("rules.docs", {"too_few_words": {"en": True}}),
        ("sources.0.priority", True),
    ],
)
def test_true_is_no_number(good, tmp_path, path, new):
    """pydantic takes it for 1. Where a truth value is asked for it stays one."""
    good |= {"rules": {}, "edits": {"personal": ["email", "email", "phone"]}}
    good["decontaminate"]["files"][0] = {"path": "a", "whole": True}
    good["stages"][0]["lr"] |= {"end": 1.0}
    recipes.load(corpus.save(good, tmp_path / "r.yaml"))
    file = corpus.save(changed(good, path, new), tmp_path / "r.yaml")
    place = re.escape(re.sub(r"\.(\d)", r"[\1]", path))
    with pytest.raises(recipes.RecipeError, match=rf"^[^\n]*r\.yaml: {place}\S*: expected a number, found a truth value$"):
        recipes.load(file)


def test_an_error_in_a_list_is_the_only_one_that_is_told(good, tmp_path):
    """pydantic counts the list as empty besides."""
    for path, name in (("sources", "reader"), ("stages", "tokens"), ("quality.docs.positives", "source")):
        wrong = changed(yaml.safe_load(yaml.safe_dump(good)), path, [{name: []}])
        with pytest.raises(recipes.RecipeError) as refused:
            recipes.load(corpus.save(wrong, tmp_path / "r.yaml"))
        assert "at least 1" not in str(refused.value) and f"[0].{name}: " in str(refused.value)


@pytest.mark.parametrize(
    "part, bad",
    [
        ("train", {"clip_norm": (-1.0, 0.0, float("nan")), "betas": ([0.9, 1.5], [1.0, 0.9], [-0.1, 0.9], [0.9, float("nan")])}),
        ("train", {"peak_lr": (float("inf"), 0.0, -1e-3), "weight_decay": (-1.0,), "seed": (-1, 2**70, 10**400), "batch_tokens": (0,), "checkpoint_steps": (0,)}),
        ("model", {"rope_theta": (0.0, -1.0), "norm_eps": (-1.0, 0.0), "init_std": (-1.0, 0.0), "clip_qkv": (-1.0, 0.0), "layers": (0,)}),
        ("model", {"balance_weight": (float("nan"), -0.1, float("inf")), "d_model": (-32,), "experts": (0,)}),
        ("stages.0.lr", {"start": (float("nan"), -1.0), "end": (-1.0, float("inf")), "warmup_tokens": (-5,)}),
    ],
)
def test_numbers_that_cannot_train_are_refused_with_their_field(good, tmp_path, part, bad):
    place = part.replace(".0", r"\[0\]").replace(".", r"\.")
    for name, values in bad.items():
        for value in values:
            wrong = changed(yaml.safe_load(yaml.safe_dump(good)), part, {**good.get(part, {}), name: value})
            with pytest.raises(recipes.RecipeError, match=rf"r\.yaml: {place}: {name} must be .*, found "):
                recipes.load(corpus.save(wrong, tmp_path / "r.yaml"))


def test_a_sequence_must_be_short_against_a_window(good, tmp_path):
    value = changed(changed(good, "stages.0.seq_len", 512), "window_tokens", 1024)
    with pytest.raises(recipes.RecipeError, match=r"stages\[0\]\.seq_len \(512\) must be at most a quarter of window_tokens \(1024\)"):
        recipes.load(corpus.save(value, tmp_path / "r.yaml"))


@pytest.mark.parametrize(
    "content, said",
    [
        (b"a: [1, 2", r"r\.yaml: line 1: not YAML: while parsing a flow sequence"),
        (b"a: 1\nb: \x00", r"r\.yaml: line 2: not YAML: the character U\+0000$"),
        (b"\xff\xfe\x00", r"r\.yaml: expected a recipe in UTF-8, found byte 0xff at 0$"),
        (b"", "valid dictionary"),
        (b"- 1", "valid dictionary"),
        (b"home: !!python/object/apply:os.system ['touch /tmp/owned']", r"r\.yaml: line 1: expected no tags but .*, found !!python/object/apply:os\.system$"),
        (b"#" * (recipes.RECIPE_BYTES + 1), "at most"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content, said):
    file = tmp_path / "r.yaml"
    file.write_bytes(content)
    with pytest.raises(recipes.RecipeError, match=said):
        recipes.load(file)
    with pytest.raises(recipes.RecipeError, match="no such recipe"):
        recipes.load(tmp_path / "other.yaml")


def test_a_source_is_delivered_in_snapshots():
    source = parts.Source(name="web", reader="jsonl", domain="docs", path="in/{snapshot}/*.jsonl", snapshots=("a", "b"))
    assert [(one.snapshot, one.path) for one in source.deliveries] == [("a", "in/a/*.jsonl"), ("b", "in/b/*.jsonl")]
    assert [one.path for one in parts.Source(name="code", reader="python-code", domain="code").deliveries] == [None]


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.name)
def test_shipped_recipes_load(file):
    assert recipes.load(file).home.startswith("millrace-home/")


def test_the_examples_in_the_recipe_for_own_data_are_good_when_they_are_uncommented(tmp_path, monkeypatch):
    from flows.preflight import check

    text = next(file for file in RECIPES if file.name == "own-data.yaml").read_text()
    text, n = re.subn(r"(?m)^( *)# ((?:  )*(?:- \{|[a-z_]+:(?: |$)).*)$", r"\1\2", text)
    assert n > 20
    for file in (
        "a.jsonl", "parquet/a.parquet", "manuals/a.md", "pages/a.zip", "crawl/a.warc.gz", "wet/a.wet.gz", "chats/a.tar.gz", "src/a/b.c",
        "news/2026-10/a.jsonl", "news/2026-11/a.jsonl", "evaluations/a.jsonl", "evaluations/poem.txt",
    ):  # fmt: skip
        (path := tmp_path / "my-data" / file).parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"question": "what", "answer": "that"}\n' * 20_000)  # enough for the stages
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "my-data" / "parquet" / "a.parquet")
    (tmp_path / "my.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    checked = check(Path("my.yaml")).recipe
    assert {source.reader for source in checked.sources} == set(READERS) - {"python-code", "python-docs"}
    assert checked.domains == set(rules.domains()) and set(checked.edits.personal) == set(PLACEHOLDERS)
    assert checked.languages.trusted and checked.decontaminate.files and checked.stages[-1].mixture.upsampling


def test_the_hash_is_of_what_decides_the_result(good, tmp_path):
    def mark(path: str, new) -> str:
        return recipes.load(corpus.save(changed(yaml.safe_load(yaml.safe_dump(good)), path, new), tmp_path / "r.yaml")).hash

    same = recipes.load(corpus.save(good, tmp_path / "r.yaml")).hash
    assert mark("home", "elsewhere") == mark("spark.master", "local[7]") == same
    assert len({same, mark("seed", 18), mark("stages.0.tokens", 9999), mark("model.experts", 5)}) == 4


# ---- bands and rows ----

THRESHOLDS = [round(0.06 + 0.01 * i, 2) for i in range(95)]


def test_the_default_threshold_has_sixteen_bands_of_seven_and_needs_no_datasketch():
    """datasketch says the same of it; and the default does not import it, nor SciPy."""
    assert parts.bands_and_rows(0.8) == (16, 7)
    weights = 1 - parts.MISSED_WEIGHT, parts.MISSED_WEIGHT
    chosen = datasketch.MinHashLSH(threshold=0.8, num_perm=parts.ENTRIES, weights=weights)
    assert (chosen.b, chosen.r) == (16, 7)
    code = "import sys, schemas.recipe, schemas.parts as p; print(p.NearDuplicates(), 'datasketch' in sys.modules, 'scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["threshold=0.8", "ngram=5", "bands=16", "rows=7", "False", "False"]


def test_pairs_at_any_threshold_meet_and_the_numbers_are_the_fields():
    """Recall by the formula 1 - (1 - s^rows)^bands; far fewer pairs of half the similarity meet."""
    for threshold in THRESHOLDS:
        near = parts.NearDuplicates(threshold=threshold)
        assert 1 - (1 - threshold**near.rows) ** near.bands >= 0.95, near
        assert near.bands * near.rows <= parts.ENTRIES
        assert parts.NearDuplicates(**near.model_dump()) == near  # the numbers are the recipe's, in bounds
    assert 1 - (1 - 0.3**4) ** 28 < 0.25 and parts.bands_and_rows(0.6) == (28, 4)
    assert 1 - (1 - 0.6**7) ** 16 < 0.4  # what .6 would get of the default


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.6, 0.7, 0.9, 0.95])
def test_no_other_bands_and_rows_have_a_smaller_weighted_error(threshold):
    """Oracle: both areas by sums over 20,000 similarities, for all bands and rows of at most 112 entries."""
    s = (np.arange(20_000) + 0.5) / 20_000

    def error(bands: int, rows: int) -> float:
        meet = 1 - (1 - s**rows) ** bands
        return (0.015 * meet[s < threshold].sum() + 0.985 * (1 - meet[s >= threshold]).sum()) / 20_000

    least = min(error(bands, rows) for bands in range(1, 113) for rows in range(1, 112 // bands + 1))
    assert error(*parts.bands_and_rows(threshold)) == pytest.approx(least, abs=1e-6)


def test_a_recipe_that_names_default_numbers_is_the_recipe_that_names_none(good, tmp_path):
    def loaded(near: dict) -> recipes.Recipe:
        return recipes.load(corpus.save(changed(good, "near_duplicates", near), tmp_path / "r.yaml"))

    named = loaded({"threshold": 0.8, "ngram": 5, "bands": 16, "rows": 7})
    for near in ({}, {"threshold": 0.8}, {"threshold": "0.8"}):
        assert loaded(near) == named and loaded(near).hash == named.hash
    assert named.part("near_duplicates") == {"near_duplicates": {"threshold": 0.8, "ngram": 5, "bands": 16, "rows": 7}}
    assert loaded({"threshold": 0.6}).part("near_duplicates")["near_duplicates"] == {"threshold": 0.6, "ngram": 5, "bands": 28, "rows": 4}
    assert loaded({"threshold": 0.6, "bands": 16, "rows": 7}).near_duplicates.bands == 16


def test_a_stage_without_a_base_of_its_own_changes_no_hash_and_has_that_of_the_stage_before(good, tmp_path):
    stages = [{"name": name, "tokens": 1024, "seq_len": 64} for name in ("one", "two", "three")]

    def loaded(*thetas) -> recipes.Recipe:
        said = [stage | ({} if theta == "unsaid" else {"rope_theta": theta}) for stage, theta in zip(stages, thetas, strict=True)]
        return recipes.load(corpus.save(changed(good, "stages", said), tmp_path / "r.yaml"))

    silent, null, raised = loaded(*["unsaid"] * 3), loaded(None, None, None), loaded("unsaid", 5e5, None)
    assert silent.hash == null.hash != raised.hash and silent.data_hash != raised.data_hash
    assert ["rope_theta" in stage for stage in raised.part("stages")["stages"]] == [False, True, False]
    assert not any("rope_theta" in stage for stage in null.part("stages")["stages"])
    assert silent.rope_thetas == [None] * 3 and raised.rope_thetas == [None, 5e5, 5e5]
    assert loaded(1e3, "unsaid", 2e3).rope_thetas == [1e3, 1e3, 2e3]


def test_a_preset_is_its_fields_written_out(good, tmp_path):
    """Name, name with other fields and fields give one recipe, one hash and one part of the train step."""
    def loaded(model):
        return recipes.load(corpus.save(changed(good, "model", model), tmp_path / "r.yaml"))

    written = {"layers": 20, "d_model": 2048, "heads": 16, "kv_heads": 8, "experts": 16, "top_k": 4, "d_expert": 3584, "rope_theta": 500000}
    for model, fields_of_it in (("moe-a", written), ({"preset": "moe-a"}, written), ({"preset": "moe-a", "layers": 8}, written | {"layers": 8})):
        by_name, by_fields = loaded(model), loaded(fields_of_it)
        assert by_name == by_fields and by_name.hash == by_fields.hash
        assert by_name.part("model", "train") == by_fields.part("model", "train")
    assert loaded("moe-a").hash != loaded("moe-b").hash


def test_presets_are_listed_where_fields_are():
    described = {path: (kind, meaning) for path, kind, _, meaning in fields.fields()}
    assert "moe-a" in described["model.preset"][1] and "flows model" in described["model"][1]


def test_every_field_is_described():
    rows = list(fields.fields())
    assert all(meaning for _, _, _, meaning in rows)
    paths = [path for path, *_ in rows]
    assert len(set(paths)) == len(paths)
    for expected in ("sources[].reader", "stages[].mixture.weights", "stages[].lr.shape", "model.top_k", "model.preset", "quality.<name>.positives[].uri"):
        assert expected in paths


def test_manifest_and_plan_come_back_as_they_were_and_changes_by_hand_are_noticed(tmp_path):
    stage = Stage("one", 0, 8, 128, (Draw("a.high", 5, 0), Draw("b.all", 3, 2)), LearningRate("linear", 1.0, 0.1, 100))
    plan = Plan(17, (stage,))
    save(plan, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan and "rope_theta" not in (tmp_path / "plan.json").read_text()
    raised = Plan(17, (stage, dataclasses.replace(stage, rope_theta=5e5)))
    save(raised, tmp_path / "raised.json")
    assert load_plan(tmp_path / "raised.json") == raised
    with pytest.raises(ValueError, match="rope_theta must be above 0, found -1"):
        dataclasses.replace(stage, rope_theta=-1.0)
    manifest = Manifest("r", {"eot": 1}, {"silver.tokens": "f"}, (), (), ())
    save(manifest, tmp_path / "manifest.json")
    assert load_manifest(tmp_path / "manifest.json") == manifest
    (tmp_path / "plan.json").write_text((tmp_path / "plan.json").read_text().replace('"samples": 5', '"samples": 6'))
    with pytest.raises(ValueError, match=r"draws give 9 samples|changed by hand"):
        load_plan(tmp_path / "plan.json")
    whole = (tmp_path / "manifest.json").read_text()
    for torn in ("", whole[:40], whole[:-9], "[]", "{}", '"' + "\\u0000" * 9):
        (tmp_path / "manifest.json").write_text(torn)
        with pytest.raises(DataError, match=rf"manifest\.json(: expected whole JSON, found {len(torn)} bytes| was changed by hand).*copy it again"):
            load_manifest(tmp_path / "manifest.json")
    with pytest.raises(FileNotFoundError, match="flows run shard"):
        load_manifest(tmp_path / "other.json")


# --- YAML


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("home: a\nseed: 1\nhome: b\n", r"line 3: expected every key once, found 'home' again, first in line 1"),
        ("rules:\n  docs: {lines: 1,\n    'lines': 2}\n", r"line 3: expected every key once, found 'lines' again, first in line 2"),
        ("stages: [{name: a, name: b}]", r"line 1: expected every key once, found 'name' again, first in line 1"),
        ("sources:\n- &one {name: a}\n- {<<: *one, <<: *one}", r"line 3: expected every key once, found '<<'"),
        ("home: &a [*a]", r"line 1: expected no alias inside of what it stands for"),
        ("home: " + "[" * 90_000, r"expected a few levels"),
        ("home: !!int many", r"line 1: expected a value of !!int, found 'many'"),
        ("home: !!bool maybe", r"line 1: expected a value of !!bool, found 'maybe'"),
        ("home: a\nseed: !!timestamp soon", r"line 2: expected a value of !!timestamp, found 'soon'"),
        ("home: a\nseed: 0x_", r"line 2: expected a value of !!int, found '0x_'"),
        ("home: !mine {a: b}", r"line 1: expected no tags but YAML's own, such as !!str, found !mine"),
        ("home: !!map a", r"line 1: expected a mapping node, but found scalar"),
        ("home: {<<: a}", r"line 1: while constructing a mapping, expected a mapping or list of mappings for merging"),
        ("{[a]: b}", r"line 1: expected a text as a key, found a sequence"),
        ("a: &a [x]\n" + "".join(f"{c}: &{c} [{', '.join([f'*{p}'] * 9)}]\n" for p, c in zip("abcdefghi", "bcdefghij", strict=True)), r"expected at most 100,000 values"),
        ("a: &a {k: v}\n" + "".join(f"{c}: &{c} {{<<: [{', '.join([f'*{p}'] * 9)}]}}\n" for p, c in zip("abcdefghi", "bcdefghij", strict=True)), r"expected at most 100,000 values"),
    ],
)  # fmt: skip
def test_yaml_that_says_two_things_or_far_too_much_is_refused(tmp_path, text, said):
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(recipes.RecipeError, match=rf"/r\.yaml: {said}"):
        recipes.load(file)
    with pytest.raises(ValueError, match=rf"rules/r\.yaml: {said}"):
        rules.read(file)


def test_yaml_is_as_it_is_written():
    """Against PyYAML on the recipes and rules that ship; and what it takes for dates, octals, minutes and truth is text."""
    shipped = [*RECIPES, *(rules.FOLDER.glob("*.yaml"))]
    assert len(shipped) > 6 and all(load_yaml(file.read_text()) == yaml.safe_load(file.read_text()) for file in shipped)
    texts = ["no", "Yes", "on", "017", "08", "1:30", "2024-01-01", "2024-01-01T10:00:00Z", "0o17", "1.2.3", "_1", "+", "0b1"]
    assert load_yaml("[" + ", ".join(texts) + "]") == texts
    numbers = {"0": 0, "-17": -17, "1_000": 1000, "0x1F": 31, "1e-3": 0.001, "1.5": 1.5, ".5": 0.5, "-1.": -1.0, "6.02e+23": 6.02e23, ".inf": float("inf")}
    assert load_yaml("[" + ", ".join(numbers) + "]") == list(numbers.values())
    assert load_yaml("[true, False, null, ~, '', 'no']") == [True, False, None, None, "", "no"]
    assert load_yaml("a: &a {k: 1}\nb: &b {<<: *a, k: 2}\nc: {<<: *b, j: 3}\nd: [*a, *a]") == {
        "a": {"k": 1}, "b": {"k": 2}, "c": {"k": 2, "j": 3}, "d": [{"k": 1}, {"k": 1}]}  # fmt: skip


def test_names_that_look_like_other_things_are_names(good, tmp_path):
    """Snapshots are dates, Norwegian is `no`."""
    file = corpus.save(good, tmp_path / "r.yaml")
    text = file.read_text().replace("sources:\n- ", "sources:\n- snapshots: [2024-01-01, 017, 1:30]\n  path: 'a/{snapshot}'\n  ", 1)
    made = recipes.load(Path(shutil.copy(file, tmp_path / "s.yaml")))
    (tmp_path / "s.yaml").write_text(re.sub(r"(?m)^  path: /.*\n", "", text, count=1))
    with pytest.raises(recipes.RecipeError, match=r"snapshots\[2\]: .*pattern"):  # a colon is no part of a snapshot's name
        recipes.load(tmp_path / "s.yaml")
    (tmp_path / "s.yaml").write_text(re.sub(r"(?m)^  path: /.*\n", "", text.replace("1:30", "no"), count=1))
    assert recipes.load(tmp_path / "s.yaml").sources[0].snapshots == ("2024-01-01", "017", "no") != made.sources[0].snapshots
    for wrong in ("2024", "2024.10", "true"):
        (tmp_path / "s.yaml").write_text(re.sub(r"(?m)^  path: /.*\n", "", text.replace("1:30", wrong), count=1))
        with pytest.raises(recipes.RecipeError, match=r"snapshots\[2\]: .*string, found .*; in quotes it is text") as error:
            recipes.load(tmp_path / "s.yaml")
        assert "\n" not in str(error.value)
    (tmp_path / "s.yaml").write_text(f"languages: {{documents: 2024-01-01}}\n{file.read_text()}")
    with pytest.raises(recipes.RecipeError, match=r"languages\.documents: .*integer.*found '2024-01-01'"):
        recipes.load(tmp_path / "s.yaml")
