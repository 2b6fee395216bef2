"""Chat with a running server, word by word.

make serve
.venv/bin/python -m pip install openai
.venv/bin/python examples/chat.py "Why is the sky blue?"
"""

import os
import sys

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"), api_key="none")
model = client.models.list().data[0].id
question = sys.argv[1] if len(sys.argv) > 1 else "Hello!"

stream = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": question}],
    max_completion_tokens=64,
    stream=True,
    stream_options={"include_usage": True},
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    elif chunk.usage:
        print(f"\n[{chunk.usage.prompt_tokens} tokens in, {chunk.usage.completion_tokens} out]")
