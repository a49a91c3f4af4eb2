"""Which tokens are evaluated next: all texts under way in one batch, every shared prefix once.

A thread of its own repeats one step: take what was asked for meanwhile, begin what fits, evaluate one batch (the last
token of every text under way, as much of new prompts as there is room for, and where that pays what texts are guessed
to go on with), draw, and tell. A text that ends keeps its place in the cache until that is needed for something else,
so that its continuations cost only what is new; one that is cancelled gives it back before the next step.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from ponder.engine import sampling as draws
from ponder.engine.backend import Backend, Logits, Row
from ponder.engine.job import Constraint, Event, Job
from ponder.engine.leaf import Leaf, Token
from ponder.engine.lookup import LEAD, MOST, TEXTS, Acceptance, Draft, Lookup, costs, lengths
from ponder.engine.prefix_tree import PrefixTree, shared
from ponder.engine.vocabulary import Vocabulary
from ponder.errors import ModelError

_PROMPT_ENDS = 64
"""Prompts whose last logits are kept, so that the same prompt can be continued again without any evaluation."""


@dataclass(eq=False, slots=True)
class _Live:
    """A sequence at work for a job."""

    job: Job
    position: int
    sequence: int
    length: int
    pending: list[int]
    leaf: Leaf | None = None
    constraint: Constraint | None = None
    written: list[int] | None = None
    draft: Draft | None = None

    @property
    def ahead(self) -> int:
        """Tokens that it may still bring into the cache."""
        drawn = len(self.leaf.drawn) if self.leaf is not None else 0
        return len(self.pending) + (0 if self.job.given is not None else self.job.sampling.max_new_tokens - drawn)


@dataclass(frozen=True, slots=True)
class Counters:
    """What a decoder has done since it began.

    Attributes:
        evaluated: tokens the model has computed, without those rejected.
        reused: tokens of prompts that were in the cache already.
        drawn: tokens drawn.
        steps: batches.
        forks: copies of a sequence.
        widest: most texts in one batch.
        drafted: tokens guessed and evaluated before they were drawn.
        accepted: those of them that were drawn then.
        rejected: drafted tokens that did not stay.
    """

    evaluated: int = 0
    reused: int = 0
    drawn: int = 0
    steps: int = 0
    forks: int = 0
    widest: int = 0
    drafted: int = 0
    accepted: int = 0
    rejected: int = 0


class Decoder:
    """A backend at work.

    Args:
        backend: does the arithmetic; only the decoder's thread touches it.
        vocabulary: what tokens say.
        seconds: of a step by its number of tokens, as far as measured; nothing is drafted where nothing is known.
    """

    def __init__(
        self, backend: Backend, vocabulary: Vocabulary, seconds: Mapping[int, float] = MappingProxyType({})
    ) -> None:
        self.backend, self.vocabulary = backend, vocabulary
        self._seconds = costs(seconds, backend.batch)
        self._acceptance = Acceptance()
        self.counters = Counters()
        self._tree = PrefixTree()
        self._live: dict[int, _Live] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._unused = list(range(backend.sequences - 1, -1, -1))
        self._jobs: deque[Job] = deque()
        self._ends: OrderedDict[tuple[int | None, tuple[int, ...]], Logits] = OrderedDict()
        self._lock = threading.Condition()
        self._new: list[Job] = []
        self._cancelled: list[tuple[Job, int | None]] = []
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="ponder-decoder", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ from any thread

    @property
    def width(self) -> int:
        """Texts asked for and not ended."""
        return len(self._live) + sum(len(job.waiting) for job in [*self._jobs, *self._new])

    def submit(self, jobs: Sequence[Job]) -> None:
        """Begin jobs with the next step.

        Raises:
            ModelError: the decoder is closed, or a job can never fit the cache.
        """
        for job in jobs:
            if not job.prompt:
                raise ModelError("a prompt of no tokens: begin with the model's beginning or ending token")
            longest = len(job.prompt) + (len(job.given) if job.given is not None else job.sampling.max_new_tokens)
            if longest > self.backend.cells:
                raise ModelError(f"{longest} tokens do not fit a cache of {self.backend.cells}; give it more context")
        with self._lock:
            if self._closed:
                raise ModelError("the engine is closed")
            self._new.extend(jobs)
            self._lock.notify()

    def cancel(self, job: Job, position: int | None = None) -> None:
        """End one text of a job, or all; their places are free before the next step."""
        with self._lock:
            self._cancelled.append((job, position))
            self._lock.notify()

    def partial(self, job: Job) -> dict[int, Leaf]:
        """The texts of a job that are under way."""
        with self._lock:
            return {x.position: x.leaf for x in self._live.values() if x.job is job and x.leaf is not None}

    def close(self) -> None:
        """Stop the thread and free the backend. Jobs under way are dropped."""
        with self._lock:
            self._closed = True
            self._lock.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # ------------------------------------------------------------------ the thread

    def _work(self) -> None:
        try:
            self._loop()
        except Exception as error:  # a fault in here: whoever waits must hear of it
            with self._lock:
                self._closed = True
                self._jobs.extend(self._new)
                told = self._fail(list(self._live.values()), error)
                told += [(job, Event(position, error=error)) for job in self._jobs for position in job.waiting]
            _tell(told)
        self.backend.close()

    def _loop(self) -> None:
        while True:
            with self._lock:
                while not (self._closed or self._new or self._cancelled or self._live or self._jobs):
                    self._lock.wait()
                if self._closed:
                    break
                self._jobs.extend(self._new)
                self._new.clear()
                self._drop()
                told = self._begin()
                rows, members = self._batch()
            if rows:
                try:
                    logits = self.backend.evaluate(rows)
                except Exception as error:
                    with self._lock:
                        told += self._fail(members, error)
                else:
                    with self._lock:
                        told += self._take_in(rows, members, logits)
            _tell(told)

    def _drop(self) -> None:
        for job, position in self._cancelled:
            if position is None:
                job.waiting.clear()
            elif position in job.waiting:
                job.waiting.remove(position)
            for x in list(self._live.values()):
                if x.job is job and position in (None, x.position):
                    job.reading = job.reading and x.leaf is not None
                    self._release(x)
        self._cancelled.clear()
        self._jobs = deque(job for job in self._jobs if job.waiting)

    def _begin(self) -> list[tuple[Job, Event]]:
        """Start what there is room for, in the order asked; a job waits for the one that reads its prompt."""
        told: list[tuple[Job, Event]] = []
        for job in list(self._jobs):
            if not (job.reading or self._being_read(job) or self._place_all(job)):
                break  # nobody overtakes
        started = [x for x in self._live.values() if x.leaf is not None and not x.pending and not x.leaf.drawn]
        by_job: dict[int, list[_Live]] = {}
        for x in started:
            by_job.setdefault(id(x.job), []).append(x)
        for group in by_job.values():
            logits = group[0].job.logits
            assert logits is not None
            told += self._draw(group, np.repeat(logits[None], len(group), axis=0))
            for x in group:
                self._go_on(x)
        self._jobs = deque(job for job in self._jobs if job.waiting)
        return told

    def _being_read(self, job: Job) -> bool:
        """Whether somebody is reading more of this prompt than the cache holds."""
        experts = job.sampling.experts
        others = [x for x in self._live.values() if x.leaf is None and x.job is not job]
        reading = [x for x in others if x.job.sampling.experts == experts]
        if not reading:
            return False
        length = self._tree.match(job.prompt, experts)[2]
        return any(shared(x.job.prompt, job.prompt, 0) > length for x in reading)

    def _place_all(self, job: Job) -> bool:
        """Give the job's texts sequences, one alone if it has to read the prompt; False if there is no room yet."""
        while job.waiting:
            if not self._place(job):
                return False
            if job.reading:
                break
        return True

    def _place(self, job: Job) -> bool:
        """Give the job's next text a sequence; False if there is no room yet."""
        experts = job.sampling.experts
        if job.logits is None:
            job.logits = self._ends.get((experts, tuple(job.prompt)))
        text = [*job.prompt, *job.given[:-1]] if job.given is not None else job.prompt
        most = len(job.prompt) - 1 if job.given is not None or job.logits is None else len(job.prompt)
        while True:
            run, used, length = self._tree.match(text[:most], experts)
            ahead = len(text) - length + (0 if job.given is not None else job.sampling.max_new_tokens)
            promised = sum(x.ahead for x in self._live.values())
            fits = self._tree.cells + promised + ahead <= self.backend.cells
            if self._unused and fits:
                break
            if not self._idle:
                return False
            self._release_idle()
        sequence = self._unused.pop()
        source = self._tree.add(sequence, run, used)
        if source is not None and length:
            self.backend.fork(source, sequence, length)
            if source in self._idle:
                self._idle.move_to_end(source)
            self._count(forks=1, reused=length)
        position = job.waiting.popleft()
        x = _Live(job, position, sequence, length, list(text[length:]))
        if job.reused is None:
            job.reused = length
        self._live[sequence] = x
        if x.pending or job.given is not None:
            job.reading = True
        else:
            self._open(x)
        return True

    def _open(self, x: _Live) -> None:
        x.leaf = Leaf(self.vocabulary, x.job.sampling, x.job.seeds[x.position])
        x.constraint = x.job.constrain() if x.job.constrain is not None else None
        if self._seconds is not None and x.job.lookup and x.constraint is None:
            if x.job.written is None:
                x.job.written, x.job.acceptance = Lookup(x.job.prompt), Acceptance(self._acceptance)
            x.written = x.job.written.text()

    def _batch(self) -> tuple[list[Row], list[_Live]]:
        """The last token of every text, prompts, the longest-waiting first, and drafts, as far as the batch goes."""
        rows, members = [], []
        left = self.backend.batch
        for x in self._live.values():
            if x.leaf is not None and x.pending and left:
                rows.append(Row(x.sequence, x.length, x.pending, 1, x.job.sampling.experts))
                members.append(x)
                left -= 1
        self._count(widest=len(rows))
        for x in self._live.values():
            if x.leaf is None and left:
                part = x.pending[:left]
                ends = len(part) == len(x.pending)
                if x.job.given is None:
                    wanted = int(ends and x.job.logits is None)
                else:  # every token from the prompt's last on, as far as it is in this part
                    first = len(x.job.prompt) - 1 - x.length
                    wanted = len(part) - min(max(first, 0), len(part))
                rows.append(Row(x.sequence, x.length, part, wanted, x.job.sampling.experts))
                members.append(x)
                left -= len(part)
        if self._seconds is not None:
            self._add_drafts(rows, members, self.backend.batch - left)
        return rows, members

    def _add_drafts(self, rows: list[Row], members: Sequence[_Live], tokens: int) -> None:
        """Let rows of texts go on with what their drafts say, as far as that pays.

        A request is answered when its slowest text ends. So one that is ahead of it waits, unless others wait for its
        place. Where many texts are under way the processor is busy, and looking up costs more than it brings.
        """
        assert self._seconds is not None
        if len(members) > TEXTS:
            for x in members:
                x.draft = None
            return
        slowest: dict[int, int] = {}
        for x in members:
            if x.leaf is not None:
                slowest[id(x.job)] = min(len(x.leaf.drawn), slowest.get(id(x.job), len(x.leaf.drawn)))
        drafts: list[tuple[int, list[float]]] = []
        for i, x in enumerate(members):
            x.draft = None
            if x.written is not None and x.leaf is not None and x.job.written is not None:
                most = min(MOST, x.leaf.sampling.max_new_tokens - len(x.leaf.drawn) - 1)
                x.draft = x.job.written.draft(x.written, most)
                wanted = x.job.waiting or len(x.leaf.drawn) <= slowest[id(x.job)] + LEAD
                if wanted and x.draft is not None and x.job.acceptance is not None:
                    drafts.append((i, x.job.acceptance.chances(x.draft)))
        texts = sum(x.leaf is not None for x in members)
        chosen = lengths([chances for _, chances in drafts], texts, tokens, self._seconds)
        for (i, _), n in zip(drafts, chosen, strict=True):
            draft = members[i].draft
            if n and draft is not None:
                rows[i] = replace(rows[i], tokens=[*rows[i].tokens, *draft.tokens[:n]], wanted=n + 1)

    def _take_in(self, rows: Sequence[Row], members: Sequence[_Live], logits: Logits) -> list[tuple[Job, Event]]:
        told: list[tuple[Job, Event]] = []
        drawing: list[tuple[Row, _Live, int]] = []
        at = 0
        for row, x in zip(rows, members, strict=True):
            mine, at = logits[at : at + row.wanted], at + row.wanted
            if x.leaf is not None:
                drawing.append((row, x, at - row.wanted))
                continue
            self._keep(x, row, len(row.tokens))
            self._count(evaluated=len(row.tokens))
            x.pending = x.pending[len(row.tokens) :]
            if x.job.given is not None:
                told += self._read_given(x, mine)
            elif not x.pending:
                if row.wanted:
                    x.job.logits = mine[0].copy()
                    self._remember((x.job.sampling.experts, tuple(x.job.prompt)), x.job.logits)
                x.job.reading = False
                self._open(x)
        told += self._draw_on(drawing, logits)
        self._count(steps=1)
        return told

    def _keep(self, x: _Live, row: Row, n: int) -> None:
        """Note the first n tokens of an evaluated row, and take the others back."""
        self._tree.grow(x.sequence, row.tokens[:n])
        x.length += n
        if n < len(row.tokens):
            self.backend.truncate(x.sequence, x.length)

    def _draw_on(self, drawing: Sequence[tuple[Row, _Live, int]], logits: Logits) -> list[tuple[Job, Event]]:
        """Draw after each row's first token, then after its draft's first, and so on while the drafts are right.

        Args:
            drawing: a row of one token and its draft, whose it is, and the place of its first logits.
            logits: of all rows.
        """
        told: list[tuple[Job, Event]] = []
        before = [len(x.leaf.drawn) for _, x, _ in drawing if x.leaf is not None]
        group, turn = list(drawing), 0
        while group:
            places = [place + turn for _, _, place in group]
            told += self._draw([x for _, x, _ in group], logits if len(places) == len(logits) else logits[places])
            turn += 1
            group = [(row, x, place) for row, x, place in group if _is_right(x, row, turn)]
        kept = accepted = 0
        for (row, x, _), n in zip(drawing, before, strict=True):
            assert x.leaf is not None
            drawn = [token.number for token in x.leaf.drawn[n:]]
            self._keep(x, row, len(drawn))
            kept += len(drawn)
            accepted += sum(guess == token for guess, token in zip(row.tokens[1:], drawn, strict=False))
            if x.draft is not None and x.job.acceptance is not None:
                for known in (x.job.acceptance, self._acceptance):
                    known.learn(x.draft, drawn)
            self._go_on(x)
        tokens = sum(len(row.tokens) for row, _, _ in drawing)
        self._count(evaluated=kept, rejected=tokens - kept, drafted=tokens - len(drawing), accepted=accepted)
        return told

    def _go_on(self, x: _Live) -> None:
        """After drawing: the last token is to be evaluated, or the text has ended."""
        assert x.leaf is not None
        if x.leaf.finish is not None:
            self._retire(x)
        else:
            x.pending = [x.leaf.drawn[-1].number]

    def _draw(self, group: Sequence[_Live], logits: Logits) -> list[tuple[Job, Event]]:
        leaves = [x.leaf for x in group if x.leaf is not None]
        free = logits
        if any(x.constraint is not None for x in group):
            logits = logits.copy()
            for x, row in zip(group, logits, strict=True):
                if x.constraint is not None:
                    x.constraint.allow(row)
        numbers = np.array([leaf.number() for leaf in leaves])
        chosen = draws.draw(logits, [leaf.sampling for leaf in leaves], numbers)
        tokens = self._tokens(leaves, free, chosen)
        told = []
        for x, leaf, token in zip(group, leaves, tokens, strict=True):
            added = leaf.push(token)
            if x.constraint is not None:
                x.constraint.take(token.number)
            if x.written is not None and x.job.written is not None:
                x.job.written.add(x.written, token.number)
            if leaf.finish is not None:
                told.append((x.job, Event(x.position, leaf)))
            elif x.job.watched:
                told.append((x.job, Event(x.position, leaf, added, token)))
        self._count(drawn=len(group))
        return told

    def _tokens(self, leaves: Sequence[Leaf], logits: Logits, chosen: draws.Tokens) -> list[Token]:
        wanted = [leaf.sampling.logprobs for leaf in leaves]
        rows = [i for i, w in enumerate(wanted) if w is not None]
        if not rows:
            return [Token(int(t)) for t in chosen]
        some = logits if len(rows) == len(leaves) else logits[rows]
        known = dict(zip(rows, draws.of_tokens(some, chosen[rows]).tolist(), strict=True))
        most = max(w or 0 for w in wanted)
        tops = dict(zip(rows, self._alternatives(some, most), strict=True)) if most else {}
        return [
            Token(int(t), known.get(i), dict(list(tops[i].items())[:w]) if (w := wanted[i]) else None)
            for i, t in enumerate(chosen)
        ]

    def _alternatives(self, logits: Logits, k: int) -> list[dict[str, float]]:
        places = draws.most_likely(logits, k)
        values = np.take_along_axis(draws.log_probabilities(logits), places, axis=1)
        out = []
        for tokens, logprobs in zip(places, values, strict=True):
            one: dict[str, float] = {}
            for text, value in zip(self.vocabulary.named(tokens.tolist()), logprobs.tolist(), strict=True):
                one.setdefault(text, value)  # parts of characters share a text: the likeliest counts
            out.append(one)
        return out

    def _read_given(self, x: _Live, logits: Logits) -> list[tuple[Job, Event]]:
        job = x.job
        assert job.given is not None
        if len(logits):
            part = np.asarray(job.given[len(job.read) : len(job.read) + len(logits)])
            job.read += draws.of_tokens(logits, part).tolist()
        if x.pending:
            return []
        leaf = Leaf(self.vocabulary, replace(job.sampling, logprobs=0), 0)
        leaf.drawn += [Token(int(t), logprob) for t, logprob in zip(job.given, job.read, strict=True)]
        leaf.stop("stop")
        job.reading = False
        self._retire(x)
        return [(job, Event(x.position, leaf))]

    # ------------------------------------------------------------------ places in the cache

    def _retire(self, x: _Live) -> None:
        """Its text has ended: what it holds stays until the place is needed."""
        del self._live[x.sequence]
        self._idle[x.sequence] = None
        self.backend.rest(x.sequence)

    def _release(self, x: _Live) -> None:
        del self._live[x.sequence]
        self._free(x.sequence)

    def _release_idle(self) -> None:
        self._free(self._idle.popitem(last=False)[0])

    def _free(self, sequence: int) -> None:
        self._tree.remove(sequence)
        self.backend.free(sequence)
        self._unused.append(sequence)

    def _remember(self, prompt: tuple[int | None, tuple[int, ...]], logits: Logits) -> None:
        self._ends[prompt] = logits
        if len(self._ends) > _PROMPT_ENDS:
            self._ends.popitem(last=False)

    def _fail(self, members: Sequence[_Live], error: Exception) -> list[tuple[Job, Event]]:
        told = []
        for job in {id(x.job): x.job for x in members}.values():
            for x in [x for x in self._live.values() if x.job is job]:
                told.append((job, Event(x.position, error=error)))
                self._release(x)
            told += [(job, Event(position, error=error)) for position in job.waiting]
            job.waiting.clear()
            job.reading = False
        self._jobs = deque(job for job in self._jobs if job.waiting)
        return told

    def _count(self, widest: int = 0, **more: int) -> None:
        now = self.counters
        added = {name: getattr(now, name) + value for name, value in more.items()}
        self.counters = replace(now, widest=max(now.widest, widest), **added)


def _is_right(x: _Live, row: Row, turn: int) -> bool:
    """Whether a text goes on with the row's token at that place, which is the one drawn last."""
    assert x.leaf is not None
    return x.leaf.finish is None and turn < len(row.tokens) and row.tokens[turn] == x.leaf.drawn[-1].number


def _tell(told: Sequence[tuple[Job, Event]]) -> None:
    by_job: dict[int, tuple[Job, list[Event]]] = {}
    for job, event in told:
        by_job.setdefault(id(job), (job, []))[1].append(event)
    for job, events in by_job.values():
        job.tell(events)
