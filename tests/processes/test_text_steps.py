"""Text in steps: what joins to the whole answer, where a step ends, and what ends the answer."""

import asyncio
import re
from dataclasses import dataclass, field
from dataclasses import replace as change

import pytest

import ponder
from ponder.core.context import Context
from ponder.core.model import Capabilities, Completion, Model
from ponder.errors import CapabilityError, ParameterError
from ponder.processes.text_steps import TextSteps


@dataclass
class Reciter(Model):
    """Continues one known text verbatim, one token a word, and stops where it is told to."""

    text: str = "First, add.\n\nThen carry.\n\nThe answer is 42."
    says_why: bool = True
    prefixes: list[str] = field(default_factory=list)
    name = "reciter"

    def __post_init__(self):
        self.capabilities = Capabilities(logprobs=True, prefix=True)

    @property
    def identity(self):
        return self.text

    async def sample(self, request):
        self.prefixes.append(request.prefix)
        assert self.text.startswith(request.prefix.rstrip()), "the prefix was not continued verbatim"
        rest = self.text[len(request.prefix) :]
        tokens = re.findall(r"\s*\S+|\s+$", rest)[: request.sampling.max_new_tokens]
        text, finish, reason = "".join(tokens), "length", None
        if len(text) == len(rest):
            finish, reason = "stop", ""
        for stop in request.sampling.stop:
            if stop in rest[: len(text) + len(stop)]:
                text, finish, reason = rest[: rest.index(stop)], "stop", stop
        n = len(text.split())
        reason = reason if self.says_why else None
        for position in range(request.n):
            yield position, Completion(text, n, finish, reason, -0.5 * n, 3 if position == 0 else 0, 0, 1)


def run(process, n=1, **sampling):
    async def go():
        ctx = Context(ponder.Problem("p", "Q"), process, sampling=ponder.Sampling(**sampling))
        return await ctx.draw(ctx.problem, n), ctx

    return asyncio.run(go())


@pytest.mark.parametrize(
    ("step", "says_why"),
    [("answer", True), ("line", True), ("paragraph", True), ("answer", False), ("paragraph", False)],
)
def test_steps_join_to_the_whole_text_whatever_they_are(step, says_why):
    model = Reciter(says_why=says_why)
    (candidate,), _ = run(TextSteps(model, step))
    assert candidate.output.rstrip("\n") == model.text
    assert candidate.finish == "stop"


def test_a_paragraph_is_a_step_and_keeps_its_delimiter():
    (candidate,), _ = run(TextSteps(Reciter(), "paragraph"))
    assert candidate.state.steps() == ["First, add.\n\n", "Then carry.\n\n", "The answer is 42."]
    assert candidate.n_tokens == 8 and candidate.logprob == -4.0


def test_a_step_of_three_tokens_ends_after_three_tokens():
    (candidate,), _ = run(TextSteps(Reciter(), "tokens", step_tokens=3))
    assert [len(s.split()) for s in candidate.state.steps()] == [3, 3, 2]
    assert candidate.output == Reciter().text


def test_the_last_step_allowed_completes_the_answer():
    (candidate,), _ = run(TextSteps(Reciter(), "paragraph", max_steps=2))
    assert candidate.state.steps() == ["First, add.\n\n", "Then carry.\n\nThe answer is 42."]


def test_a_marker_ends_the_answer():
    model = Reciter("So \\boxed{4}.\n\nBut wait.")
    (candidate,), _ = run(TextSteps(model, "paragraph", answer_marker="\\boxed{"))
    assert candidate.output == "So \\boxed{4}."


def test_the_length_limit_is_over_the_whole_answer():
    (candidate,), ctx = run(TextSteps(Reciter(), "paragraph"), max_new_tokens=5)
    assert candidate.n_tokens == 5 and candidate.finish == "length"
    assert ctx.ledger.total.generated_tokens == 5


def test_siblings_share_their_parent_and_differ_in_path_and_seed():
    async def go():
        ctx = Context(ponder.Problem("p", "Q"), TextSteps(Reciter(), "paragraph"))
        ((first, second),) = await ctx.extend([ctx.root()], [2])
        ((third,), children) = await ctx.extend([ctx.root(), first], [1, 2])
        return ctx, first, second, third, children

    ctx, first, second, third, children = asyncio.run(go())
    assert [s.path for s in (first, second, third)] == [(0,), (1,), (2,)]
    assert children[1].path == (0, 1) and children[1].parent is first
    seeds = [ctx.seeds_for(s, [0, 1]) for s in (first, second)]
    assert len(set(seeds[0] + seeds[1])) == 4


def test_a_model_that_cannot_continue_a_text_is_refused():
    model = Reciter()
    model.capabilities = change(model.capabilities, prefix=False)
    with pytest.raises(CapabilityError, match="Use step=answer"):
        TextSteps(model, "line")


def test_impossible_lengths_are_refused():
    with pytest.raises(ParameterError):
        TextSteps(Reciter(), "line", max_steps=0)


def test_an_unknown_prefix_capability_is_tried():
    model = Reciter()
    model.capabilities = change(model.capabilities, prefix=None)
    assert run(TextSteps(model, "line"))[0][0].finish == "stop"
