"""fetch_aiohttp.py COUNT URL...: aiohttp, eight requests at once, each with a session."""

import asyncio
import sys

import aiohttp


async def get(url: str, limit: asyncio.Semaphore) -> str:
    async with limit:
        try:
            timeout = aiohttp.ClientTimeout(20)
            async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session, session.get(url) as answer:
                return "got " + (await answer.text()).strip()
        except (OSError, aiohttp.ClientError, TimeoutError) as error:
            return f"failed {error}"


async def main() -> None:
    limit, urls = asyncio.Semaphore(8), sys.argv[2:]
    for line in await asyncio.gather(*(get(urls[number % len(urls)], limit) for number in range(int(sys.argv[1])))):
        print(line)


asyncio.run(main())
