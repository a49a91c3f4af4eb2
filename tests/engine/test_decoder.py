"""Scheduling, on a backend whose logits are a function of all tokens before: a wrong cache gives other texts."""

import hashlib
import random
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponder.core.model import Sampling
from ponder.engine.decoder import Decoder
from ponder.engine.job import Job
from ponder.errors import ModelError

WIDTH, END = 40, 39


class Letters:
    """A vocabulary of single letters."""

    ends = frozenset({END})

    def piece(self, token):
        return b"" if token == END else bytes([97 + token % 26])

    def named(self, tokens):
        return [f"t{t}" for t in tokens]


class Remembering:
    """Keeps every sequence's tokens, and refuses what a real cache could not do."""

    def __init__(self, sequences=8, cells=10_000, batch=64, ends=True, memory=None):
        self.sequences, self.cells, self.batch = sequences, cells, batch
        self.held = {}
        self.ends, self.memory = ends, memory
        self.evaluated = 0
        self.most_cells = 0
        self.broken = False
        self.gate = threading.Event()
        self.gate.set()
        self.closed = False

    def evaluate(self, rows):
        self.gate.wait(10)
        if self.broken:
            raise ModelError("the arithmetic failed")
        assert 0 < sum(len(r.tokens) for r in rows) <= self.batch
        out = []
        for row in rows:
            tokens = self.held.setdefault(row.sequence, [])
            assert row.sequence < self.sequences and len(tokens) == row.start and row.tokens
            for i, token in enumerate(row.tokens):
                tokens.append(token)
                self.evaluated += 1
                if i >= len(row.tokens) - row.wanted:
                    out.append(logits_after(tokens[-self.memory :] if self.memory else tokens, self.ends))
        distinct = {tuple(t[: i + 1]) for t in self.held.values() for i in range(len(t))}
        self.most_cells = max(self.most_cells, len(distinct))
        assert self.most_cells <= self.cells
        return np.array(out, np.float32).reshape(len(out), WIDTH)

    def fork(self, source, target, length):
        assert target not in self.held and len(self.held[source]) >= length > 0
        self.held[target] = self.held[source][:length]

    def truncate(self, sequence, length):
        assert 0 < length < len(self.held[sequence])
        del self.held[sequence][length:]

    def rest(self, sequence):
        assert sequence in self.held

    def free(self, sequence):
        self.held.pop(sequence, None)

    def close(self):
        self.closed = True


def logits_after(tokens, ends=True):
    digest = hashlib.sha256(repr(list(tokens)).encode()).digest()
    row = np.random.default_rng(int.from_bytes(digest[:8], "little")).normal(0, 2, WIDTH)
    row[END] = 2.0 if ends else -np.inf
    return row.astype(np.float32)


class Box:
    """Collects what a job is told, and lets a test wait for it."""

    def __init__(self, n):
        self.n, self.leaves, self.errors, self.added = n, {}, [], []
        self.done = threading.Event()

    def tell(self, events):
        for e in events:
            if e.error is not None:
                self.errors.append(e.error)
            elif e.token is not None:
                self.added.append((e.position, e.added))
            else:
                self.leaves[e.position] = e.leaf
        if len(self.leaves) + len(self.errors) >= self.n:
            self.done.set()

    def wait(self):
        assert self.done.wait(20), "the decoder did not answer"
        return self


def ask(decoder, prompt, seeds, *, submit=True, **kw):
    box = Box(len(seeds))
    fields = {k: kw.pop(k) for k in ("watched", "constrain", "given", "lookup") if k in kw}
    job = Job(tuple(prompt), Sampling(**{"max_new_tokens": 12, **kw}), seeds, box.tell, **fields)
    if submit:
        decoder.submit([job])
    return SimpleNamespace(job=job, box=box)


def texts(asked):
    box = asked.box.wait()
    assert not box.errors
    return [box.leaves[i].text for i in sorted(box.leaves)]


@pytest.fixture
def start():
    made = []

    def make(seconds=None, **kw):
        made.append(Decoder(Remembering(**kw), Letters(), seconds or {}))
        return made[-1]

    yield make
    for decoder in made:
        decoder.backend.gate.set()
        decoder.close()
        assert decoder.backend.closed


