"""Other settings over a strategy: they reach the draws, share what is equal, and refuse what cannot be."""

import asyncio
import math

import pytest

import ponder
from ponder.core.context import Context
from ponder.core.problem import instructed
from ponder.core.registry import VERIFIERS
from ponder.core.runtime import Runtime
from ponder.processes.text_steps import TextSteps
from ponder.testing import Counted, Sums


class Listening(Counted):
    """Keeps what it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    async def sample(self, request):
        self.asked.append((request.prompt[-1]["content"], request.sampling, request.seeds))
        async for item in super().sample(request):
            yield item


def run(text, model, runtime=None):
    problem = Sums().problems(3)[2]
    ctx = Context(problem, TextSteps(model), task=Sums(), runtime=runtime or Runtime())
    return asyncio.run(ponder.parse(text).run(problem, ctx)), ctx


def test_settings_and_the_prompt_reach_every_draw_and_nothing_else_changes():
    plain, changed = Listening(), Listening()
    run("repeated_sampling(n=3)", plain)
    text = "with_settings(repeated_sampling(n=3), temperature=0.4, top_p=0.7, prompt=chain_of_thought) | majority"
    result, ctx = run(text, changed)
    ((prompt, sampling, seeds),) = changed.asked
    assert sampling.temperature == 0.4 and sampling.top_p == 0.7 and prompt.endswith("then give the final answer.")
    assert seeds == plain.asked[0][2]
    assert result.answer == result.problem.reference and ctx.ledger.total.generated_tokens == changed.generated_tokens


def test_without_any_setting_it_is_the_strategy_itself():
    one, _ = run("with_settings(best_of_n(n=4))", Counted())
    two, _ = run("best_of_n(n=4)", Counted())
    assert [c.output for c in one.candidates] == [c.output for c in two.candidates] and one.chosen == two.chosen


def test_it_takes_its_samples_from_the_study_and_its_text_reads_back():
    strategy = ponder.parse("with_settings(best_of_n(verifier=random_score), temperature=0.6) | majority")
    assert strategy.takes_samples and ponder.parse(str(strategy)) == strategy
    assert str(strategy.with_samples(5)).startswith("with_settings(strategy=best_of_n(n=5, verifier=random_score)")
    assert ponder.parse("with_settings(beam_search)").stepwise


def test_impossible_settings_are_refused_at_once():
    with pytest.raises(ponder.errors.ParameterError, match="temperature"):
        ponder.parse("with_settings(single, temperature=-1)")


def test_an_instruction_goes_to_the_last_question_or_before_a_plain_text():
    chat = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"})
    assert [m["content"] for m in instructed(chat, "X")] == ["a", "b", "c\n\nX"]
    assert instructed("Q: 1", "X") == "X\n\nQ: 1"
    assert instructed(({"role": "system", "content": "s"},), "X")[-1] == {"role": "user", "content": "X"}


def test_the_random_control_is_as_good_as_one_sample_and_the_same_for_the_same_draw():
    task, model, runtime = Sums(), Counted(), Runtime()

    async def go():
        control = single = 0
        for seed in range(60):
            for problem in task.problems(8):
                for text in ("best_of_n(n=4, verifier=random_score)", "single"):
                    ctx = Context(problem, TextSteps(model), task=task, runtime=runtime, seed=seed)
                    good = (await ponder.parse(text).run(problem, ctx)).answer == problem.reference
                    control, single = control + (good and "best" in text), single + (good and text == "single")
        return control / 480, single / 480

    model.jitter = False
    control, single = asyncio.run(go())
    assert abs(control - single) < 4 * math.sqrt(2 * 0.25 / 480)
    scores = [VERIFIERS.build("random_score") for _ in range(2)]
    assert scores[0] == scores[1]
