"""What a worker serves: whether it is well and has joined, and its ranks' metrics."""

import asyncio
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web

if TYPE_CHECKING:
    from windlass.engine.pods.worker import Worker


async def serve(worker: "Worker") -> None:
    """Serve on the pod's address until cancelled."""

    async def health(request: web.Request) -> web.Response:
        return web.Response()

    async def ready(request: web.Request) -> web.Response:
        return web.Response(status=200 if worker.joined else 503)

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text=await ranks_metrics(worker.ranks.metrics_addresses()), content_type="text/plain")

    app = web.Application()
    app.add_routes([web.get("/healthz", health), web.get("/readyz", ready), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, worker.pod.ip, worker.pod.http_port).start()
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


async def ranks_metrics(addresses: list[str]) -> str:
    """The metrics of all ranks here as one text: every metric's HELP and TYPE once, then its lines of all ranks."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        texts = await asyncio.gather(*(_fetch(session, address) for address in addresses))
    families: dict[str, tuple[list[str], list[str]]] = {}
    for text in texts:
        name = ""
        for line in text.splitlines():
            if line.startswith("# "):
                if line.startswith("# HELP "):
                    name = line.split()[2]
                header, _ = families.setdefault(name, ([], []))
                if line not in header:
                    header.append(line)
            else:
                families[name][1].append(line)
    return "".join(f"{line}\n" for header, lines in families.values() for line in header + lines)


async def _fetch(session: aiohttp.ClientSession, address: str) -> str:
    try:
        async with session.get(f"http://{address}/metrics") as response:
            return await response.text()
    except (TimeoutError, aiohttp.ClientError):
        return ""  # a rank that has just ended
