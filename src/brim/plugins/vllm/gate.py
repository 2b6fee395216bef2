"""vLLM's queue of requests, with a gate that decisions open."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from brim.plugins.vllm.compat import Request, RequestQueue


class GatedQueue(RequestQueue):
    """All who wait; vLLM sees those whom a decision lets in, in its order, and nobody else."""

    def __init__(self, requests: Iterable[Request] = ()) -> None:
        self._all = {request.request_id: request for request in requests}
        self._let_in: deque[Request] = deque()

    def let_in(self, request_ids: Iterable[str]) -> None:
        """In the coming step."""
        found = dict.fromkeys(request_ids)
        self._let_in = deque(self._all[request_id] for request_id in found if request_id in self._all)

    def poured_into(self, queue: RequestQueue) -> RequestQueue:
        """vLLM's own queue with all that wait, in order of arrival."""
        for request in sorted(self, key=lambda request: request.arrival_time):
            queue.add_request(request)
        return queue

    def add_request(self, request: Request) -> None:
        self._all[request.request_id] = request

    def prepend_request(self, request: Request) -> None:
        self._all[request.request_id] = request

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        self._all.update((request.request_id, request) for request in requests)

    def pop_request(self) -> Request:
        request = self._let_in.popleft()
        del self._all[request.request_id]
        return request

    def peek_request(self) -> Request:
        return self._let_in[0]

    def remove_request(self, request: Request) -> None:
        self.remove_requests((request,))

    def remove_requests(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self._all.pop(request.request_id, None)
        self.let_in([request.request_id for request in self._let_in])

    def __bool__(self) -> bool:
        return bool(self._let_in)

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Request]:
        return iter(list(self._all.values()))
