"""The embedded model. Those marked `model` run the real one, in this process."""

import asyncio
import importlib.util
import math
import struct
import sys
import time
from contextlib import aclosing

import numpy as np
import pytest

import ponder
from ponder.core.model import Request, Sampling
from ponder.errors import ContextLengthError, MissingExtraError, ModelNotFoundError, ParameterError, SpecError
from ponder.models import _llama_server, llama_cpp
from ponder.models.catalog import CATALOG
from ponder.models.llama_cpp import LlamaCpp

SHOTS = "".join(f"Q: What is {a} + {b}?\nA: {a + b}\n\n" for a, b in [(3, 14), (25, 31), (8, 77), (46, 9)])
SUM = SHOTS + "Q: What is 17 + 25?\nA:"
STORY = "Once upon a time"
CHAT = ({"role": "user", "content": "List three animals."},)


def header(path, **metadata):
    """A GGUF file with a header and no weights."""
    facts = {"general.architecture": "llama", "llama.block_count": 2, "llama.embedding_length": 8, **metadata}
    out = b"GGUF" + struct.pack("<IQQ", 3, 1, len(facts))

    def text(s):
        return struct.pack("<Q", len(s.encode())) + s.encode()

    for key, value in facts.items():
        out += text(key) + (
            struct.pack("<I", 8) + text(value) if isinstance(value, str) else struct.pack("<II", 4, value)
        )
    out += text("w") + struct.pack("<I", 2) + struct.pack("<QQ", 5, 7) + struct.pack("<IQ", 0, 0)
    path.write_bytes(out)
    return path


# ---------------------------------------------------------------- without weights


def test_the_text_form_round_trips_and_options_that_are_defaults_are_left_out(tmp_path):
    path = header(tmp_path / "m.gguf")
    for text in (f"llamacpp:{path}", f"llamacpp:{path}(threads=2, repeatable=true)"):
        built = ponder.model(text)
        assert str(built) == text and ponder.model(str(built)) == built
    assert str(ponder.model(f"llama_cpp:{path}(parallel=32)")) == f"llamacpp:{path}"


def test_the_header_gives_shape_and_context(tmp_path):
    facts = {"llama.context_length": 512, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2}
    found = LlamaCpp(str(header(tmp_path / "m.gguf", **facts)))
    shape = found.shape
    assert (shape.params_active, shape.layers, shape.q_heads, shape.kv_heads, shape.head_dim) == (35, 2, 4, 2, 2)
    assert found.capabilities.context_tokens == 512
    assert LlamaCpp(str(header(tmp_path / "n.gguf"))).shape is None  # a header that tells no heads


def test_the_identity_is_that_of_the_weights_whatever_the_name(tmp_path, monkeypatch):
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path / "cache"))
    one, other = header(tmp_path / "a.gguf"), header(tmp_path / "b.gguf")
    changed = header(tmp_path / "c.gguf", **{"llama.context_length": 9})
    assert LlamaCpp(str(one)).identity == LlamaCpp(str(other)).identity != LlamaCpp(str(changed)).identity


def test_a_model_that_was_not_pulled_says_how_to(tmp_path, monkeypatch):
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="ponder models pull smollm2-135m"):
        ponder.model("llamacpp:smollm2-135m")
    with pytest.raises(ModelNotFoundError, match=r"no model file at .*/none.gguf.*ponder models pull smollm2-135m"):
        ponder.model(f"llamacpp:{tmp_path}/none.gguf")


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelNotFoundError, match="no GGUF file"):
        LlamaCpp(str(tmp_path / "m.gguf"))


def test_bad_options_are_refused_by_name(tmp_path):
    path = header(tmp_path / "m.gguf")
    for option, shown in (("context=1", "context=1"), ("parallel=0", "parallel=0"), ("threads=0", "threads=0")):
        with pytest.raises(ParameterError, match=shown):
            ponder.model(f"llamacpp:{path}({option})")
    with pytest.raises(SpecError, match="a model is expected"):
        ponder.model("llamacpp")


async def test_without_xllamacpp_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    model = LlamaCpp(str(header(tmp_path / "m.gguf")))
    with pytest.raises(MissingExtraError, match=r"ponder\[llamacpp\]"):
        await drawn(model, Request("a", Sampling(), (1,)))


async def test_calls_wait_for_room_in_order_and_a_cancelled_one_gives_its_place_up():
    room, order = _llama_server.Room(4, 100), []

    async def hold(name, slots, cells, leave):
        async with room.take(slots, cells):
            order.append(name)
            await leave.wait()

    leave = asyncio.Event()
    first = asyncio.create_task(hold("first", 3, 50, leave))
    await asyncio.sleep(0)
    too_wide = asyncio.create_task(hold("too wide", 2, 10, leave))
    behind = asyncio.create_task(hold("behind", 1, 10, leave))
    await asyncio.sleep(0.01)
    assert order == ["first"]
    too_wide.cancel()
    await asyncio.sleep(0.01)
    assert order == ["first", "behind"]
    leave.set()
    await asyncio.gather(first, behind)
    assert room._free == [4, 100]