def alone(prompt, seed, **kw):
    """The text of one seed with nothing else going on."""
    decoder = Decoder(Remembering(ends=kw.pop("ends", True)), Letters())
    try:
        return texts(ask(decoder, prompt, (seed,), **kw))[0]
    finally:
        decoder.close()


def test_many_prompts_at_once_give_each_seed_the_text_it_has_alone(start):
    decoder = start(sequences=5, batch=7)
    rng = random.Random(0)
    prompts = [[rng.randrange(3) for _ in range(rng.randrange(1, 20))] for _ in range(12)]
    asked = [(p, ask(decoder, p, tuple(range(3)))) for p in prompts]
    for prompt, one in asked:
        assert texts(one) == [alone(prompt, seed) for seed in range(3)]


def test_samples_of_one_prompt_evaluate_it_once_and_every_other_token_once(start):
    decoder = start(sequences=8, ends=False)
    assert len(set(texts(ask(decoder, range(20), tuple(range(8)))))) > 1
    # the prompt, and of each text all tokens but the last, which nothing follows
    assert decoder.backend.evaluated == decoder.counters.evaluated == 20 + 8 * 11
    assert decoder.counters.drawn == 8 * 12


def test_prompts_that_begin_alike_and_come_together_share_what_they_have_in_common(start):
    decoder = start(sequences=8, ends=False)
    decoder.backend.gate.clear()
    first = ask(decoder, [1] * 10 + [2] * 5, (0,), max_new_tokens=1)
    second = ask(decoder, [1] * 10 + [3] * 5, (0,), max_new_tokens=1)
    decoder.backend.gate.set()
    texts(first), texts(second)
    assert decoder.backend.evaluated == 10 + 5 + 5


def test_continuing_a_text_evaluates_only_its_last_token_and_the_same_prompt_again_nothing(start):
    decoder = start(ends=False)
    one = ask(decoder, range(10), (0,))
    texts(one)
    drawn = [t.number for t in one.box.leaves[0].drawn]
    before = decoder.counters.evaluated
    again = ask(decoder, [*range(10), *drawn], (5, 6), max_new_tokens=1)
    texts(again)
    assert decoder.counters.evaluated - before == 1 and again.job.reused == 21
    texts(ask(decoder, [*range(10), *drawn], (7, 8), max_new_tokens=1))
    assert decoder.counters.evaluated - before == 1


def test_a_small_cache_gives_the_same_texts_and_is_never_overfilled(start):
    decoder = start(sequences=6, cells=60)
    rng = random.Random(1)
    prompts = [[rng.randrange(3) for _ in range(rng.randrange(1, 40))] for _ in range(15)]
    asked = [(p, ask(decoder, p, (0, 1))) for p in prompts]
    for prompt, one in asked:
        assert texts(one) == [alone(prompt, seed) for seed in (0, 1)]
    assert decoder.backend.most_cells <= 60


def test_more_texts_than_sequences_wait_their_turn(start):
    decoder = start(sequences=3)
    assert texts(ask(decoder, [1, 2], tuple(range(20)))) == [alone([1, 2], seed) for seed in range(20)]
    assert decoder.counters.widest <= 3


def test_a_prompt_longer_than_a_batch_is_read_in_parts(start):
    decoder = start(batch=8)
    prompt = [i % 5 for i in range(50)]
    assert texts(ask(decoder, prompt, (3,))) == [alone(prompt, 3)]


def test_given_tokens_get_their_log_probabilities_wherever_the_batch_is_cut(start):
    for batch in (3, 8, 64):
        decoder = start(batch=batch)
        prompt, given = [1, 2, 3, 4, 5], [7, 8, 9, 10]
        one = ask(decoder, prompt, (0,), given=given)
        one.box.wait()
        rows = [logits_after([*prompt, *given[:i]]).astype(float) for i in range(4)]
        expected = [r[t] - np.log(np.exp(r).sum()) for r, t in zip(rows, given, strict=True)]
        assert one.job.read == pytest.approx(expected, abs=1e-5)


