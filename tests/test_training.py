"""Training against kill -9, full disks and other inputs."""

import dataclasses
import gzip
import json
import math
import multiprocessing
import os
import re
import resource
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from model import trace
from model.data import Batches
from model.evaluate import bits_per_byte
from model.generate import load
from model.ledger import Journal, ledger_files, recorded_steps
from model.step import Learner
from model.train import train
from model.transformer import Transformer
from schemas.manifest import Draw, LearningRate, Plan, Stage, load_manifest, load_plan, save
from schemas.training import TrainConfig
from tests.mds import pack_documents, write_shards
from tests.tiny import TINY, VOCAB, heldout_documents

STAGES = (
    Stage("base", 0, 24, 16, (Draw("a", 16, 0), Draw("b", 8, 0)), LearningRate(warmup_tokens=64)),
    Stage("cool", 24 * 16, 8, 32, (Draw("a", 8, 1),), LearningRate("one_minus_sqrt", 1.0, 0.0)),
)
CONFIG = TrainConfig(batch_tokens=64, checkpoint_steps=2, peak_lr=1e-2)


@pytest.fixture
def shards(tmp_path):
    """Six steps of sequences of 16, then four of 32; a document counts up from anywhere."""
    random = np.random.default_rng(1)
    def document():
        return np.array([0, *(np.arange(20) + random.integers(VOCAB)) % (VOCAB - 1) + 1])
    def windows(seq_len, first):
        return [
            pack_documents([document() for _ in range(40)], list(range(key, key + 40)), seq_len) for key in (first, first + 100)
        ]
    folders = {("a", 16): windows(16, 1), ("a", 32): windows(32, 1), ("b", 16): windows(16, 1001)}
    root = tmp_path / "shards"
    heldout = [{"doc": i, **document} for i, document in enumerate(heldout_documents())]
    write_shards(root, folders, heldout, STAGES, VOCAB)
    return root


def apart(function, *arguments, kill_after: float | None = None) -> int:
    """Exit code of a call in a process of its own, negative for a signal. One thread: a forked OpenMP pool has no workers."""
    process = multiprocessing.get_context("fork").Process(target=_one_thread, args=(function, *arguments))
    process.start()
    process.join(kill_after)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    return process.exitcode


def _one_thread(function, *arguments):
    torch.set_num_threads(1)
    function(*arguments)


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(shards, run, config, where):
    """Train until `where`: at step n, or when a checkpoint is renamed, or when result.json is written."""
    if isinstance(where, int):
        train(shards, run, TINY, config, lambda progress: die() if progress.step == where else None)
    module, name = {"rename": ("pathlib.Path", "rename"), "final": ("model.train", "finish"), "ledger": ("model.checkpoint", "save")}[where]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{module}.{name}", die)
        train(shards, run, TINY, config)


def outcome(run):
    """All that must be the same however often a run was killed; seconds differ."""
    result = json.loads((run / "result.json").read_text())
    result.pop("seconds")
    result.pop("speed")
    ledger = [(path.name, path.read_bytes()) for path in sorted((run / "ledger").iterdir())]
    files = [(run / name).read_bytes() for name in ("metrics.jsonl", "evaluations.json", "final/weights.safetensors")]
    return result, ledger, files


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_run_ends_in_the_same_bits(shards, tmp_path, precision):
    config = dataclasses.replace(CONFIG, precision=precision)
    assert apart(train, shards, tmp_path / "whole", TINY, config) == 0
    for where in (1, 3, "rename", "ledger", 5, 6, 9, "final"):
        assert apart(train_and_die, shards, tmp_path / "killed", config, where) == -signal.SIGKILL
    assert apart(train, shards, tmp_path / "killed", TINY, config) == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_a_run_killed_at_any_time_ends_in_the_same_bits(shards, tmp_path):
    began = time.perf_counter()
    assert apart(train, shards, tmp_path / "whole", TINY, CONFIG) == 0
    whole, random = time.perf_counter() - began, np.random.default_rng()
    kills = 0
    while apart(train, shards, tmp_path / "killed", TINY, CONFIG, kill_after=random.uniform(0.2, 0.9) * whole * (1 + kills / 10)) != 0:  # on a machine that slows down too
        kills += 1
        assert kills < 50
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