# ---------------------------------------------------------------- the real model


@pytest.fixture(scope="module")
def model():
    if importlib.util.find_spec("xllamacpp") is None:  # not imported here: how it is first loaded matters
        pytest.skip("needs xllamacpp")
    if not CATALOG["smollm2-135m"].present:
        pytest.skip("needs: ponder models pull smollm2-135m")
    built = LlamaCpp("smollm2-135m", context=2048, parallel=8)
    yield built
    asyncio.run(built.aclose())


async def drawn(model, request):
    out = {}
    async with aclosing(model.sample(request)) as landing:
        async for position, completion in landing:
            out[position] = completion
    return [out[i] for i in sorted(out)]


def idle(model):
    return not any(slot["is_processing"] for slot in model._running().get("/slots"))


async def until(condition, timeout_s=10):
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


@pytest.mark.model
async def test_completions_of_one_prompt_share_it_and_stop_texts_end_them(model):
    got = await drawn(model, Request(SUM, Sampling(0.8, stop=("\n",), max_new_tokens=8, logprobs=0), tuple(range(6))))
    assert len(got) == 6
    assert [c.prompt_tokens for c in got] == [model.count_tokens(SUM)] + [0] * 5
    assert sum(c.requests for c in got) == 1
    assert all("\n" not in c.text for c in got)
    assert "\n" in [c.stop_reason for c in got]
    for c in got:
        assert len(c.token_logprobs) == len(c.tokens) == c.n_tokens
        assert c.logprob == pytest.approx(math.fsum(c.token_logprobs)) and c.logprob < 0
        assert "".join(c.tokens) == c.text


@pytest.mark.model
async def test_each_completion_is_what_its_own_seed_draws_and_a_seen_prompt_is_cached(model):
    sampling = Sampling(0.8, stop=("\n",), max_new_tokens=4)
    together = await drawn(model, Request(SUM, sampling, (50, 0, 0, 0)))
    alone = [(await drawn(model, Request(SUM, sampling, (50 + i,))))[0] for i in range(4)]
    same = sum(a.text == b.text for a, b in zip(together, alone, strict=True))
    assert same >= 3  # batches of other sizes round differently
    assert alone[1].cached_tokens == alone[1].prompt_tokens - 1


@pytest.mark.model
async def test_repeatable_gives_the_same_texts_under_any_load(model):
    exact = LlamaCpp("smollm2-135m", context=2048, parallel=8, repeatable=True)
    request = Request(SUM, Sampling(1.0, max_new_tokens=6, logprobs=0), tuple(range(7, 11)))
    alone = await drawn(exact, request)
    others = [drawn(exact, Request(f"{i}: {STORY}", Sampling(max_new_tokens=6), (i,))) for i in range(3)]
    among, *_ = await asyncio.gather(drawn(exact, request), *others)
    assert [(c.text, c.token_logprobs) for c in among] == [(c.text, c.token_logprobs) for c in alone]
    await exact.aclose()


@pytest.mark.model
async def test_log_probabilities_are_untempered_and_normalised(model):
    cold, hot = [
        (await drawn(model, Request(SUM, Sampling(t, max_new_tokens=1, logprobs=100), (3,))))[0] for t in (0.0, 3.0)
    ]
    first, again = cold.top_logprobs[0], hot.top_logprobs[0]
    assert max(first, key=first.get) == cold.tokens[0] == cold.text
    for token in list(first)[:5]:
        assert first[token] == pytest.approx(again[token], abs=0.05)
    assert 0.9 < sum(map(math.exp, first.values())) <= 1.001


