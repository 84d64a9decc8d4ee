"""A server behind the router: says what it received, and misbehaves on demand.

The path decides: /echo answers at once, /chunked in three chunks, /until-close without a length, /slow after half a
second, /large with 8 MiB, /status/<code> with that code, /cut breaks off within its answer, /garbage sends no HTTP,
/once answers and then closes the connection without having said so, /continue sends an interim answer first, /count
says how many requests came.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys

LARGE = 8 << 20


class Upstream:
    def __init__(self) -> None:
        self.requests = 0
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self.one(reader, writer):
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        headers = [[part.strip() for part in line.split(":", 1)] for line in lines]
        length = next((int(value) for name, value in headers if name == "content-length"), 0)
        body = await reader.readexactly(length)
        method, path, _ = first.split(" ", 2)
        self.requests += 1
        seen = {"method": method, "path": path, "headers": headers, "length": length, "requests": self.requests}
        seen |= {"connections": self.connections, "sha256": hashlib.sha256(body).hexdigest()}
        content = json.dumps(seen).encode()
        reason, extra = "OK", ""
        if path == "/chunked":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Kept: yes\r\n\r\n")
            for part in (content[:10], content[10:20], content[20:]):
                writer.write(b"%x\r\n%s\r\n" % (len(part), part))
                await writer.drain()
            writer.write(b"0\r\nX-Trailer: dropped\r\n\r\n")
            return True
        if path == "/until-close":
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + content)
            return False
        if path == "/cut":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc")
            return False
        if path == "/garbage":
            writer.write(b"this is no HTTP\r\n\r\n")
            return False
        if path == "/large":
            content = b"x" * LARGE
        if path == "/slow":
            await asyncio.sleep(0.5)
        if path == "/continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if path.startswith("/status/"):
            reason, extra = "Because I Say So", "Connection: X-Hop\r\nX-Hop: mine\r\nX-Kept: yes\r\nX-Kept: twice\r\n"
        code = path.removeprefix("/status/") if path.startswith("/status/") else "200"
        head = f"HTTP/1.1 {code} {reason}\r\nContent-Length: {len(content)}\r\n{extra}\r\n"
        writer.write(head.encode() + (b"" if method == "HEAD" else content))
        return path != "/once"


async def main() -> None:
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", int(sys.argv[1]))
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
