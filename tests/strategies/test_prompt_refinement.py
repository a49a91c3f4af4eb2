"""Prompt refinement on a toy generator that draws only what its prompt names, and on text."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

import ponder
from ponder.core.verifier import Verifier, output_of
from ponder.diffusion.model import FunctionModel
from ponder.errors import ParameterError
from ponder.processes.denoising import Denoising
from ponder.recipes.prompt_pairs import prompt_pairs, write_prompt_pairs
from ponder.strategies._prompt_corpus import read_corpus
from ponder.strategies.prompt_refinement import PromptRefinement

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
    results = [refined(n=5, corpus=corpus, captions=1, patience=0), refined(n=1)]
    pairs = prompt_pairs(results, margin=0.5)
    assert [(p["prompt"], p["completion"], p["gain"]) for p in pairs] == [
        ("a seven", "a seven, bright, large, centred", 1.0)
    ]
    assert prompt_pairs(results, margin=1.0) == []
    path = tmp_path / "pairs.jsonl"
    assert write_prompt_pairs(results, path) == 1 and json.loads(path.read_text()) == prompt_pairs(results)[0]
    with pytest.raises(ParameterError, match="margin"):
        prompt_pairs(results, margin=-1.0)


def test_wrong_settings_and_files_are_refused(tmp_path):
    for setting in ({"n": 0}, {"draws": 0}, {"patience": -1}, {"enrich": 1}):
        with pytest.raises(ParameterError):
            PromptRefinement(**setting)
    with pytest.raises(ParameterError, match="a JSONL file"):
        refined(corpus=str(tmp_path / "none.jsonl"))
    (tmp_path / "empty.jsonl").write_text("[]\n")
    with pytest.raises(ParameterError, match="1 lines were unusable"):
        refined(corpus=str(tmp_path / "empty.jsonl"))