def test_given_tokens_after_a_prompt_in_the_cache_evaluate_its_last_token_again_and_no_other(start):
    decoder = start()
    texts(ask(decoder, range(30), (0,), max_new_tokens=1))
    before = decoder.counters.evaluated
    ask(decoder, range(30), (0,), given=[3, 4]).box.wait()
    assert decoder.counters.evaluated - before == 2  # the prompt's last token, and the first given one


def test_a_cancelled_text_leaves_its_place_before_the_next_step_and_the_others_go_on(start):
    decoder = start(sequences=2, ends=False)
    box = Box(2)
    stopped = threading.Event()

    def tell(events):
        box.tell(events)
        if not stopped.is_set() and any(p == 0 for p, _ in box.added):
            stopped.set()
            decoder.cancel(job, 0)

    job = Job((1, 2), Sampling(max_new_tokens=30), (0, 1), tell, watched=True)
    decoder.submit([job])
    assert stopped.wait(10)
    other = ask(decoder, [5], (0,), max_new_tokens=3)
    texts(other)  # it needs the place
    while 1 not in box.leaves:
        assert threading.Event().wait(0.01) is False
    assert 0 not in box.leaves and box.leaves[1].text == alone([1, 2], 1, max_new_tokens=30, ends=False)


def test_cancelling_the_text_that_reads_the_prompt_lets_another_read_it(start):
    decoder = start(sequences=2, batch=4, ends=False)
    decoder.backend.gate.clear()
    one = ask(decoder, range(30), (0, 1), max_new_tokens=2)
    decoder.cancel(one.job, 0)
    decoder.backend.gate.set()
    one.box.n = 1
    while 1 not in one.box.leaves:
        threading.Event().wait(0.01)
    assert one.box.leaves[1].text == alone(range(30), 1, max_new_tokens=2, ends=False)


def test_when_the_arithmetic_fails_the_texts_concerned_say_so_and_the_next_ones_work(start):
    decoder = start(sequences=2)
    decoder.backend.broken = True
    one = ask(decoder, [1, 2, 3], (0, 1, 2))
    assert [str(e) for e in one.box.wait().errors] == ["the arithmetic failed"] * 3
    decoder.backend.broken = False
    assert texts(ask(decoder, [1, 2, 3], (0, 1, 2))) == [alone([1, 2, 3], seed) for seed in range(3)]


def test_what_can_never_fit_is_refused_at_once(start):
    with pytest.raises(ModelError, match="112 tokens do not fit a cache of 100"):
        ask(start(cells=100), range(100), (0,))


def test_a_prompt_without_tokens_is_refused_at_once(start):
    with pytest.raises(ModelError, match="no tokens"):
        ask(start(), [], (0,))


def test_a_fault_in_the_scheduler_reaches_everybody_who_waits_and_closes_it(start):
    decoder = start()
    decoder.backend.gate.clear()
    one = ask(decoder, [1, 2], (0,))
    decoder.backend.fork = None
    two = ask(decoder, [1, 2, 3], (0, 1))
    decoder.backend.gate.set()
    assert one.box.wait().errors or one.box.leaves
    assert two.box.wait().errors
    with pytest.raises(ModelError, match="closed"):
        ask(decoder, [1], (0,))


def test_a_constraint_rules_tokens_out_and_log_probabilities_are_of_the_free_distribution(start):
    class Even:
        def allow(self, row):
            row[1::2] = -np.inf

        def take(self, token):
            assert token % 2 == 0

    one = ask(start(ends=False), [1], (0,), constrain=Even, logprobs=0)
    texts(one)
    first = one.box.leaves[0].drawn[0]
    row = logits_after([1], False).astype(float)
    assert first.number % 2 == 0
    assert first.logprob == pytest.approx(row[first.number] - np.log(np.exp(row).sum()), abs=1e-5)


def test_alternatives_are_the_likeliest_tokens_by_text(start):
    one = ask(start(ends=False), [1], (0,), logprobs=3, max_new_tokens=1)
    texts(one)
    top = one.box.leaves[0].drawn[0].top
    row = logits_after([1], False)
    assert list(top) == [f"t{t}" for t in np.argsort(-row)[:3]] and sorted(top.values(), reverse=True) == [
        *top.values()
    ]