class Stopped(Exception):
    pass


def train_until(shards, run, step, config=CONFIG):
    def stop(progress):
        if progress.step == step:
            raise Stopped

    with pytest.raises(Stopped):
        train(shards, run, TINY, config, stop)


def damage_weights(folder):
    weights = load_file(folder / "weights.safetensors")
    save_file(weights | {"embedding.weight": torch.full_like(weights["embedding.weight"], math.nan)}, folder / "weights.safetensors")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: os.truncate(folder / "weights.safetensors", 1000), "weights.safetensors: expected .* bytes, found"),
        (damage_weights, "not finite in embedding"),
        pytest.param(lambda folder: (folder / "state.json").write_text("{}"), "state.json lacks", marks=pytest.mark.servers),
        (lambda folder: os.truncate(folder / "state.json", 100), "JSONDecodeError"),
        (lambda folder: save_file({}, folder / "optimizer.safetensors"), "optimizer.safetensors: expected .*exp_avg of shape .*, found None"),
        (lambda folder: (folder / "optimizer.safetensors").unlink(), "No such file"),
    ],
    ids=["cut", "NaN", "empty state", "cut state", "empty moments", "no moments"],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(shards, tmp_path, caplog, damage, said):
    train(shards, tmp_path / "whole", TINY, CONFIG)
    train_until(shards, tmp_path / "run", 9)
    damage(tmp_path / "run/checkpoints/step-0000008")
    resumed = []
    train(shards, tmp_path / "run", TINY, CONFIG, lambda progress: resumed.append(progress.step))
    assert resumed[0] == 7 and re.search(rf"step-0000008 cannot be gone on from \(.*{said}.*the run goes on from step-0000006", caplog.text, re.DOTALL)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(shards, tmp_path):
    train_until(shards, tmp_path / "run", 9)
    for folder in (tmp_path / "run/checkpoints").iterdir():
        damage_weights(folder)
    with pytest.raises(ValueError, match=r"step-0000008 cannot .*step-0000006 cannot .*delete .*/run and train from the beginning"):
        train(shards, tmp_path / "run", TINY, CONFIG)


