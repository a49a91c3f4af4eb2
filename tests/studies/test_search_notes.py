"""Searches bring their baselines, and a study says when a search is not worth it, led astray, stuck or cut."""

import json

import pytest

import ponder
from ponder.errors import StudyError
from ponder.studies.outcome import Outcome
from ponder.studies.results import Series, difficulty, fifths
from ponder.studies.search_notes import search_notes

TRAP = "sim_tree(survival=[0.93], sharpness=[1.2], noise=[0.5], trap=[0.5], trap_depth=4, depth=10, count={count})"
BEAM = "beam_search(verifier=sim_tree_score)"
BEST = "best_of_n(verifier=sim_tree_score)"
VOTE = "repeated_sampling | majority"


def run(strategies, *, samples=(4,), count=20, out=None, task=TRAP, **options):
    return ponder.bench(
        model="sim:default", task=task.format(count=count), process="sim_tree", strategies=strategies,
        samples=list(samples), check=False, out=out, **options,
    )  # fmt: skip


def names(results):
    return list(dict.fromkeys(row["strategy"] for row in results.rows))


def test_best_of_n_and_a_vote_stand_beside_a_search_unless_they_are_there_or_not_wanted():
    assert names(run([BEAM], count=2)) == [BEAM, VOTE, BEST]
    assert names(run([BEST, "mcts(verifier=sim_tree_score)"], count=2)) == [BEST, "mcts(verifier=sim_tree_score)", VOTE]
    assert names(run([BEAM], count=2, baselines=False)) == [BEAM]
    assert names(run(["repeated_sampling"], count=2)) == ["repeated_sampling"]
    two = names(run([BEAM, "dvts(verifier=sim_tree_score(noise=3.5))"], count=2))
    assert two[2:] == [VOTE, BEST, "best_of_n(verifier=sim_tree_score(noise=3.5))"]


def test_the_written_study_names_its_baselines_and_runs_again_from_there(tmp_path):
    first = run([BEAM], count=3, out=tmp_path / "a")
    again = ponder.bench(tmp_path / "a" / "study.toml", tmp_path / "a", check=False)
    assert again.rows == first.rows and VOTE in (tmp_path / "a" / "study.toml").read_text()


def test_baselines_is_yes_or_no():
    with pytest.raises(StudyError, match="true or false"):
        run([BEAM], baselines="never")


def test_where_early_scores_are_over_confident_the_study_says_that_the_search_is_not_worth_it(tmp_path):
    results = run([BEAM], samples=(4, 16), count=60, out=tmp_path)
    worse = next(line for line in results.warnings if "not worth it" in line)
    falling = next(line for line in results.warnings if "accuracy falls" in line)
    assert worse.startswith(f"{BEAM} at 16") and "for no more compute" in worse
    assert falling.startswith(BEAM) and "from" in falling
    stored = json.loads((tmp_path / "outcomes.json").read_text())
    assert stored["notes"] == [worse, falling]
    from ponder.reports.html import write_report

    page = write_report(tmp_path).read_text()
    assert "Is the search worth it?" in page and "here the search is not worth it" in page


def test_a_search_that_pays_is_not_told_off():
    good = "sim_tree(survival=[0.8], sharpness=[2], noise=[1], count={count})"
    assert not run([BEAM], samples=(4, 8), count=40, task=good).warnings


def outcomes(right, score=0.5, tokens=10, **more):
    return {
        f"p{i}": Outcome(bool(r), bool(r), 4, int(r), "ok", score=score,
                         spend={"draw": {"generated_tokens": tokens}}, **more)
        for i, r in enumerate(right)
    }  # fmt: skip


IDS = [f"p{i}" for i in range(20)]


def test_scores_that_rise_while_accuracy_falls_are_over_optimisation_for_best_of_n_too():
    series = [Series(BEST, 1, outcomes([1] * 20, 0.4)), Series(BEST, 16, outcomes([0] * 20, 0.9))]
    (note,) = search_notes(series, IDS)
    assert "rises from 0.40 to 0.90: the verifier is over-optimised" in note
    flat = [Series(BEST, 1, outcomes([1] * 20, 0.4)), Series(BEST, 16, outcomes([0] * 20, 0.4))]
    assert not search_notes(flat, IDS)


def test_a_baseline_that_costs_more_or_sees_the_reference_proves_nothing():
    bad = Series(BEAM, 4, outcomes([0] * 20))
    assert not search_notes([bad, Series(VOTE, 4, outcomes([1] * 20, tokens=11))], IDS)
    assert not search_notes([bad, Series("best_of_n(verifier=exact)", 4, outcomes([1] * 20))], IDS)
    other = "best_of_n(verifier=sim_tree_score(noise=0.5))"
    assert not search_notes([bad, Series(other, 4, outcomes([1] * 20))], IDS)  # by a better verifier
    assert search_notes([bad, Series(VOTE, 4, outcomes([1] * 20))], IDS)


def test_outputs_that_end_at_a_limit_and_steps_that_repeat_are_told():
    notes = search_notes([Series(BEAM, 4, outcomes([1] * 20, cut=1, new_siblings=0.05))], IDS)
    assert "25% of the outputs end at a limit" in notes[0] and "only 5% of the steps" in notes[1]
    assert not search_notes([Series(BEAM, 4, outcomes([1] * 20, cut=0, new_siblings=0.5))], IDS)
    assert not search_notes([Series(BEAM, 4, outcomes([1] * 3, cut=4))], IDS[:3])


def test_every_problem_has_its_difficulty_by_the_truth_and_by_the_verifier(tmp_path):
    mixed = "sim_tree(survival=[0.99, 0.5], sharpness=[2], noise=[0.5], depth=4, count={count})"
    run([BEST], samples=(2, 64), count=10, task=mixed, out=tmp_path)
    found = json.loads((tmp_path / "outcomes.json").read_text())["difficulty"][BEST]
    draws = json.loads((tmp_path / "outcomes.json").read_text())["draws"][BEST]
    assert found["oracle"] == [c / n for n, c in zip(draws["n"], draws["c"], strict=True)] and set(draws["n"]) == {64}
    easy, hard = found["predicted"][::2], found["predicted"][1::2]
    assert min(easy) > max(hard) and max(found["predicted_bin"][::2]) <= min(found["predicted_bin"][1::2])
    assert max(found["oracle_bin"][::2]) <= min(found["oracle_bin"][1::2])


def test_bins_without_values_and_with_equal_ones():
    assert fifths([]) == [] and fifths([None]) == [None] and fifths([0.5] * 7) == [0] * 7
    assert fifths([0.0, 1.0]) == [2, 0]
    assert difficulty([Outcome(False, False, 0, 0, "failed")])["oracle"] == [None]
