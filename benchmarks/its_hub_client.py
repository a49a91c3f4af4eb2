"""its-hub's side of `orchestration.py`, run by the Python of its own environment.

Reads one JSON object a line, `{"url", "problems", "samples", "concurrency"}`, runs self-consistency on that many
problems side by side, and answers with `{"cpu", "wall"}` in seconds of this process, threads included.
"""

import asyncio
import json
import sys
import time

from its_hub import LMOrchestrator, OpenAICompatibleLanguageModel, SelfConsistency

QUESTION = "How much is 17 + 25?"


async def run(url, problems, samples, concurrency):
    """Self-consistency over `samples` answers for each of `problems` questions."""
    async with OpenAICompatibleLanguageModel(url, "no-key", "m", temperature=1.0, max_completion_tokens=64) as model:
        vote = SelfConsistency(orchestrator=LMOrchestrator(max_concurrency=concurrency))
        answers = await asyncio.gather(*(vote.ainfer(model, QUESTION, samples) for _ in range(problems)))
    assert all(answer["content"] for answer in answers)


for line in sys.stdin:
    cpu, wall = time.process_time(), time.perf_counter()
    asyncio.run(run(**json.loads(line)))
    print(json.dumps({"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}), flush=True)