def test_a_run_whose_record_lost_steps_goes_on_from_before_them_or_is_refused(shards, tmp_path, caplog):
    train(shards, tmp_path / "whole", TINY, CONFIG)
    train_until(shards, tmp_path / "run", 9)
    metrics, ledger = tmp_path / "run/metrics.jsonl", tmp_path / "run/ledger/steps-0000002-0000003.npy"
    kept, rows = metrics.read_bytes(), ledger.read_bytes()
    metrics.write_bytes(b"".join(kept.splitlines(keepends=True)[:5])[:-3])
    with pytest.raises(ValueError, match=r"step-0000006 cannot be gone on from \(metrics, seconds and ledger tell of 4 steps\): put back .*, or delete .*/run"):
        train(shards, tmp_path / "run", TINY, CONFIG)
    metrics.write_bytes(kept)
    ledger.unlink()
    with pytest.raises(ValueError, match=r"ledger tell of 2 steps"):
        train(shards, tmp_path / "run", TINY, CONFIG)
    ledger.write_bytes(rows)
    (tmp_path / "run/ledger/steps-0000006-0000007.npy").unlink()
    train(shards, tmp_path / "run", TINY, CONFIG)
    assert re.search(r"step-0000008 cannot be gone on from .*tell of 6 steps\); the run goes on from step-0000006", caplog.text)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_a_kill_while_the_record_is_taken_back_loses_no_line(shards, tmp_path, monkeypatch):
    """What a resumed run writes into the files of the record, it appends: no line before the checkpoint is ever out of them."""
    train_until(shards, tmp_path / "run", 9)
    lines = (tmp_path / "run/metrics.jsonl").read_bytes().splitlines(keepends=True)
    opened = Path.open

    def watched(path, mode="r", *arguments, **options):
        assert path.suffix != ".jsonl" or "w" not in mode
        return opened(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", watched)
    Journal(tmp_path / "run", 8).close()
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == b"".join(lines[:8])


def test_what_a_run_leaves(shards, tmp_path):
    steps = []
    result = train(shards, tmp_path, TINY, CONFIG, steps.append)
    assert [(p.step, p.steps, p.stage, p.tokens) for p in steps][5:7] == [(6, 10, "base", 384), (7, 10, "cool", 448)]
    assert [e["stage"] for e in result["evaluations"]] == ["before training", "base", "cool"]
    assert [e["seq_len"] for e in result["evaluations"]] == [16, 16, 32]
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step-0000008", "step-0000010"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(10)) and len((tmp_path / "seconds.jsonl").read_text().splitlines()) == 10
    ledger = np.concatenate([rows for _, rows in ledger_files(tmp_path)])
    for line in lines:
        rows = ledger[ledger["step"] == line["step"]]
        assert rows["loss"].sum() / rows["tokens"].sum() == pytest.approx(line["loss"], rel=1e-5)
    assert [sum(layer) for layer in result["expert_load"]] == pytest.approx([1, 1])
    assert (result["steps"], result["tokens"], result["skipped"]) == (10, 640, [])
    assert train(shards, tmp_path, TINY, CONFIG, lambda p: pytest.fail("trained again")) == result


@pytest.mark.parametrize("lost", ["final", "final/weights.safetensors", "final/config.json", "changed", "cut"])
def test_a_trained_model_that_is_gone_or_changed_is_written_again(shards, tmp_path, lost):
    """From the last checkpoint: no step is trained."""
    train(shards, tmp_path, TINY, CONFIG)
    before, path = outcome(tmp_path), tmp_path / lost
    if lost == "changed":
        path = tmp_path / "final/weights.safetensors"
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif lost == "cut":
        (tmp_path / "result.json").write_text("{")
    else:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (tmp_path / "evaluations.json").unlink()
    train(shards, tmp_path, TINY, CONFIG, lambda p: pytest.fail("trained again"))
    assert outcome(tmp_path) == before


def test_a_run_of_before_december_2026_is_done_while_its_model_is_there(shards, tmp_path):
    train(shards, tmp_path, TINY, CONFIG)
    result = json.loads((tmp_path / "result.json").read_text())
    del result["final"]
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert train(shards, tmp_path, TINY, CONFIG) == result
    (tmp_path / "final/config.json").unlink()
    assert train(shards, tmp_path, TINY, CONFIG)["final"].keys() == {"weights.safetensors", "config.json"}


def test_a_window_that_was_changed_is_not_trained_on(shards, tmp_path):
    window = shards / load_manifest(shards / "manifest.json").folder("b", 16).windows[0].file
    data = window.read_bytes()
    window.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"b/16/window-00000\.mds was changed"):
        train(shards, tmp_path / "run", TINY, CONFIG)


def test_steps_are_recorded_as_far_as_metrics_seconds_and_ledger_all_tell_of_them(shards, tmp_path):
    assert recorded_steps(tmp_path) == 0
    train(shards, tmp_path, TINY, CONFIG)
    assert recorded_steps(tmp_path) == 10
    (tmp_path / "seconds.jsonl").write_text("".join((tmp_path / "seconds.jsonl").read_text().splitlines(keepends=True)[:9]))
    assert recorded_steps(tmp_path) == 9
    (tmp_path / "ledger/steps-0000004-0000005.npy").unlink()
    assert recorded_steps(tmp_path) == 4
    (tmp_path / "metrics.jsonl").unlink()
    assert recorded_steps(tmp_path) == 0


def test_the_model_learns(shards, tmp_path):
    plan = load_plan(shards / "plan.json")
    stage = dataclasses.replace(plan.stages[0], samples=240, draws=(Draw("a", 160, 0), Draw("b", 80, 0)))
    save(Plan(plan.seed, (stage,)), shards / "plan.json")
    result = train(shards, tmp_path / "run", TINY, dataclasses.replace(CONFIG, checkpoint_steps=100))
    assert result["final_loss"] < 1.0 < 4.0 < json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])["loss"]