@pytest.mark.model
async def test_tokens_are_drawn_as_often_as_their_tempered_probability_says(model):
    prompt, temperature, n = SHOTS + "Q: What is 17 + 25?\nA: ", 1.5, 320
    sampling = Sampling(temperature, max_new_tokens=1, logprobs=100)
    seeds = [range(1000 * k, 1000 * k + 8) for k in range(n // 8)]
    rounds = [await drawn(model, Request(prompt, sampling, tuple(s))) for s in seeds]
    top = rounds[0][0].top_logprobs[0]
    weights = {t: math.exp(lp / temperature) for t, lp in top.items()}
    likeliest = max(weights, key=weights.get)
    p = weights[likeliest] / sum(weights.values())  # of the 100 likeliest, an upper bound
    seen = np.mean([c.text == likeliest for r in rounds for c in r])
    assert p - 0.25 < seen < p + 4 * math.sqrt(p * (1 - p) / n)
    filtered = await drawn(model, Request(prompt, Sampling(5.0, top_k=2, max_new_tokens=1), tuple(range(8))))
    two = sorted(top, key=top.get)[-2:]
    assert {c.text for c in filtered} <= set(two)


@pytest.mark.model
async def test_the_end_of_the_text_is_told_from_a_stop_text_and_from_the_limit(model):
    asked = Request(({"role": "user", "content": "Say yes."},), Sampling(0.8, max_new_tokens=80), tuple(range(8)))
    ended = [c for c in await drawn(model, asked) if c.finish == "stop"]
    assert ended and all(c.stop_reason == "" for c in ended)
    cut = (await drawn(model, Request(STORY, Sampling(0, max_new_tokens=3), (1,))))[0]
    assert (cut.finish, cut.stop_reason, cut.n_tokens) == ("length", None, 3)


@pytest.mark.model
async def test_a_prefix_is_continued_verbatim_in_chat(model):
    whole = (await drawn(model, Request(CHAT, Sampling(0, max_new_tokens=12), (1,))))[0]
    begun = whole.text[: whole.text.index(" ", 8)]
    rest = (await drawn(model, Request(CHAT, Sampling(0, max_new_tokens=12), (1,), prefix=begun)))[0]
    assert (begun + rest.text).startswith(whole.text[: len(begun) + 8])
    assert rest.prompt_tokens > model.count_tokens(CHAT)


@pytest.mark.model
async def test_a_watcher_sees_every_token_and_stops_only_its_own(model):
    seen = []

    def watch(chunk):
        seen.append(chunk)
        return chunk.index == 11 and sum(c.n_tokens for c in seen if c.index == 11) >= 4

    request = Request(STORY, Sampling(max_new_tokens=16, logprobs=2), (1, 2, 3), watch=watch, offset=10)
    got = await drawn(model, request)
    assert [c.finish == "stopped_early" for c in got] == [False, True, False]
    assert got[1].n_tokens == 4
    for i, completion in enumerate(got):
        mine = [c for c in seen if c.index == 10 + i]
        assert "".join(c.text for c in mine) == completion.text
        assert [lp for c in mine for lp in c.logprobs] == list(completion.token_logprobs)
        assert all(len(c.top_logprobs[0]) == 2 for c in mine)


@pytest.mark.model
@pytest.mark.parametrize("stream", [False, True])
async def test_cancelling_stops_the_generation_and_reports_what_there_was(model, stream, monkeypatch):
    lost, came, add = {}, [], llama_cpp._Growing.add
    monkeypatch.setattr(llama_cpp._Growing, "add", lambda *a: came.append(1) or add(*a))
    sampling = Sampling(max_new_tokens=400, logprobs=0, extra=(("ignore_eos", True),))
    request = Request(STORY, sampling, (1, 2), stream=stream, lost=lost.__setitem__)
    task = asyncio.create_task(drawn(model, request))
    await until(lambda: len(came) >= 5, timeout_s=60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert set(lost) == {0, 1}
    assert all(c.finish == "cancelled" and c.n_tokens < 350 for c in lost.values())
    assert sum(c.n_tokens for c in lost.values()) > 0
    await until(lambda: idle(model))
    assert idle(model)
    assert model._running().room._free == [8, 2048]


@pytest.mark.model
async def test_more_than_fits_the_cache_is_done_in_turns(model):
    sampling = Sampling(max_new_tokens=700, stop=(",", "."))
    got = await asyncio.gather(*[drawn(model, Request(f"{i} {STORY}", sampling, (1, 2, 3, 4))) for i in range(3)])
    assert [len(g) for g in got] == [4, 4, 4]
    assert all(c.finish in ("stop", "length") for g in got for c in g)


@pytest.mark.model
async def test_a_prompt_that_does_not_fit_says_both_numbers(model):
    with pytest.raises(ContextLengthError, match=r"the prompt has 30\d\d tokens, the context holds 2048"):
        await drawn(model, Request("x " * 3000, Sampling(), (1,)))


@pytest.mark.model
async def test_a_character_of_several_tokens_gives_no_wrong_log_probability(model):
    prompt = "Emoji list: 😀 🎉 🚀 🐍 😀 🎉 🚀 🐍 😀 🎉"
    got = (await drawn(model, Request(prompt, Sampling(0, max_new_tokens=8, logprobs=0), (1,))))[0]
    assert got.n_tokens == 8 and got.logprob is None and got.token_logprobs is None


@pytest.mark.model
async def test_equal_models_share_one_server_which_outlives_them(model):
    one, other = [LlamaCpp("smollm2-135m", context=512, parallel=2) for _ in range(2)]
    server = one._running()
    assert other._running() is server
    await one.aclose()
    await one.aclose()
    assert (await drawn(other, Request(STORY, Sampling(max_new_tokens=2), (1,))))[0].n_tokens == 2
    assert LlamaCpp("smollm2-135m", context=512, parallel=2)._running() is server
