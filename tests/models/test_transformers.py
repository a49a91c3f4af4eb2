"""Hugging Face models on the engine: tiny ones written to a folder, and the small real one (slow)."""

import asyncio
import json
from contextlib import aclosing

import pytest

import ponder
from ponder.core.model import Request, Sampling
from ponder.errors import (
    CapabilityError,
    ContextLengthError,
    ModelError,
    ModelNotFoundError,
    ParameterError,
    SpecError,
)
from ponder.models.catalog import CATALOG

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXT = "the quick brown fox jumps over the lazy dog and runs; Übersetze 日本語 🙂 one two three four five six. "
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)


def tokenizer(kind="bytes"):
    """A real tokenizer, trained here."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    special = ["<pad>", "<s>", "</s>"]
    if kind == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:  # as in the Llama family: a mark for a space, bytes by name, a token before every text
        made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<pad>"))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        special += [f"<0x{byte:02X}>" for byte in range(256)]
        alphabet = []
    trainer = trainers.BpeTrainer(
        vocab_size=400 if kind == "bytes" else 330,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    made.train_from_iterator([TEXT] if kind == "bytes" else ["the quick brown fox"], trainer)
    if kind != "bytes":
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    found = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    found.chat_template = TEMPLATE
    return found


def write(folder, kind="Qwen3Moe", words="bytes", **more):
    torch.manual_seed(0)
    read = tokenizer(words)
    config = getattr(transformers, f"{kind}Config")(
        **{
            "vocab_size": len(read) + 7, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
            "initializer_range": 0.15, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0, **more,
        }
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    read.save_pretrained(folder)
    return folder


MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("moe"), **MOE)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return ponder.model(f"transformers:{write(tmp_path_factory.mktemp('dense'), 'Llama', 'marks')}(dtype=fp32)")


@pytest.fixture(scope="module")
def model(folder):
    return ponder.model(f"transformers:{folder}(context=4096, parallel=16, dtype=fp32)")


def ask(model, prompt, n=1, prefix="", seeds=None, **kw):
    """Completions in the order of their seeds."""

    async def run():
        return await gather(model, prompt, tuple(range(n)) if seeds is None else seeds, prefix, **kw)

    return asyncio.run(run())


async def gather(model, prompt, seeds, prefix="", **kw):
    out = {}
    request = Request(prompt, Sampling(**{"max_new_tokens": 12, **kw}), seeds, prefix=prefix)
    async with aclosing(model.sample(request)) as completions:
        async for position, completion in completions:
            out[position] = completion
    return [out[i] for i in sorted(out)]


def test_the_text_form_round_trips_and_says_the_shape_and_the_context(model):
    assert str(ponder.model(str(model))) == str(model) and ponder.model(str(model)) == model
    assert model.capabilities.context_tokens == 1024 and model.capabilities.experts == 4
    running = model.running().model
    idle = 2 * 2 * 3 * 32 * 24  # two layers, two experts that do not work, three matrices
    assert model.shape.params_active == sum(p.numel() for p in running.parameters()) - idle
    assert (model.shape.layers, model.shape.experts, model.shape.experts_per_token) == (2, 4, 2)


def test_greedy_is_what_transformers_generates(model, dense):
    for one in (model, dense):
        engine = one.running()
        tokens = engine.vocabulary.tokens("the quick")
        made = engine.model.generate(
            torch.tensor([tokens]), attention_mask=torch.ones(1, len(tokens)), do_sample=False, max_new_tokens=20
        )[0, len(tokens) :].tolist()
        (got,) = ask(one, "the quick", temperature=0, max_new_tokens=20)
        said = b"".join(engine.vocabulary.piece(t) for t in made).decode("utf-8", "replace")
        assert got.text == said and got.n_tokens == len(made)


def test_log_probabilities_and_alternatives_are_those_of_a_pass_of_transformers(model):
    engine = model.running()
    (got,) = ask(model, "the lazy", logprobs=3, seeds=(5,), max_new_tokens=8)
    begin = engine.vocabulary.tokens("the lazy")
    drawn = engine.tokens("the lazy" + got.text)[len(begin) :]
    with torch.inference_mode():
        whole = engine.model(torch.tensor([[*begin, *drawn]])).logits[0].log_softmax(-1)
    rows = whole[len(begin) - 1 : -1]
    for i, value in enumerate(got.token_logprobs[: len(drawn)]):
        assert value == pytest.approx(rows[i, drawn[i]].item(), abs=1e-5)
        best, found = rows[i].topk(3).values.tolist(), list(got.top_logprobs[i].values())
        assert found[0] == pytest.approx(best[0], abs=1e-5)  # parts of characters share a text, so there may be fewer
        assert all(min(abs(value - b) for b in best) < 1e-5 for value in found)
    assert sum(got.token_logprobs) == pytest.approx(got.logprob)


def test_scoring_a_text_is_a_pass_of_transformers(model):
    engine = model.running()
    begin, given = engine.vocabulary.tokens("one two"), engine.vocabulary.plain(" three four <s>")
    assert 1 not in given  # a control token in a text to be scored is text
    with torch.inference_mode():
        rows = engine.model(torch.tensor([[*begin, *given]])).logits[0].log_softmax(-1)[len(begin) - 1 : -1]
    found, none = asyncio.run(model.score("one two", [" three four <s>", ""]))
    assert found == pytest.approx([rows[i, t].item() for i, t in enumerate(given)], abs=1e-5) and none == ()


def test_each_seed_draws_the_same_text_alone_and_with_others_and_the_prompt_is_read_once(folder):
    model = ponder.model(f"transformers:{folder}(context=2048, parallel=8, dtype=fp32)")
    prompt = "the quick brown fox"
    settings = {"temperature": 0.9, "top_p": 0.95, "top_k": 80, "min_p": 0.001}
    before = evaluated(model)
    together = ask(model, prompt, 12, **settings)  # more than fit at once
    cost = evaluated(model) - before
    count = model.count_tokens(prompt)
    assert cost == count + sum(c.n_tokens - 1 for c in together) and len({c.text for c in together}) == 12
    assert [c.prompt_tokens for c in together].count(count) == 1 and sum(c.requests for c in together) == 1
    assert [ask(model, prompt, seeds=(s,), **settings)[0].text for s in range(12)] == [c.text for c in together]


def drawn(model):
    return sum(c.drawn for c in model.running().counters().values())


def evaluated(model):
    return sum(c.evaluated for c in model.running().counters().values())


def test_a_partial_answer_is_continued_and_what_is_in_the_cache_is_reported(model):
    prompt = ({"role": "user", "content": "count"},)
    (first,) = ask(model, prompt, seeds=(3,), max_new_tokens=6)
    before = evaluated(model)
    (more,) = ask(model, prompt, prefix=first.text, seeds=(4,), max_new_tokens=3)
    if "\ufffd" not in first.text:
        assert evaluated(model) - before == 1 + 2 and more.cached_tokens == more.prompt_tokens - 1
    assert more.prompt_tokens >= model.count_tokens(prompt)


def test_a_chat_goes_through_the_tokenizers_template_with_one_beginning(dense):
    vocabulary = dense.running().vocabulary
    text = vocabulary.text(({"role": "user", "content": "the fox"},))
    tokens = vocabulary.tokens(text)
    assert text == "user: the fox\n<s>assistant:" and tokens[0] == 1 and list(tokens).count(1) == 2
    assert dense.count_tokens(({"role": "user", "content": "the fox"},)) == len(tokens)


@pytest.mark.parametrize("words", ["bytes", "marks"])
def test_the_pieces_of_a_text_are_its_bytes(model, dense, words):
    vocabulary = (model if words == "bytes" else dense).running().vocabulary
    for text in ("the quick  fox", "日本語 🙂 Ü\n\ttab", " lead"):
        assert b"".join(map(vocabulary.piece, vocabulary.plain(text))) == text.encode()
    assert len(vocabulary.pieces()) == vocabulary.size and vocabulary.piece(vocabulary.size - 1) == b""
    assert vocabulary.named([1, 2]) == ["<s>", "</s>"] and vocabulary.piece(1) == b""


def test_stop_texts_and_length_end_a_text(model):
    free = ask(model, "the", seeds=(1,), max_new_tokens=12)[0]
    assert free.finish in ("length", "stop")
    stop = free.text[3:5]
    cut = ask(model, "the", seeds=(1,), stop=(stop,))[0]
    assert cut.text == free.text[: free.text.index(stop)] and (cut.finish, cut.stop_reason) == ("stop", stop)


def test_a_constraint_is_kept_to(model):
    for one in ask(model, "x", 3, extra=(("regex", "[ab]{4}"),)):
        assert len(one.text) == 4 and set(one.text) <= {"a", "b"}
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    text = json.dumps({**schema, "x-guidance": {"whitespace_flexible": False}})
    assert json.loads(ask(model, "x", extra=(("json_schema", text),), max_new_tokens=30)[0].text)["a"] in (1, 2)


def test_a_cancelled_request_tells_what_there_was_and_frees_its_places(model):
    lost = {}

    async def run():
        sampling = Sampling(max_new_tokens=900, extra=(("regex", "a{950}"),))  # does not end by itself
        stream = model.sample(Request("the", sampling, (0, 1), lost=lambda i, c: lost.setdefault(i, c), stream=True))
        waiting = asyncio.ensure_future(anext(stream))
        before = drawn(model)
        while drawn(model) < before + 6:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await stream.aclose()

    asyncio.run(run())
    assert sorted(lost) == [0, 1] and all(c.finish == "cancelled" and c.n_tokens > 0 for c in lost.values())
    assert ask(model, "the", max_new_tokens=2)[0].n_tokens in (1, 2)
    assert all(d.width == 0 for d in model.running()._decoders.values())


def test_a_watcher_ends_a_text_at_the_token_it_saw(model):
    async def run():
        out = {}
        sampling = Sampling(max_new_tokens=9, extra=(("regex", "[a-z]+"),))
        request = Request("the", sampling, (0, 1), watch=lambda c: c.index == 0)
        async for position, completion in model.sample(request):
            out[position] = completion
        return out

    out = asyncio.run(run())
    assert out[0].finish == "stopped_early" and out[0].n_tokens == 1 and out[1].n_tokens > 1


def test_requests_with_different_numbers_of_experts_in_one_batch_equal_separate_ones(folder):
    ks = (1, 2, 3, 4, None)

    def fresh(parallel):
        return ponder.model(f"transformers:{folder}(context=2048, parallel={parallel}, dtype=fp32)")

    async def all_at_once(model):
        return await asyncio.gather(*[gather(model, TEXT, (1, 2), experts=k, logprobs=0) for k in ks])

    together = asyncio.run(all_at_once(fresh(12)))
    apart = [asyncio.run(gather(fresh(13), TEXT, (1, 2), experts=k, logprobs=0)) for k in ks]
    for a, b in zip(together, apart, strict=True):
        assert [c.text for c in a] == [c.text for c in b]
        assert [c.logprob for c in a] == pytest.approx([c.logprob for c in b], abs=1e-4)
    first = {k: found[0].logprob for k, found in zip(ks, apart, strict=True)}
    assert first[2] == pytest.approx(first[None], abs=1e-5) and len({round(v, 3) for v in first.values()}) == 4


def test_a_prompt_read_with_some_experts_is_not_reused_for_others(folder):
    model = ponder.model(f"transformers:{folder}(context=2048, parallel=14, dtype=fp32)")
    (one,) = ask(model, TEXT, experts=1, max_new_tokens=1)
    (two,) = ask(model, TEXT, experts=2, max_new_tokens=1)
    (again,) = ask(model, TEXT, experts=1, max_new_tokens=1)
    assert (one.cached_tokens, two.cached_tokens) == (0, 0) and again.cached_tokens == again.prompt_tokens


def test_a_number_of_experts_that_cannot_be_is_refused_with_what_can(model, dense):
    with pytest.raises(ParameterError, match="experts=5 is not allowed; experts must be an integer from 1 to 4"):
        ask(model, "x", experts=5)
    with pytest.raises(ParameterError, match="experts"):
        Sampling(experts=0)
    with pytest.raises(CapabilityError, match=r"no router that ponder can set; use variants="):
        ask(dense, "x", experts=2)
    with pytest.raises(CapabilityError, match="experts=2 was asked of sim:default"):
        ponder.solve("x", model="sim:default", strategy="single", experts=2)


def test_a_strategy_runs_with_a_number_of_experts_and_is_charged_for_it(model):
    few, many = (
        ponder.solve("the", model=model, strategy=f"with_settings(single, experts={k}, max_new_tokens=1)")
        for k in (1, 4)
    )
    more = many.total.flops - few.total.flops
    worked = many.total.prompt_tokens - many.total.cached_tokens + many.total.generated_tokens
    assert worked == few.total.prompt_tokens - few.total.cached_tokens + few.total.generated_tokens > 1
    more_parameters = model.shape.at(4).params_active - model.shape.at(1).params_active
    assert more_parameters > 0 and more == pytest.approx(2 * more_parameters * worked)


def test_a_states_setting_reaches_the_model(model):
    from ponder.core.context import Context
    from ponder.core.problem import Problem
    from ponder.core.state import root
    from ponder.processes.text_steps import TextSteps

    async def run(k):
        problem = Problem("p", TEXT)
        process = TextSteps(model, step="tokens", step_tokens=4)
        ctx = Context(process=process, problem=problem, sampling=Sampling(max_new_tokens=8, logprobs=0))
        state = root(problem, meta={"experts": k})
        for _ in range(2):
            (state,) = [child async for child in process.extend([state], [[0]], ctx)]
        return state.total_logprob()

    found = [asyncio.run(run(k)) for k in (1, 2, 4)]
    assert len(set(found)) == 3


def test_the_same_files_elsewhere_are_the_same_model_and_other_weights_another(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    one, two = (ponder.model(f"transformers:{place}") for place in (folder, copy))
    assert one.identity == two.identity
    assert (
        ponder.model(f"transformers:{write(tmp_path / 'other', **{**MOE, 'num_experts': 5})}").identity != one.identity
    )


def test_what_cannot_be_is_refused_with_what_to_do(folder, tmp_path):
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    for text, error, says in (
        ("transformers", SpecError, "ORG/NAME, a folder, or a .gguf path"),
        ("transformers:/no/such/folder", ModelNotFoundError, "is no folder, no .gguf file, and no ORG/NAME"),
        ("transformers:/no/such.gguf", ModelNotFoundError, "ponder models pull"),
        (f"transformers:{tmp_path}", ModelNotFoundError, "no config.json"),
        (f"transformers:{tmp_path}/pickled", ModelNotFoundError, "no .safetensors weights"),
        (f"transformers:{folder}(context=3)", ParameterError, "≥ 64"),
        (f"transformers:{folder}(dtype=int4)", ParameterError, "fp32, bf16, fp16"),
    ):
        with pytest.raises(error, match=says):
            ponder.model(text)
    with pytest.raises(ModelError, match="cannot be put on"):
        ask(ponder.model(f"transformers:{folder}(device=cuda)"), "x")


def test_a_prompt_that_leaves_no_room_says_how_long_it_is(model):
    with pytest.raises(ContextLengthError, match="the context holds 1024"):
        ask(model, TEXT * 90)


def test_ponder_check_answers(folder, tmp_path, monkeypatch):
    from click.testing import CliRunner

    from ponder.cli.main import cli

    monkeypatch.setenv("PONDER_CACHE", str(tmp_path))
    out = CliRunner().invoke(cli, ["check", "--model", f"transformers:{folder}(dtype=fp32)", "--refresh"])
    assert out.exit_code == 0, out.output
    assert "Qwen3MoeForCausalLM on cpu, float32" in out.output and "2 of 4 experts a token" in out.output
    for name in ("answers", "n", "logprobs", "prompt_cache"):
        assert any(line.split()[:2] == ["yes", name] for line in out.output.splitlines()), out.output


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.model
@pytest.mark.skipif(not CATALOG["smollm2-135m"].present, reason="needs `ponder models pull smollm2-135m`")
def test_a_gguf_file_gives_what_the_engines_own_arithmetic_gives():
    pytest.importorskip("xllamacpp")
    ours = ponder.model("embedded:smollm2-135m(engine=torch, context=8192, parallel=32, precision=fp32)")
    model = ponder.model("transformers:smollm2-135m(context=8192, parallel=32, dtype=fp32)")
    assert model.identity == ours.identity and model.shape == ours.shape
    chat = ({"role": "user", "content": "Name three animals."},)
    for text in (TEXT, "", model.running().vocabulary.text(chat)):
        assert model.running().vocabulary.tokens(text) == ours.running().vocabulary.tokens(text)
    texts = [" Paris, and it is a city of two million people.", " purple", " 日本語 🙂"]
    found, expected = (asyncio.run(m.score("The capital of France is", texts)) for m in (model, ours))
    for a, b in zip(found, expected, strict=True):
        assert a == pytest.approx(b, abs=1e-3)
    kw = {"temperature": 0.7, "max_new_tokens": 24}
    assert [c.text for c in ask(model, chat, 4, **kw)] == [c.text for c in ask(ours, chat, 4, **kw)]
