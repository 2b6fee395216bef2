"""The OpenAI Files and Batches API over a folder and a `submit` function; open `api` for the door."""
