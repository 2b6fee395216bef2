"""The KV cache as counts and block ids. `manager` is the only door; the tensors are an engine's."""