@pytest.mark.parametrize(("change", "message"), [
    (lambda root: save(dataclasses.replace(load_plan(root / "plan.json"), seed=4), root / "plan.json"), r"plan.seed: 3, now 4"),
    (lambda root: edit_manifest(root, lambda m: dataclasses.replace(m, recipe="other")), r"manifest.recipe: \"recipe\", now \"other\""),
    (lambda root: edit_manifest(root, lambda m: dataclasses.replace(m, folders=tuple(
        dataclasses.replace(f, windows=tuple(dataclasses.replace(w, sha256="0") for w in f.windows)) if f.stream == "b" else f
        for f in m.folders))), r"manifest.windows.b/16/window-00000.mds"),
])
def test_a_checkpoint_of_other_data_is_refused(shards, tmp_path, change, message):
    train(shards, tmp_path / "run", TINY, CONFIG)
    change(shards)
    with pytest.raises(ValueError, match=message):
        train(shards, tmp_path / "run", TINY, CONFIG)


def edit_manifest(root, change):
    save(change(load_manifest(root / "manifest.json")), root / "manifest.json")


def test_a_checkpoint_of_another_model_or_configuration_is_refused(shards, tmp_path):
    train(shards, tmp_path, TINY, CONFIG)
    with pytest.raises(ValueError, match=r"model.d_expert: 16, now 8; train.peak_lr: 0.01, now 0.02. Restore"):
        train(shards, tmp_path, dataclasses.replace(TINY, d_expert=8), dataclasses.replace(CONFIG, peak_lr=0.02))


def test_stages_may_be_added_to_a_plan_but_begun_ones_not_changed(shards, tmp_path):
    plan = load_plan(shards / "plan.json")
    save(Plan(plan.seed, plan.stages[:1]), shards / "plan.json")
    train(shards, tmp_path / "amended", TINY, CONFIG)
    save(plan, shards / "plan.json")
    amended = train(shards, tmp_path / "amended", TINY, CONFIG)
    at_once = train(shards, tmp_path / "at once", TINY, CONFIG)
    assert amended["final_loss"] == at_once["final_loss"] and amended["evaluations"] == at_once["evaluations"]
    changed = dataclasses.replace(plan.stages[1], lr=LearningRate())
    save(Plan(plan.seed, (plan.stages[0], changed)), shards / "plan.json")
    with pytest.raises(ValueError, match=r"plan.stages\[1\].lr"):
        train(shards, tmp_path / "amended", TINY, CONFIG)


LONG = (
    Stage("short", 0, 24, 64, (Draw("a", 24, 0),), LearningRate(warmup_tokens=512)),
    Stage("long", 24 * 64, 4, 512, (Draw("a", 4, 1),), LearningRate(), rope_theta=20_000.0),
)
LONG_CONFIG = dataclasses.replace(CONFIG, batch_tokens=512, precision="fp32")


@pytest.fixture
def long_shards(tmp_path):
    """Three steps of eight rows of 64, and four of one row of 512; documents of 5 to 700 tokens."""
    random = np.random.default_rng(2)
    documents = [np.array([0, *random.integers(1, VOCAB, n)]) for n in random.integers(5, 700, 40)]
    folders = {("a", n): [pack_documents(documents[i : i + 20], list(range(1 + i, 21 + i)), n) for i in (0, 20)] for n in (64, 512)}
    write_shards(tmp_path / "shards", folders, [{"doc": i, **one} for i, one in enumerate(heldout_documents((90, 700)))], LONG, VOCAB)
    return tmp_path / "shards"


