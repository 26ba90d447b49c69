"""A small level-triggered runtime on asyncio and aiohttp: client, informer, work queue, lease. It knows nothing of jobs."""
