"""Send a batch job to a running server, wait for it, and print every answer.

make serve
.venv/bin/python -m pip install openai
.venv/bin/python examples/batch.py
"""

import json
import os
import time

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"), api_key="none")
model = client.models.list().data[0].id

lines = [
    {
        "custom_id": f"capital-{country}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": model,
            "messages": [{"role": "user", "content": f"What is the capital of {country}?"}],
            "max_tokens": 16,
        },
    }
    for country in ("France", "Japan", "Kenya", "Peru")
]
content = "\n".join(json.dumps(line) for line in lines).encode()

file = client.files.create(file=("capitals.jsonl", content), purpose="batch")
batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
while batch.status not in ("completed", "failed", "expired", "cancelled"):
    time.sleep(0.2)
    batch = client.batches.retrieve(batch.id)

print(f"{batch.status}: {batch.request_counts.completed} of {batch.request_counts.total} lines answered")
if batch.output_file_id:
    for line in client.files.content(batch.output_file_id).text.splitlines():
        answer = json.loads(line)
        print(answer["custom_id"], "->", answer["response"]["body"]["choices"][0]["message"]["content"])
if batch.error_file_id:
    print(client.files.content(batch.error_file_id).text)
