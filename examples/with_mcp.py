"""A server with two tools and a resource, and a client that calls them, over MCP's own in-memory transport.

No network and no key. The client asks for two researches at once, has one publication fail, reads a resource, and does
not wait for the last call's end. Nothing here knows that it is observed.
"""

from __future__ import annotations

import asyncio

from mcp.types import TextContent

try:
    from mcp import Client
    from mcp.server import MCPServer
except ImportError:  # mcp 1
    from mcp.server.fastmcp import FastMCP as MCPServer
    from mcp.shared.memory import create_connected_server_and_client_session as Client  # noqa: N812 - what mcp 2 calls so

server = MCPServer("library")
asked_to_tell: list[str] = []


@server.tool()
async def research(topic: str) -> str:
    """Knows what a topic is like."""
    return f"{topic} is wet."


@server.tool()
async def publish(text: str) -> str:
    """Publishes a text."""
    raise ConnectionError("no such channel")


@server.tool()
async def tell() -> str:
    """Takes its time."""
    asked_to_tell.append("once")
    await asyncio.Event().wait()
    return "Tea goes with rain."


@server.resource("library://motto")
def motto() -> str:
    """What the library says."""
    return "Tea goes with rain."


def text_of(result: object) -> str:
    content = getattr(result, "content")[0]  # noqa: B009 - the type's name differs between versions
    return content.text if isinstance(content, TextContent) else ""


async def run() -> list[str]:
    async with Client(server) as client:
        tea, rain = await asyncio.gather(
            client.call_tool("research", {"topic": "tea"}), client.call_tool("research", {"topic": "rain"})
        )
        failed = await client.call_tool("publish", {"text": "Tea, rain."})
        read = await client.read_resource("library://motto")
        return [text_of(tea), text_of(rain), text_of(failed), str(getattr(read.contents[0], "text", ""))]


async def leave() -> str:
    """Does not wait for the end."""
    asked_to_tell.clear()
    async with Client(server) as client:
        asked = asyncio.create_task(client.call_tool("tell"))
        while not asked_to_tell:
            await asyncio.sleep(0)
        asked.cancel()
        try:
            await asked
        except asyncio.CancelledError:
            return "left"
    return "told"


async def main() -> None:
    print(*await run(), sep="\n")
    print(await leave())


if __name__ == "__main__":
    asyncio.run(main())