def test_a_stop_text_ends_a_text_before_it_also_when_it_comes_in_pieces(start):
    whole = alone([4], 0, ends=False, max_new_tokens=12)
    stop = whole[4:7]
    one = ask(start(ends=False), [4], (0,), stop=("#", stop))
    assert texts(one) == [whole[: whole.index(stop)]]
    leaf = one.box.leaves[0]
    assert leaf.stop_reason == stop and leaf.readable[0] == whole[: whole.index(stop) + 3]
    assert len(leaf.readable[1]) == len(leaf.drawn)


# ---------------------------------------------------------------------------------------------- drafts

ALWAYS = {1: 1.0, 2: 1.0}  # steps that cost the same whatever they hold: everything that can be guessed is evaluated


def told(asked):
    """Everything that a job says of its texts."""
    box = asked.box.wait()
    assert not box.errors
    return [
        (leaf.text, [(t.number, t.logprob, t.top) for t in leaf.drawn], leaf.finish, leaf.stop_reason, leaf.readable)
        for _, leaf in sorted(box.leaves.items())
    ]


def path_to(run):
    return [] if run is None else path_to(run.parent) + run.tokens


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=30), min_size=1, max_size=4),
    st.integers(1, 4),
    st.sampled_from([1, 2, 3, None]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.integers(1, 40),
    st.sampled_from([9, 64]),
)
def test_with_drafts_every_seed_gives_what_it_gives_without(prompts, n, memory, temperature, tokens, batch):
    """A model that remembers one token repeats itself, one that remembers all never does: all rates of acceptance."""
    found = []
    for seconds in ({}, ALWAYS):
        backend = Remembering(memory=memory, batch=batch, sequences=6, cells=max(map(len, prompts)) + 45)
        decoder = Decoder(backend, Letters(), seconds)
        try:
            settings = {"temperature": temperature, "max_new_tokens": tokens, "logprobs": 2, "stop": ("ab",)}
            asked = [ask(decoder, prompt, tuple(range(n)), **settings) for prompt in prompts]
            found.append([told(one) for one in asked])
            assert set(backend.held) == set(decoder._tree._tip) == set(decoder._idle)
            for sequence, run in decoder._tree._tip.items():
                assert path_to(run) == backend.held[sequence]
            counters = decoder.counters
            assert backend.evaluated == counters.evaluated + counters.rejected
            assert counters.drafted == 0 or seconds
        finally:
            decoder.close()
    assert found[0] == found[1]


def test_a_text_that_repeats_itself_takes_few_steps_and_leaves_exactly_its_tokens(start):
    decoder = start(memory=1, ends=False, seconds=ALWAYS)
    one = ask(decoder, [5], (0,), temperature=0, max_new_tokens=200)
    texts(one)
    counters = decoder.counters
    assert counters.steps < 90 and counters.accepted > 100
    assert counters.drafted == counters.accepted + counters.rejected
    assert counters.evaluated == 200  # the prompt's token, and all drawn but the last
    drawn = [t.number for t in one.box.leaves[0].drawn]
    assert list(decoder.backend.held.values()) == [[5, *drawn[:-1]]]
    texts(ask(decoder, [5, *drawn], (1,), max_new_tokens=1))
    assert decoder.counters.evaluated == 201


def test_a_text_that_ends_inside_a_draft_ends_there(start):
    """Greedy and periodic, stopped by a text that comes again: the draft goes beyond it."""
    whole = alone([5], 0, ends=False, temperature=0, max_new_tokens=200)
    decoder = start(memory=None, ends=False, seconds=ALWAYS)
    drawn = [ord(c) - 97 for c in whole]
    stop = whole[100:104]
    one = ask(decoder, [5, *drawn * 2, 5], (0,), temperature=0, max_new_tokens=50, stop=(stop,), lookup=True)
    two = ask(decoder, [5, *drawn * 2, 5], (0,), temperature=0, max_new_tokens=50, stop=(stop,), lookup=False)
    assert told(one) == told(two)


