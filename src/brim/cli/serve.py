"""`brim serve`: an OpenAI-compatible server for one model."""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import shlex
from functools import partial
from typing import Any

import brim
from brim.batch_api.api import BatchApi, check_folder
from brim.cli.host import Host, running
from brim.cli.progress import tell
from brim.cli.settings import ServeSettings
from brim.core.request import SLO
from brim.server.app import create_app
from brim.server.auth import tenant
from brim.server.lines import submit_line
from brim.server.options import ServerOptions, ServiceOptions
from brim.server.runner import listen, make_server

log = logging.getLogger("brim")


def serve(settings: ServeSettings, *, as_json: bool) -> None:
    """Serves until it is told to stop. Raises BrimError where it can't start."""
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    options = _server_options(settings)  # what can be wrong without a model is found before it is loaded
    check_folder(settings.data_folder)
    _allow_many_connections()
    with (
        listen(settings.host, settings.port) as listener,
        running(settings, _service_options(settings), tell) as host,
    ):
        batch_api = BatchApi(
            settings.data_folder,
            partial(submit_line, host.service),
            models=lambda: host.service.model_names,
            window=settings.batch_window,
            tenant=tenant,
            write_timeout_seconds=options.write_timeout_seconds,
        )
        _warn_without_targets(host, settings)
        app = create_app(host.service, batch_api, options)
        facts = _facts(host, f"http://{_authority(settings.host, listener.getsockname()[1])}", settings)
        print(json.dumps(facts) if as_json else _announcement(facts), flush=True)
        make_server(app, log_level=settings.log_level).run(sockets=[listener])


def _allow_many_connections() -> None:
    """Each stream is an open file, and many systems allow 1,024 where they could allow far more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _service_options(settings: ServeSettings) -> ServiceOptions:
    return ServiceOptions(
        model_names=(settings.served_model_name,) if settings.served_model_name else (),
        max_queued_online=settings.max_queued_online,
        flex_wait_seconds=settings.flex_wait_seconds,
        client_targets=settings.client_targets,
        default_slo=SLO(_ns(settings.ttft_ms), _ns(settings.tpot_ms), _ns(settings.itl_ms)),
        priority_slo=SLO(
            _ns(settings.priority_ttft_ms or settings.ttft_ms),
            _ns(settings.priority_tpot_ms or settings.tpot_ms),
            _ns(settings.itl_ms),
        ),
    )


def _warn_without_targets(host: Host, settings: ServeSettings) -> None:
    targets = (settings.ttft_ms, settings.tpot_ms, settings.itl_ms)
    if host.keeps_targets and not any(targets):
        log.warning(
            "the policy %s gives offline requests all the time that the targets of online ones leave, and "
            "there are none: give ttft_ms and tpot_ms, or itl_ms",
            settings.policy,
        )


def _ns(milliseconds: float | None) -> int | None:
    return None if milliseconds is None else round(milliseconds * 1e6)


def _server_options(settings: ServeSettings) -> ServerOptions:
    return ServerOptions(
        api_keys=tuple(settings.api_key),
        guard_metrics=settings.guard_metrics,
        max_body_bytes=settings.max_body_mib * 2**20,
        keep_alive_seconds=settings.keep_alive_seconds,
        stuck_step_seconds=settings.stuck_step_seconds,
        shutdown_timeout_seconds=settings.shutdown_timeout_seconds,
    )


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _facts(host: Host, address: str, settings: ServeSettings) -> dict[str, Any]:
    caps = host.caps
    return {
        "version": brim.__version__,
        "address": address,
        "model": host.service.model_names[0],
        "device": caps.device,
        "dtype": caps.dtype,
        "kv_capacity_tokens": host.capacity_tokens,
        "max_model_len": caps.max_model_len,
        "policy": settings.policy,
        "data_folder": str(settings.data_folder.resolve()),
        "note": caps.note,
        "try": _curl(host, address, bool(settings.api_key)),
    }


def _curl(host: Host, address: str, with_key: bool) -> str:
    message = {"role": "user", "content": "Hello!"}
    body = json.dumps({"model": host.service.model_names[0], "messages": [message], "max_tokens": 32})
    key = " -H 'Authorization: Bearer YOUR_KEY'" if with_key else ""
    return (
        f"curl {address}/v1/chat/completions -H 'Content-Type: application/json'{key} -d {shlex.quote(body)}"
    )


def _announcement(facts: dict[str, Any]) -> str:
    lines = [
        f"Brim {facts['version']} answers on {facts['address']}",
        f"  model      {facts['model']}, {facts['dtype']} on {facts['device']}",
        f"  KV cache   {facts['kv_capacity_tokens']:,} tokens; a request may have {facts['max_model_len']:,}",
        f"  scheduler  {facts['policy']}",
        f"  data       {facts['data_folder']}",
        f"  see it     {facts['address']}/ in a browser",
    ]
    if facts["note"]:
        lines.append(f"  note       {facts['note']}")
    return "\n".join([*lines, "", "Try it:", facts["try"], ""])
