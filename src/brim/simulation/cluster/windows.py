"""What a cluster has done by a moment. Differences of two of them are the figures of the time between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from brim.core.request import TaskClass
from brim.simulation.cluster.member import Member, Status


@dataclass(frozen=True, slots=True)
class Noted:
    """Counts since time 0, but for `replicas_up` and `backlog`, which are of the moment."""

    now_ns: int
    arrived: int  # online requests, those refused among them
    judged: int
    met: int
    ended: int  # online requests that are over, well or not
    online_tokens: int  # drawn
    offline_tokens: int
    offline_ended: int
    busy_ps: int  # of all replicas
    paid_ns: int  # time of all replicas, from their start
    gpu_ns: int  # the same of all GPUs
    preemptions: int
    replicas_up: int
    backlog: int


def note(now_ns: int, members: Sequence[Member], backlog: int) -> Noted:
    online = [m.recorder.by_class[TaskClass.ONLINE] for m in members]
    online += [m.recorder.others[TaskClass.ONLINE] for m in members]
    offline = [m.recorder.by_class[TaskClass.OFFLINE] for m in members]
    offline += [m.recorder.others[TaskClass.OFFLINE] for m in members]
    paid = [(m, m.paid_ns(now_ns)) for m in members]
    return Noted(
        now_ns,
        arrived=sum(each.arrived for each in online),
        judged=sum(each.judged for each in online),
        met=sum(each.slo["all", True] for each in online),
        ended=sum(each.finished.total() for each in online),
        online_tokens=sum(each.output_tokens for each in online),
        offline_tokens=sum(each.output_tokens for each in offline),
        offline_ended=sum(each.ended_well for each in offline),
        busy_ps=sum(m.replica.meter.busy_ps(now_ns if m.gone_ns is None else m.gone_ns) for m in members),
        paid_ns=sum(ns for _, ns in paid),
        gpu_ns=sum(ns * m.pool.gpus for m, ns in paid),
        preemptions=sum(each.preempted for each in (*online, *offline)),
        replicas_up=sum(m.status in (Status.UP, Status.DRAINING) for m in members),
        backlog=backlog,
    )
