"""A heap that some of its items leave without being taken out."""

from brim.core.lazy_heap import LazyHeap


def test_the_smallest_current_item_is_first():
    current = {3, 5, 7}
    heap = LazyHeap(current.__contains__)
    for item in (5, 3, 7):
        heap.push(item)
    assert heap.first() == 3
    current.remove(3)
    assert heap.first() == 5
    current.clear()
    assert heap.first() is None
    assert len(heap) == 0


def test_stale_items_that_never_come_up_are_dropped_when_they_are_many():
    current = {-1}
    heap = LazyHeap(current.__contains__)
    heap.push(-1)
    for item in range(10_000):
        heap.push(item)
    assert len(heap) <= 65
    assert heap.first() == -1


def test_many_current_items_stay():
    heap = LazyHeap(lambda item: True)
    for item in range(1000, 0, -1):
        heap.push(item)
        heap.push(item)
    assert heap.first() == 1
    assert len(heap) < 2001
