"""An OpenAI-compatible endpoint for tests: deterministic, counted, and as broken as a test asks for.

python tests/support/fake_endpoint.py --port 0 [--log FILE] [--latency S]    # prints its URL, serves until killed
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import deque
from hashlib import blake2b

from aiohttp import web


def default_answer(prompt: str, seed: int, index: int) -> str:
    """A number that depends on prompt, seed and index alone."""
    if "Score: N" in prompt:
        return "Looks fine.\nScore: 7"
    digest = blake2b(f"{prompt}|{seed}|{index}".encode(), digest_size=2).digest()
    return f"The answer is {digest[0] % 5}."


class FakeEndpoint:
    """`async with FakeEndpoint() as server`: `server.url`, `.requests` (bodies), `.completions`, `.in_flight_most`.

    Args:
        answers: (prompt text, seed, choice index) to text.
        faults: consumed one a request before it is answered: an HTTP status, a (status, headers) pair, or one of
            `garbage`, `no_choices`, `error_200`, `null` (in every choice), `null_first`, `too_long`, `slow` (half a
            second), `reset` (the connection is closed unanswered), `cut` (a stream ends after two tokens),
            `event_error` (a stream reports an error after two tokens); or bytes, sent as the body of an answer; or a
            list of bytes, sent piece by piece as a stream.
        ignore_n: one choice whatever is asked for.
        at_most: never more choices than this in one answer.
        latency_s: before an answer.
        token_delay_s: between streamed tokens.
        logprobs: whether it gives any; `"nan"` gives null instead of numbers.
        usage: whether it says how many tokens there were.
        rewards: an attribute; (path, body) to the `data` of an answer, for a server of reward models.
        port: 0 takes a free one.
        log_path: file that gets one JSON line for each request that was answered.
    """

    def __init__(self, answers=default_answer, faults=(), *, ignore_n=False, at_most=999, latency_s=0.0,
                 token_delay_s=0.0, logprobs=True, usage=True, port=0, log_path=None):  # fmt: skip
        self.answers, self.faults = answers, deque(faults)
        self.ignore_n, self.at_most, self.latency_s, self.token_delay_s = ignore_n, at_most, latency_s, token_delay_s
        self.logprobs, self.usage, self.port, self.log_path = logprobs, usage, port, log_path
        self.requests, self.streamed = [], []
        self.completions = self.prompt_tokens = self.completion_tokens = 0
        self.in_flight = self.in_flight_most = self.open_streams = 0
        self.keys, self._peers = set(), set()
        self.rewards = None

    @property
    def connections(self):
        """How many connections have carried requests."""
        return len(self._peers)

    async def __aenter__(self):
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._serve)
        app.router.add_post("/v1/completions", self._serve)
        for route in ("pooling", "score", "classify"):
            app.router.add_post(f"/v1/{route}", self._serve)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_):
        await self._runner.cleanup()

    async def _serve(self, request):
        body = await request.json()
        self.requests.append(body)
        self.keys.add(request.headers.get("Authorization"))
        self._peers.add(request.transport.get_extra_info("peername"))
        self.in_flight += 1
        self.in_flight_most = max(self.in_flight_most, self.in_flight)
        try:
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            fault = self.faults.popleft() if self.faults else None
            if fault == "slow":
                await asyncio.sleep(0.5)
            if fault == "reset":
                request.transport.abort()
            return await self._answer(request, body, fault)
        finally:
            self.in_flight -= 1

    async def _answer(self, request, body, fault):
        if isinstance(fault, (int, tuple)):
            status, headers = (fault, {}) if isinstance(fault, int) else fault
            return web.json_response({"error": {"message": f"fault {status}"}}, status=status, headers=headers)
        if isinstance(fault, bytes):
            return web.Response(body=fault, content_type="application/json")
        if isinstance(fault, list):
            return await self._send_pieces(request, fault)
        if fault == "garbage":
            return web.Response(text="<html>gateway</html>")
        if fault == "error_200":
            return web.json_response({"error": {"message": "overloaded"}})
        if fault == "too_long":
            message = "This model's maximum context length is 8 tokens"
            return web.json_response({"error": {"message": message}}, status=400)
        if self.rewards is not None:
            usage = {"prompt_tokens": len(json.dumps(body).split())}
            self.prompt_tokens += usage["prompt_tokens"]
            return web.json_response({"data": self.rewards(request.path, body), "usage": usage})
        chat = "messages" in body
        prompt = json.dumps(body["messages"], ensure_ascii=False) if chat else body["prompt"]
        n = 0 if fault == "no_choices" else min(1 if self.ignore_n else body.get("n", 1), self.at_most)
        if body.get("stream"):
            return await self._stream(request, body, prompt, chat, fault)
        texts = [self._text(prompt, body, i) for i in range(n)]
        usage = self._usage(prompt, texts)
        choices = [self._choice(i, t, chat, body, fault) for i, t in enumerate(texts)]
        self._log(prompt, body, texts)
        return web.json_response({"choices": choices, **({"usage": usage} if self.usage else {})})

    def _text(self, prompt, body, index):
        """An answer, cut to as many words as the request allows."""
        text = self.answers(prompt, body.get("seed", 0), index)
        return text if self._fits(text, body) else " ".join(text.split()[: body["max_tokens"]])

    def _fits(self, text, body):
        return len(text.split()) <= body.get("max_tokens", 10**9)

    def _finish(self, text, body):
        return "length" if len(text.split()) == body.get("max_tokens") else "stop"

    def _log(self, prompt, body, texts):
        if self.log_path is not None:
            line = {"prompt": prompt, "seed": body.get("seed"), "n": body.get("n", 1), "texts": texts}
            with open(self.log_path, "a") as file:
                file.write(json.dumps(line) + "\n")

    def _usage(self, prompt, texts):
        used = {"prompt_tokens": len(prompt.split()), "completion_tokens": sum(len(t.split()) for t in texts)}
        self.completions += len(texts)
        self.prompt_tokens += used["prompt_tokens"]
        self.completion_tokens += used["completion_tokens"]
        return {**used, "prompt_tokens_details": {"cached_tokens": 1}}

    def _choice(self, i, text, chat, body, fault):
        text = None if fault == "null" or (fault == "null_first" and i == 0) else text
        choice = {"index": i, "finish_reason": self._finish(text or "", body)}
        choice.update({"message": {"role": "assistant", "content": text}} if chat else {"text": text})
        if self.logprobs and body.get("logprobs") and text is not None:
            value = None if self.logprobs == "nan" else -0.5
            words = text.split()
            if chat:
                tokens = [
                    {"token": w, "logprob": value, "top_logprobs": [{"token": w, "logprob": -0.5}]} for w in words
                ]
                choice["logprobs"] = {"content": tokens}
            else:
                tops = [{w: -0.5} for w in words]
                choice["logprobs"] = {"token_logprobs": [value] * len(words), "tokens": words, "top_logprobs": tops}
        return choice

    async def _send_pieces(self, request, pieces):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0.001)
        return response

    async def _stream(self, request, body, prompt, chat, fault):
        text = self._text(prompt, body, 0)
        words = [w if i == 0 else f" {w}" for i, w in enumerate(text.split())]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        sent = [0]
        self.streamed.append(sent)
        self.open_streams += 1
        try:
            for i, word in enumerate(words):
                if fault == "cut" and i == 2:
                    request.transport.close()
                    return response
                if fault == "event_error" and i == 2:
                    await response.write(b'data: {"error": {"message": "out of memory"}}\n\n')
                    return response
                delta = {"delta": {"content": word}} if chat else {"text": word}
                event = json.dumps({"choices": [{"index": 0, **delta}]}, ensure_ascii=False)
                raw = f"data: {event}\n\n".encode()
                await response.write(raw[:9])
                await response.write(raw[9:])
                sent[0] += 1
                await asyncio.sleep(self.token_delay_s)
            last = {"delta": {}} if chat else {"text": ""}
            end = {"choices": [{"index": 0, **last, "finish_reason": self._finish(text, body)}]}
            await response.write(f"data: {json.dumps(end)}\n\n".encode())
            self._log(prompt, body, [text])
            usage = {"choices": [], "usage": self._usage(prompt, [text])}
            await response.write(f"data: {json.dumps(usage)}\n\ndata: [DONE]\n\n".encode())
        finally:
            self.open_streams -= 1
        return response


async def _serve_until_killed(options):
    async with FakeEndpoint(latency_s=options.latency, port=options.port, log_path=options.log) as server:
        print(server.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log")
    parser.add_argument("--latency", type=float, default=0.0)
    asyncio.run(_serve_until_killed(parser.parse_args()))