def test_a_long_stage_turns_positions_by_its_own_base(long_shards, tmp_path):
    """Losses and evaluations are those of a network that was configured so from the beginning, and so is what is left."""
    result = train(long_shards, tmp_path / "run", TINY, LONG_CONFIG)
    plan, manifest = load_plan(long_shards / "plan.json"), load_manifest(long_shards / "manifest.json")
    batches, documents = Batches(long_shards, manifest, plan, 512), heldout_documents((90, 700))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    configured = {theta: dataclasses.replace(TINY, rope_theta=theta) for theta in (500.0, 20_000.0)}
    def loss(folder, step, theta):
        network, batch = Transformer(configured[theta], VOCAB), batches.batch(step)
        network.load_state_dict(load_file(folder / "weights.safetensors"))
        with torch.no_grad():
            given = network.logits(network(batch.tokens_BL, batch.packing).states_TD)
            return F.cross_entropy(given, batch.targets_BL.flatten(), ignore_index=-1).item()
    for step, theta, other in ((2, 500.0, 20_000.0), (3, 20_000.0, 500.0), (5, 20_000.0, 500.0)):
        train_until(long_shards, tmp_path / f"to {step}", step + 1, dataclasses.replace(LONG_CONFIG, checkpoint_steps=step))
        folder = tmp_path / f"to {step}/checkpoints/step-{step:07d}"
        assert losses[step] == pytest.approx(loss(folder, step, theta), rel=1e-5)
        assert losses[step] != pytest.approx(loss(folder, step, other), rel=1e-5)
    model = load(tmp_path / "run/final")
    assert model.config == configured[20_000.0]
    assert result["evaluations"][-1]["domains"] == bits_per_byte(model, documents, 512, 512)
    begun = Transformer(configured[500.0], VOCAB, LONG_CONFIG.seed)
    assert result["evaluations"][0]["domains"] == bits_per_byte(begun, documents, 64, 512)


def test_a_run_killed_before_or_in_a_long_stage_ends_in_the_same_bits(long_shards, tmp_path):
    assert apart(train, long_shards, tmp_path / "whole", TINY, LONG_CONFIG) == 0
    for where in (1, 3, 4, "rename", "ledger", 6):
        assert apart(train_and_die, long_shards, tmp_path / "killed", LONG_CONFIG, where) == -signal.SIGKILL
    assert apart(train, long_shards, tmp_path / "killed", TINY, LONG_CONFIG) == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_the_base_may_be_amended_in_stages_that_are_not_begun(long_shards, tmp_path):
    train_until(long_shards, tmp_path / "run", 4, LONG_CONFIG)  # the checkpoint is of step 3
    def amend(number, theta):
        stages = list(LONG)
        stages[number] = dataclasses.replace(LONG[number], rope_theta=theta)
        save(Plan(3, tuple(stages)), long_shards / "plan.json")
    amend(0, 1_000.0)
    with pytest.raises(ValueError, match=r"different are plan.stages\[0\].rope_theta: null, now 1000.0. Restore"):
        train(long_shards, tmp_path / "run", TINY, LONG_CONFIG)
    amend(1, 9_000.0)
    train(long_shards, tmp_path / "run", TINY, LONG_CONFIG)
    assert load(tmp_path / "run/final").config.rope_theta == 9_000.0
    amend(1, 20_000.0)
    with pytest.raises(ValueError, match=r"plan.stages\[1\].rope_theta: 9000.0, now 20000.0"):
        train(long_shards, tmp_path / "run", TINY, LONG_CONFIG)


