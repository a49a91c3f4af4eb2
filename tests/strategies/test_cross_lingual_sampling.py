"""Evidence in another language is drawn by itself, cannot be chosen, and decides between what can."""

import asyncio
import re

import pytest

import ponder
from ponder.core.context import Context
from ponder.core.language import language_of
from ponder.core.model import Capabilities, Completion, Model
from ponder.core.problem import Problem
from ponder.processes.text_steps import TextSteps


class Polyglot(Model):
    """Answers 1 or 2 by turns in the prompt's language, and 2 whenever it is told which language to use."""

    name = "polyglot"
    identity = "polyglot"
    capabilities = Capabilities()

    def __init__(self):
        self.instructions = []

    def __str__(self):
        return "polyglot"

    async def sample(self, request):
        told = re.findall(r"Answer in (\w+)\.", request.prompt[-1]["content"])
        self.instructions += told * request.n
        for position, _ in enumerate(request.seeds):
            yield position, Completion("2" if told else "12"[position % 2], 1, prompt_tokens=5, requests=1)


def run(text, prompt, **metadata):
    model = Polyglot()
    problem = Problem("p", ({"role": "user", "content": prompt},), metadata=metadata)
    ctx = Context(problem, TextSteps(model))
    return asyncio.run(ponder.parse(text).run(problem, ctx)), model


PROMPTS = [
    ("What is the capital city of France, please?", "en", "Chinese"),
    ("Wie heißt die Hauptstadt von Frankreich noch einmal?", "de", "English"),
    ("法国的首都是什么？请告诉我。", "zh", "English"),
]


@pytest.mark.parametrize(("prompt", "spoken", "other"), PROMPTS)
def test_the_other_language_is_english_or_chinese_for_english_prompts(prompt, spoken, other):
    pytest.importorskip("py3langid")
    result, model = run("cross_lingual_sampling(n=2)", prompt)
    assert model.instructions == [other] * 3 and len(result.candidates) == 5
    assert result.details["language"] == spoken and result.best.meta["lang"] == spoken


def test_evidence_decides_between_equal_votes_and_is_never_chosen():
    text = "cross_lingual_sampling(n=2, language=de) | cross_lingual_mbr(utility=exact)"
    result, _ = run(text, "Frage")
    assert result.answer == "2" and result.best.meta["lang"] == "de"
    alone, _ = run("cross_lingual_sampling(n=2, language=de, evidence=0) | cross_lingual_mbr(utility=exact)", "Frage")
    assert alone.answer == "1" and len(alone.candidates) == 2


def test_a_prompt_without_a_language_draws_no_evidence_and_says_so():
    result, model = run("cross_lingual_sampling(n=3)", "3 + 4 =")
    assert not model.instructions and len(result.candidates) == 3 and "language could not be told" in result.reason
    told, model = run("cross_lingual_sampling(n=3)", "3 + 4 =", lang="fr")
    assert model.instructions == ["English"] * 3 and told.details["language"] == "fr"


def test_languages_are_told_by_their_letters_without_any_package():
    samples = {
        "ja": "これは日本語の文です",
        "ko": "한국어 문장입니다",
        "el": "Αυτό είναι ελληνικά",
        "he": "זה עברית",
        "hi": "यह हिंदी है",
    }
    assert {code: language_of(text) for code, text in samples.items()} == {code: code for code in samples}
    assert language_of("") is None and language_of("42 !") is None


def test_an_unknown_language_is_refused_with_the_known_ones():
    with pytest.raises(ponder.errors.ParameterError, match="en, zh"):
        ponder.parse("cross_lingual_sampling(language=klingon)")