def test_end_tokens_and_the_length_end_a_text_inside_a_draft(start):
    index = [3, END, 3, END, 3]  # a prompt after which the end is guessed
    for tokens in (1, 2, 9):
        one = ask(start(seconds=ALWAYS, memory=1), index, tuple(range(20)), max_new_tokens=tokens)
        two = ask(start(memory=1), index, tuple(range(20)), max_new_tokens=tokens)
        assert told(one) == told(two)
        assert all(len(leaf.drawn) <= tokens for leaf in one.box.leaves.values())


def test_a_watched_text_tells_of_every_token_also_of_those_that_come_together(start):
    decoder = start(memory=1, ends=False, seconds=ALWAYS)
    one = ask(decoder, [5], (0,), temperature=0, max_new_tokens=60, watched=True)
    texts(one)
    added = [text for _, text in one.box.added]
    assert len(added) == 59 and one.box.leaves[0].text.startswith("".join(added))
    assert decoder.counters.steps < 59


def test_a_text_is_cancelled_between_steps_with_drafts_and_the_others_go_on(start):
    decoder = start(sequences=2, memory=1, ends=False, seconds=ALWAYS)
    box = Box(2)
    stopped = threading.Event()

    def tell(events):
        box.tell(events)
        if not stopped.is_set() and any(p == 0 for p, _ in box.added):
            stopped.set()
            decoder.cancel(job, 0)

    job = Job((1, 2), Sampling(max_new_tokens=100), (0, 1), tell, watched=True)
    decoder.submit([job])
    assert stopped.wait(10)
    texts(ask(decoder, [5], (0,), max_new_tokens=3))
    while 1 not in box.leaves:
        threading.Event().wait(0.01)
    with_none = Decoder(Remembering(memory=1, ends=False), Letters())
    try:
        assert box.leaves[1].text == texts(ask(with_none, [1, 2], (1,), max_new_tokens=100))[0]
    finally:
        with_none.close()


def test_nothing_is_drafted_without_known_costs_when_switched_off_constrained_or_given(start):
    class Anything:
        def allow(self, row):
            pass

        def take(self, token):
            pass

    for seconds, more in (({}, {}), (ALWAYS, {"lookup": False}), (ALWAYS, {"constrain": Anything})):
        decoder = start(memory=1, ends=False, seconds=seconds)
        texts(ask(decoder, [5, 5, 5], (0,), temperature=0, max_new_tokens=50, **more))
        assert decoder.counters.drafted == 0 and decoder.counters.steps == 50
    decoder = start(seconds=ALWAYS)
    ask(decoder, [5, 5, 5], (0,), given=[5, 5, 5]).box.wait()
    assert decoder.counters.drafted == 0


def test_where_a_step_costs_what_its_tokens_cost_or_guesses_are_wrong_nothing_is_drafted_for_long(start):
    dear = start(memory=1, ends=False, seconds={1: 1.0, 2: 2.0})
    texts(ask(dear, [5], (0,), temperature=0, max_new_tokens=100))
    assert dear.counters.drafted == 0
    wrong = start(ends=False, seconds={1: 1.0, 2: 1.2})
    texts(ask(wrong, [i % 3 for i in range(90)], tuple(range(8)), max_new_tokens=200))
    assert wrong.counters.drafted < 0.05 * wrong.counters.drawn


def test_a_text_ahead_of_its_requests_slowest_waits_for_it(start):
    """What is guessed right of one text and wrong of another does not take them far from each other."""
    decoder = start(memory=1, ends=False, seconds=ALWAYS)
    most = []

    def tell(events):
        now = decoder_drawn()
        if len(now) == 8:
            most.append(max(now) - min(now))
        box.tell(events)

    def decoder_drawn():
        return [len(x.leaf.drawn) for x in decoder._live.values() if x.leaf is not None]

    box = Box(8)
    decoder.submit([Job((1, 2), Sampling(max_new_tokens=80, temperature=0.3), range(8), tell, watched=True)])
    box.wait()
    assert decoder.counters.accepted > 20 and max(most) <= 4 + 8
