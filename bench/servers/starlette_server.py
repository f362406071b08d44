"""Starlette on uvicorn (with uvloop and httptools): a queue for each client, and a StreamingResponse that reads it."""
import asyncio
import gc
import json
import resource
import socket
import sys

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

EVENT_TYPE = "price"
HEADERS = {"cache-control": "no-cache"}
clients = set()

# Those who wait for the others, and what they wait for.
arrived = []
begin = None


def data_of(text):
    return {"symbol": "AAPL", "text": text}


def block_of(data):
    return f"event: {EVENT_TYPE}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


FRAME = len(block_of(data_of("")))


def data_of_size(block_size):
    return data_of("~".ljust(block_size - FRAME, "x"))


def stream(source):
    return StreamingResponse(source, media_type="text/event-stream", headers=HEADERS)


async def channel(request):
    queue = asyncio.Queue()

    async def read():
        clients.add(queue)
        try:
            yield b": connected\n\n"
            while True:
                yield await queue.get()
        finally:
            clients.discard(queue)

    return stream(read())


async def source(request):
    async def quick():
        for _ in range(int(request.query_params["events"])):
            yield block_of(data_of_size(200))

    return stream(quick())


async def turns(request):
    expected = int(request.query_params["clients"])

    async def each_turn():
        global begin
        waiting = begin = begin or asyncio.Event()
        arrived.append(request)
        if len(arrived) == expected:
            arrived.clear()
            begin = None
            waiting.set()
        await waiting.wait()
        for _ in range(int(request.query_params["events"])):
            yield block_of(data_of_size(200))
            await asyncio.sleep(0)

    return stream(each_turn())


async def ordinary(request):
    items = [{"id": n, "symbol": f"SYM{n}", "price": 100 + n / 4, "currency": "USD"} for n in range(16)]
    return JSONResponse({"items": items, "end": "~"})


async def publish(how):
    loop = asyncio.get_running_loop()
    due = loop.time()
    for _ in range(how["turns"]):
        due += how["every"] / 1000
        await asyncio.sleep(max(0, due - loop.time()))
        for _ in range(how["batch"]):
            block = block_of(data_of_size(127))
            for queue in clients:
                queue.put_nowait(block)
    return {}


async def usage(how):
    if how.get("gc"):
        gc.collect()
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu": (used.ru_utime + used.ru_stime) * 1e6}


async def take_orders(port):
    async def tell_port(how):
        return port

    orders = {"port": tell_port, "usage": usage, "publish": publish}
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        order = json.loads(line)
        answer = await orders[order["order"]](order["with"])
        print(json.dumps({"id": order["id"], "answer": answer}), flush=True)


async def main():
    routes = [Route("/channel", channel), Route("/source", source), Route("/turns", turns), Route("/json", ordinary)]
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        Starlette(routes=routes), http="httptools", backlog=8192, access_log=False, log_level="critical")
    serving = asyncio.create_task(uvicorn.Server(config).serve(sockets=[listening]))
    await take_orders(listening.getsockname()[1])
    serving.cancel()


uvloop.install()
asyncio.run(main())
