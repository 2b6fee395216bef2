"""The local engine: Hugging Face decoder-only models through torch, on a CPU or one GPU."""
