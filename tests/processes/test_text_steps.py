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


WORDS = 'He said "Stop it!" Then 3.14 was pi. Was it?\nYes. 好。是。'


@pytest.mark.parametrize("says_why", [True, False])
def test_sentences_are_steps_and_join_to_the_whole_text(says_why):
    (candidate,), ctx = run(TextSteps(Reciter(WORDS, says_why), "sentence"))
    steps = ['He said "Stop it!" ', "Then 3.14 was pi. ", "Was it?\n", "Yes. ", "好。", "是。"]
    assert candidate.state.steps() == steps and candidate.finish == "stop"
    written = ctx.ledger.total.generated_tokens
    assert written > candidate.n_tokens  # what was thrown away is paid for


def test_a_sentence_longer_than_a_step_is_cut_at_its_length():
    (candidate,), _ = run(TextSteps(Reciter("One two three four. Five."), "sentence", step_tokens=3))
    assert candidate.state.steps() == ["One two three", " four. ", "Five."]


def test_a_pattern_ends_a_step():
    text = "Step 1: add.\nCarry on.\nStep 2: carry.\nStep 3: done."
    process = TextSteps(Reciter(text), "pattern", pattern=r"\n(?=Step \d)")
    (candidate,), _ = run(process)
    assert candidate.state.steps() == ["Step 1: add.\nCarry on.\n", "Step 2: carry.\n", "Step 3: done."]
    ahead = TextSteps(Reciter(text), "pattern", pattern=r"(?=Step \d)")
    assert run(ahead)[0][0].state.steps() == candidate.state.steps()
    assert process.identity != ahead.identity != TextSteps(Reciter(text), "line").identity


def test_a_pattern_that_is_fixed_text_is_left_to_the_server():
    process = TextSteps(Reciter("a; b; c"), "pattern", pattern="; ")
    (candidate,), ctx = run(process)
    assert candidate.state.steps() == ["a; ", "b; ", "c"]
    assert ctx.ledger.total.generated_tokens == candidate.n_tokens == 3


@dataclass
class Deaf(Reciter):
    """Does not stop where it is told to."""

    async def sample(self, request):
        deaf = change(request, sampling=change(request.sampling, stop=()))
        async for position, completion in super().sample(deaf):
            words = tuple(re.findall(r"\s|\S+", completion.text))
            scores = (-0.5,) * len(words)
            counted = {"n_tokens": len(words), "tokens": words, "token_logprobs": scores, "logprob": sum(scores)}
            yield position, change(completion, **counted)


@pytest.mark.parametrize("step", ["line", "paragraph"])
def test_a_server_that_does_not_stop_is_cut_and_its_tokens_counted(step):
    model = Deaf()
    (candidate,), ctx = run(TextSteps(model, step))
    assert candidate.output == model.text
    assert [s.strip() for s in candidate.state.steps() if s.strip()] == [
        "First, add.",
        "Then carry.",
        "The answer is 42.",
    ]
    n = len(re.findall(r"\s|\S+", model.text))
    assert candidate.n_tokens == n and candidate.logprob == -0.5 * n
    assert ctx.ledger.total.generated_tokens > n


@pytest.mark.parametrize("pattern", [None, "(", "x*"])
def test_a_pattern_that_ends_nothing_is_refused(pattern):
    with pytest.raises(ParameterError, match="pattern"):
        TextSteps(Reciter(), "pattern", pattern=pattern)
    with pytest.raises(ParameterError, match="pattern"):
        TextSteps(Reciter(), "line", pattern="x")


def test_stepping_by_sentence_works_from_the_text_form():
    process = "text_steps(step=sentence, step_tokens=32)"
    result = ponder.solve("Q", model=Reciter(WORDS), strategy="beam_search(n=4, branch=2)", process=process)
    assert result.output == WORDS and result.details["depth"] == 6


@dataclass
class Spaced(Reciter):
    """As the reciter, but a blank is a token by itself."""

    async def sample(self, request):
        at = len(request.prefix)
        for position in range(request.n):
            step = self.text[at : at + 1] if at < len(self.text) else ""
            finish = "length" if step else "stop"
            yield position, Completion(step, len(step), finish, None if step else "", -0.5, 3, 0, 1)


def test_a_token_that_is_a_blank_is_a_step_like_any_other():
    (candidates, _) = run(TextSteps(Spaced(text=" 7 +\n 1"), step="tokens", step_tokens=1), max_new_tokens=50)
    assert candidates[0].output == " 7 +\n 1" and candidates[0].finish == "stop"
    assert candidates[0].state.steps() == [*" 7 +\n 1", ""]
