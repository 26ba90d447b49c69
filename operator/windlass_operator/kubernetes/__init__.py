"""A level-triggered runtime on asyncio and aiohttp: client, informer, work queue, lease; it knows nothing of jobs."""
