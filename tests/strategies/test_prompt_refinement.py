"""Prompt refinement on a toy generator that draws only what its prompt names, and on text."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import ponder
from ponder.api import run_sync
from ponder.cli.main import cli
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.verifier import Verifier, output_of
from ponder.diffusion.model import FunctionModel
from ponder.errors import ParameterError, StoreError
from ponder.models.openai_compatible import OpenAICompatible
from ponder.processes.denoising import Denoising
from ponder.recipes.prompt_pairs import prompt_pairs, stored_pairs, write_prompt_pairs
from ponder.strategies._prompt_corpus import read_corpus
from ponder.strategies.best_of_n import BestOfN
from ponder.strategies.prompt_refinement import PromptRefinement

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
from fake_endpoint import FakeEndpoint

WANTED = ("bright", "large", "centred")


def named(x, t, prompt):
    """A picture of three numbers: 1 for each wanted word that the prompt names."""
    return np.broadcast_to([float(word in prompt) for word in WANTED], x.shape)


MODEL = FunctionModel(named, (3,), kind="sample", label="named")
PROCESS = Denoising(MODEL, steps=3, eta=0.0)


@dataclass(frozen=True)
class Constraints(Verifier):
    """Share of the three constraints that a picture keeps; says which it does not."""

    name = "constraints"

    async def score(self, problem, items, ctx):
        found = []
        for item in items:
            kept = np.asarray(output_of(item, ctx)) > 0.5
            ctx.remark(item, "not " + ", ".join(w for w, k in zip(WANTED, kept, strict=True) if not k))
            found.append(float(kept.mean()))
        return found


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "cäptions.jsonl"
    rows = [
        {"prompt": "a digit seven, bright, large, centred", "modifiers": ["striped", "bright", "large", "centred"]},
        {"text": "a black cat, on a sofa"},
        {"prompt": "a digit three, tilted"},
    ]
    lines = [json.dumps(row) for row in rows] + ["{not json", "3", '{"prompt": 4}', ""]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def refined(prompt="a seven", budget=None, **settings):
    plan = PromptRefinement(**{"verifier": Constraints(), **settings})
    return ponder.solve(prompt, model=MODEL, process=PROCESS, strategy=plan, budget=budget)


def test_the_corpus_gives_phrases_of_the_nearest_captions_and_counts_what_it_cannot_read(corpus):
    found = read_corpus(corpus)
    assert found.skipped == 3 and len(found.captions) == 3
    assert found.captions[found.nearest("digit seven", 1)[0][1]].startswith("a digit seven")
    assert found.suited("a bright seven", 1, 5) == ["striped", "large", "centred"], "what it says already is left out"
    assert found.suited("zebra", 3, 5) == []


def test_phrases_from_the_corpus_raise_the_share_of_kept_constraints(corpus):
    raw = refined(n=1)
    enriched = refined(n=1, corpus=corpus, captions=1, enrich=4)
    assert raw.details["round_scores"] == [0.0] and enriched.details["round_scores"] == [1.0]
    assert enriched.details["best_prompt"] == "a seven, striped, bright, large, centred"


def test_each_round_keeps_what_helped_and_drops_what_did_not(corpus):
    result = refined(n=5, corpus=corpus, captions=1, patience=0)
    prompts = result.details["prompts"]
    assert prompts[1] == "a seven, striped" and prompts[2] == "a seven, bright", "a useless phrase is not kept"
    assert prompts[-1] == "a seven, bright, large, centred" and result.details["gain"] == 1.0
    best = [refined(n=k, corpus=corpus, captions=1, patience=0).details for k in range(1, 6)]
    tops = [max(d["round_scores"]) for d in best]
    assert tops == sorted(tops) and tops[-1] == 1.0, "more rounds are never worse"
    plain = ponder.solve(
        "a seven",
        model=MODEL,
        process=Denoising(MODEL, steps=3),
        strategy=ponder.parse("best_of_n(n=5, verifier=constant)"),
    )
    assert max(np.mean(np.asarray(c.output) > 0.5) for c in plain.candidates) == 0.0, "other seeds do not mend a prompt"


def test_it_stops_at_the_target_without_gain_and_when_nothing_is_left(corpus):
    assert refined(n=9, corpus=corpus, captions=1, enrich=2, target=0.3).details["stopped"] == "target"
    idle = refined("a cat", n=9, corpus=corpus, patience=1)
    assert idle.details["stopped"] == "no gain" and idle.details["rounds"] == 2
    assert refined(n=9).details == refined(n=1).details


def test_only_the_prompt_differs_between_rounds_unless_told_otherwise(corpus):
    noises = {
        fixed: {c.state.payload.noise.tobytes() for c in refined(n=3, corpus=corpus, fixed_seed=fixed).candidates}
        for fixed in (True, False)
    }
    assert len(noises[True]) == 1 and len(noises[False]) == 3


def test_costs_are_the_rounds_and_a_budget_ends_it_with_the_best_so_far(corpus):
    result = refined(n=3, draws=2, corpus=corpus, captions=1, patience=0)
    assert result.total.function_evaluations == 3 * 2 * 3 and result.total.verifier_calls == 6
    assert [c.index for c in result.candidates] == list(range(6))
    cut = refined(n=5, corpus=corpus, patience=0, budget="function_evaluations=7")
    assert cut.total.function_evaluations == 6 and cut.status == "ok" and cut.details["stopped"] == "budget"


def test_a_model_rewrites_text_prompts_and_its_calls_are_booked():
    plan = "prompt_refinement(n=3, patience=0, rewriter=sim:strong)"
    result = ponder.solve("What is 17+25?", model="sim:strong", strategy=plan)
    assert 2 <= result.details["rounds"] <= 3 and result.spend["critique"].generated_tokens > 0
    assert result.details["prompts"][0] == "What is 17+25?" == result.details["original_prompt"]
    assert len(set(result.details["prompts"])) == result.details["rounds"]


def test_pairs_are_those_that_gained_more_than_the_margin(corpus, tmp_path):
    results = [
        refined(n=2, corpus=corpus, captions=1),
        refined(n=5, corpus=corpus, captions=1, patience=0),
        refined(n=1),
    ]
    pairs = prompt_pairs(results, margin=0.5)
    assert [(p["prompt"], p["completion"], p["gain"]) for p in pairs] == [
        ("a seven", "a seven, bright, large, centred", 1.0)
    ]
    assert prompt_pairs(results, margin=1.0) == [] == prompt_pairs([refined(n=1)])
    with pytest.raises(ParameterError, match="margin"):
        prompt_pairs(results, margin=-1.0)
    path = tmp_path / "pairs.jsonl"
    assert write_prompt_pairs(pairs, path) == 1
    row = json.loads(path.read_text())
    assert [m["role"] for m in row["messages"]] == ["user", "assistant"]
    assert row["messages"][1]["content"] == row["completion"] == "a seven, bright, large, centred"
    assert "- a seven (the best so far)" in row["messages"][0]["content"], "what a rewriter is asked in the first round"


def test_pairs_come_out_of_a_study_and_of_saved_runs_by_the_command(corpus, tmp_path):
    """Scores are random, so that some prompts gain."""
    plan = f'prompt_refinement(patience=0, corpus="{corpus}", captions=3, verifier=random_score)'
    task = tmp_path / "tasks.jsonl"
    rows = [{"prompt": f"{a} + {b} digit cat seven", "reference": str(a + b)} for a, b in ((1, 2), (3, 4), (5, 6))]
    task.write_text("\n".join(map(json.dumps, rows)))
    folder, out = tmp_path / "study", tmp_path / "pairs.jsonl"
    ponder.bench(model="sim:strong", task=f"jsonl:{task}", strategies=[plan], samples=[1, 4], out=folder, check=False)
    found = list(stored_pairs(folder))
    assert len(found) == 6 and {p["prompt"] for p in found} == {row["prompt"] for row in rows}
    gained = {p["prompt"] for p in found if p["gain"] > 0}
    assert gained, "of three prompts with three more rounds each"
    saved = tmp_path / "run.json"
    record = {"details": {"original_prompt": "a", "best_prompt": "b", "gain": 2.0}}
    saved.write_text(json.dumps(record))
    told = CliRunner().invoke(cli, ["export-pairs", str(folder), str(saved), "--out", str(out)])
    assert told.exit_code == 0 and f"{len(gained) + 1} pairs" in told.output and "of 7 refinements" in told.output
    assert {json.loads(line)["prompt"] for line in out.read_text().splitlines()} == gained | {"a"}
    told = CliRunner().invoke(cli, ["export-pairs", str(saved), "--out", str(out), "--margin", "2"])
    assert told.exit_code == 0 and out.read_text() == ""


def test_what_is_no_saved_run_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ParameterError, match="a study's directory"):
        list(stored_pairs(tmp_path / "x.json"))
    with pytest.raises(StoreError, match="holds no study"):
        list(stored_pairs(tmp_path))


def test_a_solved_prompt_saved_as_json_is_a_source(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = f'prompt_refinement(n=3, patience=0, corpus="{corpus}", captions=3)'
    told = CliRunner().invoke(cli, ["solve", "a digit cat", "-m", "sim:strong", "-s", plan, "--json"])
    (tmp_path / "run.json").write_text(told.output)
    (pair,) = stored_pairs(tmp_path / "run.json")
    assert pair["prompt"] == "a digit cat" and pair["id"] == "run" and pair["gain"] >= 0


# ------------------------------------------------------------------ what the method is for


def lucky(x, t, prompt):
    """As `named`, but what the prompt does not name is there by luck: in 16 of 100 noises."""
    return np.maximum(named(x, t, prompt), (x > 1.0).astype(float))


LUCKY = FunctionModel(lucky, (3,), kind="sample", label="lucky")
PICTURES = Denoising(LUCKY, steps=1, solver="euler")


def best_shares(strategy, prompts):
    """(prompts, k): of each prompt the best share of kept constraints after 1, 2, …, k outputs."""
    found = []
    for i, prompt in enumerate(prompts):
        ctx = Context(Problem(f"p{i}", prompt), PICTURES)
        result = run_sync(lambda: strategy.run(ctx.problem, ctx))  # noqa: B023
        shares = [np.mean(np.asarray(c.output) > 0.5) for c in result.candidates]
        found.append(np.maximum.accumulate(shares))
    return np.stack(found)


def test_stage_one_raises_constraint_accuracy_over_raw_prompts(corpus):
    prompts = [f"a {word} {kind}" for kind in ("seven", "digit") for word in ("", "small", "red", "my", "nice")] * 6
    common = {"n": 1, "corpus": corpus, "captions": 2, "modifiers": 6, "verifier": Constraints()}
    raw, enriched = (best_shares(PromptRefinement(**common, enrich=k), prompts) for k in (0, 6))
    luck = 0.1587  # of a normal number above 1
    assert abs(raw.mean() - luck) < 4 * np.sqrt(luck * (1 - luck) / (3 * len(prompts)))
    assert (enriched >= raw).all() and enriched.mean() == 1.0, "the captions name what these prompts leave out"


def test_k_rounds_beat_k_seeds_of_a_prompt_that_is_at_fault_at_equal_generations(corpus):
    plan = PromptRefinement(n=5, corpus=corpus, captions=1, patience=0, fixed_seed=False, verifier=Constraints())
    prompts = ["a seven"] * 60
    gain = best_shares(plan, prompts) - best_shares(BestOfN(n=5, verifier=Constraints()), prompts)
    mean, error = gain.mean(axis=0), gain.std(axis=0, ddof=1) / np.sqrt(len(prompts))
    assert gain.shape == (60, 5) and abs(mean[0]) < 4 * error[0], "one round is one seed"
    assert (mean[1:] > -2 * error[1:]).all() and (mean[3:] > 4 * error[3:]).all()


@dataclass(frozen=True)
class Mentions(Verifier):
    """Share of the wanted words that a text holds; says which it does not."""

    name = "mentions"

    async def score(self, problem, items, ctx):
        held = [[w in output_of(item, ctx) for w in WANTED] for item in items]
        for item, own in zip(items, held, strict=True):
            ctx.remark(item, "missing: " + ", ".join(w for w, there in zip(WANTED, own, strict=True) if not there))
        return [float(np.mean(own)) for own in held]


def writer(prompt, seed, index):
    """Writes about what it is asked for and nothing else; as a rewriter it adds the first word that was missing."""
    asked = json.loads(prompt)[-1]["content"]
    if not asked.startswith("Here is a prompt"):
        return "A text: " + " ".join(w for w in WANTED if w in asked) + f" ({seed % 97}, {index})"
    best = asked.partition(" (the best so far)")[0]
    version, remark = best.rsplit("\n- ", 1)[1].split(" (score")[0], best.rsplit("missing: ", 1)[1]
    return f"{version}, {remark.split(',')[0].strip()}"


@pytest.mark.parametrize("way", ["rewriter", "stage 1"])
def test_text_prompts_are_repaired_from_what_was_amiss_where_other_seeds_are_of_no_use(way, corpus):
    async def run():
        async with FakeEndpoint(writer) as server:
            model = OpenAICompatible("writer", server.url, max_retries=0, first_pause_s=0.001)
            given = {"rewriter": model} if way == "rewriter" else {"corpus": corpus, "captions": 1, "enrich": 4}
            plan = PromptRefinement(n=4 if way == "rewriter" else 1, patience=0, verifier=Mentions(), **given)
            rival = BestOfN(n=4, verifier=Mentions())
            found = [await ponder.asolve("a seven", model=model, strategy=s) for s in (plan, rival)]
            await model.aclose()
            return found

    refined_, seeds = run_sync(run)
    expected = [0.0, 1 / 3, 2 / 3, 1.0] if way == "rewriter" else [1.0]
    assert refined_.details["round_scores"] == pytest.approx(expected)
    assert (
        len(set(c.output for c in seeds.candidates)) > 1 and max(c.scores["mentions"] for c in seeds.candidates) == 0.0
    )


def test_wrong_settings_and_files_are_refused(tmp_path):
    for setting in ({"n": 0}, {"draws": 0}, {"patience": -1}, {"enrich": 1}):
        with pytest.raises(ParameterError):
            PromptRefinement(**setting)
    with pytest.raises(ParameterError, match="a JSONL file"):
        refined(corpus=str(tmp_path / "none.jsonl"))
    (tmp_path / "empty.jsonl").write_text("[]\n")
    with pytest.raises(ParameterError, match="1 lines were unusable"):
        refined(corpus=str(tmp_path / "empty.jsonl"))