def test_a_full_disk_leaves_the_older_checkpoint(shards, tmp_path):
    def fill(progress):
        if progress.step == 4:  # files may not grow past 20 kB from here on, as on a disk that is nearly full
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match=r"checkpoint of step 4 could not be written .* goes on from step-0000002"):
            train(shards, tmp_path / "run", TINY, CONFIG, fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-0000002"]
    assert train(shards, tmp_path / "run", TINY, CONFIG)["final_loss"] == train(shards, tmp_path / "other", TINY, CONFIG)["final_loss"]


def test_a_profile_tells_where_steps_went_and_changes_nothing(shards, tmp_path):
    runs = tmp_path / "plain", tmp_path / "traced"
    results = [train(shards, run, TINY, dataclasses.replace(CONFIG, profile=steps)) for run, steps in zip(runs, (0, 2), strict=True)]
    assert not list(runs[0].glob("profile*"))
    (_, ledger, files), (_, ledger_too, files_too) = map(outcome, runs)
    assert ledger == ledger_too and files == files_too and results[0]["final"] == results[1]["final"]
    told = json.loads((runs[1] / "profile.json").read_text())
    assert (told["device"], told["steps"]) == ("cpu", 2)
    classes = {row["name"]: row for row in told["classes"]}
    assert sum(row["share"] for row in classes.values()) == pytest.approx(1)
    assert classes.keys() == set(trace.CLASSES) and all(row["ms"] > 0 for row in classes.values())
    events = json.loads(gzip.open(runs[1] / "profile-trace.json.gz").read())["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "cpu_op"]
    calls = {row["name"]: row["calls"] for row in told["kernels"]}
    # scores and values of each layer, with two products each in the backward; no evaluation
    assert calls["aten::bmm"] == names.count("aten::bmm") / 2 == 6 * TINY.layers
    assert names.count("Experts") == names.count("ExpertsBackward") == 2 * TINY.layers
    assert "aten::normal_" not in names  # no step makes a model


def test_a_step_is_told_the_seconds_that_it_took(shards, tmp_path, monkeypatch):
    step = Learner.step

    def slow(self, number, *rest):
        time.sleep(2.0 * (number in (2, 5)))
        return step(self, number, *rest)

    monkeypatch.setattr(Learner, "step", slow)
    train(shards, tmp_path, TINY, CONFIG)
    told = [json.loads(line)["seconds"] for line in (tmp_path / "seconds.jsonl").read_text().splitlines()]
    assert set(np.argsort(told)[-2:].tolist()) == {2, 5} and min(told[2], told[5]) >= 2


@pytest.mark.parametrize("pauses, wanted, traced", [
    ([0, 100], 5, (47, 5)),
    ([0, 100], 0, (50, 0)),
    ([0, 50, 100], 5, (22, 5)),
    ([0, 20, 40, 50, 60, 80, 100], 5, (42, 5)),
    ([0, 20, 40, 50, 60, 80, 100], 15, (22, 15)),
    ([100, 49, 0, 52], 5, (22, 5)),
    ([0, 2, 4, 6, 8, 10], 5, (4, 2)),
])  # fmt: skip
def test_steps_are_traced_between_pauses_near_the_middle(pauses, wanted, traced):
    assert trace.span(pauses, wanted) == traced


def test_every_kernel_of_ours_has_a_class():
    source = "".join(path.read_text() for path in (Path(__file__).parents[1] / "kernels").rglob("*.py"))
    names = set(re.findall(r"^def (\w+_kernel)\(", source, re.MULTILINE))
    found = {name: trace.kind(name) for name in names}
    assert {name: one for name, one in found.items() if one != "experts"} == {"adamw_kernel": "update", "cross_entropy_kernel": "loss"}
    assert len(names) > 20


@pytest.mark.parametrize("name, one", [
    ("pytorch_flash::flash_fwd_splitkv_combine_kernel<Flash_fwd_kernel_traits<128, 64, cutlass::bfloat16_t>>", "attention"),
    ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_7_64x64x64", "attention"),
    ("void cudnn::fusion::convert_dq_to_16bits<__nv_bfloat16>", "attention"),
    ("nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_NTN", "dense products"),
    ("void cublasLt::splitKreduce_kernel<32, 16, int, float>", "dense products"),
    ("triton_per_fused__to_copy_add_native_layer_norm_backward_3", "norms and elementwise"),
    ("void at::native::vectorized_layer_norm_kernel<float, float>", "norms and elementwise"),
    ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::NormTwoOps<float, float>>>", "update"),
    ("void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda>", "copies"),
    ("Memcpy DtoD (Device -> Device)", "copies"),
    ("aten::linear/aten::matmul/aten::mm", "dense products"),
    ("autograd::engine::evaluate_function: ExpertsBackward/ExpertsBackward/aten::mm", "experts"),
    ("aten::_foreach_norm/aten::linalg_vector_norm", "update"),
    ("aten::outer/aten::mul", "norms and elementwise"),
])
def test_classes_of_kernels_and_operators(name, one):
    assert trace.kind(name) == one
