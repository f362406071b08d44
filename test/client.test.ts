/** The client: `fetchEvents` and `typedEventSource`, mostly over real sockets against a real app; and what of it is shipped. */
import { Type } from '@sinclair/typebox'
import { Value } from '@sinclair/typebox/value'
import { build } from 'esbuild-wasm'
import { EventSource } from 'eventsource'
import { createParser } from 'eventsource-parser'
import fc from 'fast-check'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { deepStrictEqual } from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import net from 'node:net'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import type { SseOptions } from '../index.ts'
import { fetchEvents, SseError, typedEventSource } from '../lib/client/index.ts'
import { Parser, type Block } from '../lib/client/parser.ts'
import { createApp, dataOf, deferred, idleSource, listen, ownClock, readAll, readOn, turns, until } from './helpers.ts'

const root = dirname(dirname(fileURLToPath(import.meta.url)))

/** An app whose `/` answers like this, and its URL. */
async function start (
  t: Test, handler: (request: FastifyRequest, reply: FastifyReply) => unknown, options: SseOptions = { retry: 1 }
) {
  // Node's fetch may open a spare connection, for which a server that closes would wait.
  const app = await createApp(t, options, { forceCloseConnections: true })
  app.route({ method: ['GET', 'POST'], url: '/', handler })
  return { app, url: `http://127.0.0.1:${await listen(app)}/` }
}

/** A server of bytes: each connection is given to `serve` when its request is there. */
async function startRaw (t: Test, serve: (socket: net.Socket, request: string) => void): Promise<string> {
  const sockets = new Set<net.Socket>()
  const server = net.createServer((socket) => {
    sockets.add(socket.on('error', () => {}))
    let request = ''
    socket.on('data', (bytes) => {
      request += bytes.toString('latin1')
      if (request.endsWith('\r\n\r\n')) serve(socket, request)
    })
  })
  t.after(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve) })
  return `http://127.0.0.1:${(server.address() as net.AddressInfo).port}/`
}

const HEAD = 'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n'

type Answer = string | Error | (() => Response | Promise<Response>)

/** A fetch that gives these answers, one for each request, then 204; a text is an event stream. It knows what it was asked. */
function answers (...all: Answer[]) {
  const asked: { init: RequestInit, headers: Headers }[] = []
  return {
    asked,
    ids: () => asked.map(({ headers }) => headers.get('last-event-id')),
    async fetch (_: string | URL, init: RequestInit): Promise<Response> {
      asked.push({ init, headers: new Headers(init.headers) })
      init.signal?.throwIfAborted()
      const answer = all.shift()
      if (answer instanceof Error) throw answer
      if (typeof answer === 'function') return answer()
      return answer === undefined ? new Response(null, { status: 204 }) : eventStream(answer)
    }
  }
}

function eventStream (body: ConstructorParameters<typeof Response>[0]): Response {
  return new Response(body, { headers: { 'content-type': 'text/event-stream' } })
}

/** An event stream that is cut off after this. */
function broken (text: string): () => Response {
  return () => eventStream(new ReadableStream({
    start: (controller) => controller.enqueue(new TextEncoder().encode(text)),
    pull: (controller) => controller.error(new TypeError('terminated'))
  }))
}

function parseAll (chunks: Uint8Array[], onRetry = (_: number) => {}): Block[] {
  const parser = new Parser('', onRetry)
  return chunks.flatMap((chunk) => [...parser.parse(chunk)])
}

const dispatched = (blocks: Block[]) => blocks.filter(({ text }) => text !== undefined)

const PIECES = ['data', 'data:', 'data: ', 'event:', 'id:', 'id', 'retry:', ':', ': ', ' ', '\r', '\n', '\r\n', '\n\n', '\r\r',
  '\0', 'x', '12', 'é', '😀', '\uFEFF', 'data: {"a":1}\n\n', 'id: 7\n\n', 'event: e\rdata:1\r\r', 'unknown: 1\n']

t.test('a stream is parsed by the standard, wherever it is split', async (t) => {
  const splits = fc.array(fc.nat(), { maxLength: 20 })
  fc.assert(fc.property(fc.array(fc.constantFrom(...PIECES), { maxLength: 40 }), splits, (pieces, splits) => {
    const bytes = new TextEncoder().encode(pieces.join(''))
    // Of two byte order marks the decoder of Node 24 takes both away if the first comes in two pieces.
    fc.pre(!pieces.join('').startsWith('\uFEFF\uFEFF'))
    const at = [0, ...splits.map((split) => split % (bytes.length + 1)).sort((a, b) => a - b), bytes.length]
    const retries: number[] = []
    const blocks = parseAll(at.slice(1).map((end, index) => bytes.subarray(at[index], end)), (ms) => retries.push(ms))

    const expected: { event: string, text: string, id: string | undefined }[] = []
    const expectedRetries: number[] = []
    const other = createParser({
      onEvent: ({ event = 'message', data, id }) => expected.push({ event, text: data, id }),
      onRetry: (ms) => expectedRetries.push(ms)
    })
    // It waits for what follows a CR; of what it is given here, nothing more is complete.
    other.feed(new TextDecoder().decode(bytes) + ':')
    // It does not tell of an ID that came with an earlier block.
    const received = dispatched(blocks).map(({ event, text, id }, index) =>
      ({ event, text, id: expected[index]?.id === undefined ? undefined : id }))
    deepStrictEqual(received, expected)
    deepStrictEqual(retries, expectedRetries)
    deepStrictEqual(blocks, parseAll([bytes]))
  }), { numRuns: 2_000 })
})

t.test('what another parser does not show is parsed by the standard, too', async (t) => {
  const parse = (text: string) => parseAll([new TextEncoder().encode(text)])
  t.strictSame(parse('id: 1\n\ndata: a\n\nid: 2\0\ndata: b\n\nid\ndata: c\n\n').map(({ id }) => id), ['1', '1', '1', ''])
  t.strictSame(dispatched(parse('id: 1\n\nid: 2\ndata: not complete')), [])
  t.equal(parse('id: 1\n\nid: 2\n').at(-1)!.id, '1', 'an ID counts when its block is complete')
  t.strictSame(parse('event: a\n\ndata: b\n\n').map(({ event }) => event), ['a', 'message'])
  t.strictSame(dispatched(parse('data\n\ndata\ndata\n\n')).map(({ text }) => text), ['', '\n'])
})

t.test('each byte of a stream may come alone', async (t) => {
  const text = '\uFEFFid: é€\r\nevent: e\r\ndata: "😀"\r\ndata:\r\n\r\nretry: 1\r:c\rdata: 2\r\rdata: incomplete\n'
  let requests = 0
  const url = await startRaw(t, async (socket) => {
    if (++requests > 1) return socket.end('HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n')
    socket.setNoDelay().write(HEAD)
    for (const byte of Buffer.from(text)) {
      socket.write(Buffer.of(byte))
      await turns(2)
    }
    socket.end()
  })
  t.strictSame(await readAll(fetchEvents(url)), [
    { event: 'e', data: '😀', text: '"😀"\n', id: 'é€' }, { event: 'message', data: 2, text: '2', id: 'é€' }
  ])
  t.equal(requests, 2)
})

t.test('events have a type, data, their text, and the last event ID', async (t) => {
  const { url } = await start(t, (request, reply) => request.lastEventId === 'c'
    ? reply.code(204).send()
    : reply.sse([
      { event: 'price', data: { eur: 1 } }, { id: 'a', comment: 'an ID alone' }, { data: '5' }, { raw: 'two\nlines' },
      { id: '', data: null }, { id: 'c', raw: '5' }
    ]))
  t.strictSame(await readAll(fetchEvents(new URL(url))), [
    { event: 'price', data: { eur: 1 }, text: '{"eur":1}', id: undefined },
    { event: 'message', data: '5', text: '"5"', id: 'a' },
    { event: 'message', data: 'two\nlines', text: 'two\nlines', id: 'a' },
    { event: 'message', data: null, text: 'null', id: undefined },
    { event: 'message', data: 5, text: '5', id: 'c' }
  ])
})

t.test('a channel is read on after each break, nothing lost and nothing doubled', async (t) => {
  const { app, url } = await start(t, (_, reply) => reply.sse(app.sse.channel('news')))
  const news = app.sse.channel('news')
  const { seen, ended } = readOn(fetchEvents(url))
  await until(() => [...app.sse.connections].some(({ bytes }) => bytes > 0))
  const expected: number[] = []
  for (let n = 1; n <= 200; n++) {
    expected.push(n)
    await news.publish({ data: n })
    if (n % 20 === 0) for (const { request } of app.sse.connections) request.raw.socket.destroy()
    if (n % 7 === 0) await turns(3)
  }
  await news.close()
  await ended
  t.strictSame(dataOf(seen), expected)
})

t.test('one who has received nothing but a position comes back to it', async (t) => {
  const { app, url } = await start(t, (_, reply) => reply.sse(app.sse.channel('news')))
  for (const agent of ['', 'Firefox/150.0']) {
    const events = fetchEvents(url, { headers: { 'user-agent': agent } })
    const { seen } = readOn(events)
    await until(() => [...app.sse.connections].some(({ bytes }) => bytes > 0))
    await turns()
    for (const { request } of app.sse.connections) request.raw.socket.destroy()
    await app.sse.channel('news').publish({ data: agent })
    await until(() => seen.length > 0)
    t.strictSame(dataOf(seen), [agent])
    await events.return()
  }
  await app.sse.channel('news').close()
})

t.test('a gap is told', async (t) => {
  const { app, url } = await start(t, (_, reply) => reply.sse(app.sse.channel('news', { history: { events: 2 } })))
  const news = app.sse.channel('news', { history: { events: 2 } })
  const ids: string[] = []
  for (let n = 1; n <= 5; n++) ids.push(await news.publish({ data: n }))
  await news.close()
  t.match(await readAll(fetchEvents(url, { lastEventId: ids[0], check: ({ data }) => typeof data === 'number' })), [
    { event: 'gap', data: { requested: ids[0], earliest: ids[3] }, id: ids[0] }, { data: 4, id: ids[3] }, { data: 5, id: ids[4] }
  ], 'and is not for the check')
})

t.test('a finite stream ends the iteration at once', async (t) => {
  for (const agent of ['', 'Firefox/150.0']) {
    let requests = 0
    const { url } = await start(t, (_, reply) => {
      requests++
      return reply.sse([{ data: 1 }, { data: 2 }], { finite: true })
    })
    t.strictSame(dataOf(await readAll(fetchEvents(url, { headers: { 'user-agent': agent } }))), [1, 2])
    t.equal(requests, 1)
  }
  let cancelled = false
  const stream = () => eventStream(new ReadableStream({
    start: (controller) => controller.enqueue(new TextEncoder().encode('id: fastify-typed-sse:finished\n\ndata: late\n\n')),
    cancel () { cancelled = true }
  }))
  t.same(await readAll(fetchEvents('/', answers(stream))), [])
  t.ok(cancelled, 'what more there is is not read')
})

t.test('204 ends it', async (t) => {
  const { url } = await start(t, (_, reply) => reply.code(204).send())
  t.same(await readAll(fetchEvents(url)), [])
})

t.test('the request is the one that was asked for', async (t) => {
  const { url } = await start(t, (request, reply) => {
    const { accept, authorization, 'cache-control': cache } = request.headers
    return reply.sse([{ data: [request.method, accept, authorization, cache, request.lastEventId] }], { finite: true })
  })
  const headers = { authorization: 'Bearer me', accept: 'text/html' }
  t.same(dataOf(await readAll(fetchEvents(url, { headers, lastEventId: 'é€😀' }))),
    [['GET', 'text/event-stream', 'Bearer me', 'no-cache', 'é€😀']])
  const { asked, fetch } = answers('retry: 1\ndata: 1\n\n')
  t.equal((await readAll(fetchEvents('/', { fetch, credentials: 'include', headers: new Headers(headers) }))).length, 1)
  t.match(asked, [{ init: { credentials: 'include' } }, { init: { credentials: 'include' } }])
  t.equal(asked[1]!.headers.get('authorization'), 'Bearer me')
})

t.test('an answer that is no event stream is an error, which shows it', async (t) => {
  const { url } = await start(t, (_, reply) => reply.code(401).send({ why: 'who are you?' }))
  const error = await readAll(fetchEvents(url)).catch((error: unknown) => error) as SseError
  t.ok(error instanceof SseError)
  t.match(error, { name: 'SseError', code: 'SSE_REFUSED', status: 401, message: `${url} is no event stream, but 401 application/json` })
  t.same(await error.response!.json(), { why: 'who are you?' }, 'its body can be read')

  for (const [status, type] of [[200, 'text/html'], [200, 'text/event-stream2'], [404, 'text/event-stream'], [501, 'a/b']] as const) {
    const { fetch } = answers(() => new Response('', { status, headers: { 'content-type': type } }))
    await t.rejects(readAll(fetchEvents('/', { fetch })), { code: 'SSE_REFUSED', status })
  }
  const { fetch } = answers(() => new Response('retry: 1\ndata: 1\n\n', { headers: { 'content-type': 'Text/Event-Stream ;charset=utf-8' } }))
  t.same(dataOf(await readAll(fetchEvents('/', { fetch }))), [1])
})

t.test('what fetch would never take is an error, and not tried again', async (t) => {
  await t.rejects(readAll(fetchEvents('/relative')), TypeError)
  await t.rejects(readAll(fetchEvents('http://a/', { headers: { 'a b': 'c' } })), TypeError)
  await t.rejects(readAll(fetchEvents('http://a/', { body: 'of a GET request' })), TypeError)
  await t.rejects(readAll(fetchEvents('http://a/', { fetch: 5 as never })), TypeError)
  await t.rejects(readAll(fetchEvents('http://a/', { fetch () { throw new RangeError('at once') } })), RangeError)
})

t.test('onReconnect is told why the client comes back, and when', async (t) => {
  const failure = new TypeError('fetch failed')
  const { fetch } = answers('retry: 7\nid: 1\ndata: 1\n\n', failure, () => new Response(null, { status: 204 }))
  const told: unknown[] = []
  t.same(dataOf(await readAll(fetchEvents('/', { fetch, onReconnect: (event) => told.push(event) }))), [1])
  t.match(told, [{ error: undefined, ms: 7 }, { error: failure, ms: Number }])
  const broken = fetchEvents('/', { ...answers(failure), onReconnect () { throw new RangeError('mine') } })
  await t.rejects(broken.next(), RangeError)
})

t.test('what is transient is waited out: as long as it says, or the server has said', async (t) => {
  const clock = ownClock(t)
  const { random } = Math
  t.after(() => { Math.random = random })
  Math.random = () => 0
  const status = (status: number, headers = {}) => () => new Response('later', { status, headers })
  const statuses = [408, 425, 429, 500, 502, 503, 504].map((each) => status(each))
  const { asked, fetch, ids } = answers('retry: 250\nid: 7\n\n', new TypeError('fetch failed'), ...statuses,
    status(503, { 'retry-after': '60' }), status(429, { 'retry-after': 'Wed, 21 Oct 2015 07:28:00 GMT' }),
    status(503, { 'retry-after': '99999999' }), 'retry: 99999999999\n', broken('data: 1\n\n'))
  const { seen, result } = readOn(fetchEvents('/', { fetch }))
  const waits = async (ms: number) => {
    const before = asked.length
    await turns()
    clock.tick(ms - 1)
    await turns()
    t.equal(asked.length, before, `not before ${ms} ms`)
    clock.tick(1)
    await turns()
    t.equal(asked.length, before + 1, `after ${ms} ms`)
  }
  for (const ms of [250, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000, 15_000, 15_000]) await waits(ms)
  await waits(60_000)
  await waits(15_000)
  await waits(2 ** 31 - 1)
  await waits(2 ** 31 - 1)
  await waits(2 ** 31 - 1)
  t.same(dataOf(seen), [1])
  t.ok(result.done)
  t.strictSame(ids(), [null, ...Array(14).fill('7')])
})

t.test('without a word from the server a client waits longer and longer, until an event comes', async (t) => {
  const clock = ownClock(t)
  const failures = (count: number) => Array.from({ length: count }, () => new TypeError('fetch failed'))
  const { asked, fetch } = answers(...failures(8), 'retry: 1.5\n\nretry:\n\n', broken('data: 1\n\n'), ...failures(1))
  readOn(fetchEvents('/', { fetch }))
  const bounds = [1, 2, 4, 8, 16, 30, 30, 30, 30, 1, 2].map((seconds) => seconds * 1_000)
  for (const longest of bounds) {
    const before = asked.length
    await turns()
    clock.tick(longest / 2 - 1)
    await turns()
    t.equal(asked.length, before, `not before ${longest / 2} ms`)
    clock.tick(longest / 2 + 1)
    await turns()
    t.equal(asked.length, before + 1, `before ${longest} ms are over`)
  }
})

t.test('a server that is away, or sends clients away softly, is found again', async (t) => {
  let requests = 0
  const url = await startRaw(t, (socket) => {
    requests++
    if (requests === 1) socket.end(HEAD + 'retry: 1\nid: 5\n\n')
    else if (requests === 2) socket.destroy()
    else if (requests === 3) socket.end('HTTP/1.1 503 No\r\ncontent-length: 5\r\n\r\nsorry')
    else if (requests === 4) socket.end(HEAD + 'retry: 2\n')
    else if (requests === 5) socket.end(HEAD + 'data: cut o')
    else socket.end(HEAD + 'id: fastify-typed-sse:finished\ndata: 1\n\n')
  })
  const clock = ownClock(t)
  const { seen, result } = readOn(fetchEvents(url))
  await until(() => {
    clock.tick(10)
    return result.done
  })
  t.same([seen, result.error, requests], [[], undefined, 6])
})

t.test('the last event ID survives a connection that says none', async (t) => {
  const { fetch, ids } = answers('retry: 0\nid: 5\ndata: 1\n\n', 'retry: 0\n\n', 'data: 2\n\n', 'id\ndata: 3\n\n')
  t.strictSame((await readAll(fetchEvents('/', { fetch }))).map(({ data, id }) => [data, id]), [[1, '5'], [2, '5'], [3, undefined]])
  t.strictSame(ids(), [null, '5', '5', '5', null])
})

t.test('a POST is repeated only where a last event ID says from where on', async (t) => {
  const post = { method: 'POST', body: '{"prompt":"é"}', headers: { 'content-type': 'application/json' } }
  const asked: unknown[] = []
  const { app, url } = await start(t, (request, reply) => {
    asked.push([request.body, request.lastEventId])
    return request.lastEventId === undefined
      ? reply.sse(idleSource({ id: 1, data: 'one' }).source)
      : reply.sse([{ id: 2, data: 'two' }], { finite: true })
  })
  const interrupted = readOn(fetchEvents(url, post))
  await until(() => interrupted.seen.length === 1)
  for (const { request } of app.sse.connections) request.raw.socket.destroy()
  await interrupted.ended
  t.same(dataOf(interrupted.seen), ['one', 'two'])
  t.same(asked, [[{ prompt: 'é' }, undefined], [{ prompt: 'é' }, '1']])

  t.same(dataOf(await readAll(fetchEvents('/', { ...post, ...answers('data: 1\n\n', 'data: 2\n\n') }))), [1], 'a clean end is the end')
  const cut = readOn(fetchEvents('/', { ...post, ...answers(broken('data: 1\n\n'), 'data: 2\n\n') }))
  await t.rejects(cut.ended, { message: 'terminated' })
  t.same(dataOf(cut.seen), [1])
  await t.rejects(readAll(fetchEvents('/', { ...post, ...answers(new TypeError('fetch failed')) })), { message: 'fetch failed' })
  const busy = () => new Response('', { status: 503 })
  await t.rejects(readAll(fetchEvents('/', { ...post, ...answers(busy) })), { code: 'SSE_REFUSED', status: 503 })
  const again = answers(busy, 'retry: 0\ndata: 1\n\n')
  const clock = ownClock(t)
  const resumed = readOn(fetchEvents('/', { ...post, lastEventId: '1', fetch: again.fetch }))
  await turns()
  clock.tick(1_000)
  await until(() => resumed.seen.length === 1)
  const once = { method: 'post', body: new ReadableStream(), duplex: 'half' as const, lastEventId: '1' }
  t.same(dataOf(await readAll(fetchEvents('/', { ...once, ...answers('data: 1\n\n', 'data: 2\n\n') }))), [1])
})

t.test('to break off stops the source on the server', async (t) => {
  const { source, state } = idleSource({ data: 1 }, { data: 2 })
  const { app, url } = await start(t, (_, reply) => reply.sse(source))
  const events = fetchEvents(url)
  for await (const { data } of events) if (data === 1) break
  await until(() => state.finished)
  t.match(app.sse.stats(), { open: 0, closed: { 'client-gone': 1 } })
  t.strictSame(await events.next(), { value: undefined, done: true })
})

t.test('return() ends what waits at once: for the head, an event, the time to come back; or what has not begun', async (t) => {
  const { source, state } = idleSource()
  const { app, url } = await start(t, (_, reply) => reply.sse(source))
  const hanging = await startRaw(t, () => {})
  const { asked, fetch } = answers(new TypeError('fetch failed'))
  const waits: [string, Parameters<typeof fetchEvents>[1], () => boolean][] = [
    [url, {}, () => state.started], [hanging, {}, () => true], ['/', { fetch }, () => asked.length === 1]
  ]
  for (const [url, options, condition] of waits) {
    const events = fetchEvents(url, options)
    const next = events.next()
    await until(condition)
    await turns()
    t.strictSame(await events.return(), { value: undefined, done: true })
    t.strictSame(await next, { value: undefined, done: true })
  }
  await until(() => state.finished)
  t.match(app.sse.stats(), { open: 0, closed: { 'client-gone': 1 } })
  const events = fetchEvents(url)
  await events.return()
  t.strictSame(await events.next(), { value: undefined, done: true })
  t.match(app.sse.stats(), { opened: 1 })
})

t.test('a signal aborts with its reason, wherever it is', async (t) => {
  const { source } = idleSource({ data: 1 }, { data: 2 })
  const { app, url } = await start(t, (_, reply) => reply.sse(source))
  const reason = new Error('enough')
  await t.rejects(fetchEvents(url, { signal: AbortSignal.abort(reason) }).next(), reason)
  t.match(app.sse.stats(), { opened: 0 })

  const hanging = await startRaw(t, () => {})
  const away = answers(new TypeError('fetch failed')).fetch
  /** Aborted after so many events, while another is asked for, or before. */
  const cases = [[hanging, 0, true, fetch], ['/', 0, true, away], [url, 1, false, fetch], [url, 2, true, fetch]] as const
  for (const [at, taken, asking, fetch] of cases) {
    const controller = new AbortController()
    const events = fetchEvents(at, { fetch: fetch as typeof away, signal: controller.signal })
    for (let n = 1; n <= taken; n++) t.match(await events.next(), { value: { data: n } })
    const next = asking ? events.next() : undefined
    await turns()
    controller.abort(reason)
    await t.rejects(next ?? events.next(), reason)
    t.strictSame(await events.next(), { value: undefined, done: true })
  }
  await until(() => app.sse.connections.size === 0)
})

t.test('the signal is let go of at the end', async (t) => {
  const { signal } = new AbortController()
  let listeners = 0
  t.capture(signal, 'addEventListener', () => { listeners++ })
  t.capture(signal, 'removeEventListener', () => { listeners-- })
  await readAll(fetchEvents('/', { signal, ...answers('retry: 0\n', 'data: 1\n\n') }))
  await fetchEvents('/', { signal }).return()
  await fetchEvents('/nowhere', { signal }).next().catch(() => {})
  t.equal(listeners, 0)
})

t.test('a slow reader pauses the source', async (t) => {
  let yielded = 0
  const { app, url } = await start(t, (_, reply) => reply.sse(async function * () {
    for (;;) yield { id: ++yielded, raw: 'x'.repeat(10_000) }
  }))
  const events = fetchEvents(url)
  await events.next()
  let before = -1
  for (let same = 0; same < 200; same++) {
    await turns(1)
    if (yielded !== before) [before, same] = [yielded, 0]
  }
  t.ok([...app.sse.connections][0]!.behind, `the server waits, after ${yielded} events`)
  let read = 1
  for await (const { id } of events) {
    if (Number(id) !== ++read) t.fail(`${id} is not ${read}`)
    if (read > before + 1_000) break
  }
  await until(() => app.sse.connections.size === 0)
})

const events = { price: Type.Object({ eur: Type.Number() }), message: Type.String() }

t.test('data are checked on receipt, if asked', async (t) => {
  const { source, state } = idleSource({ event: 'price', data: { eur: 1 } }, { data: 'text' }, { event: 'price', data: { eur: '1' } })
  const { url } = await start(t, (_, reply) => reply.sse(source))
  const { seen, ended } = readOn(fetchEvents<typeof events>(url, {
    check: ({ event, data }) => Value.Check(events[event], data)
  }))
  const error = await ended.catch((error: unknown) => error) as SseError
  t.match(error, {
    name: 'SseError',
    code: 'SSE_INVALID_DATA',
    status: undefined,
    message: "an event 'price' has data that were found wrong",
    event: { event: 'price', data: { eur: '1' } }
  })
  t.same(dataOf(seen), [{ eur: 1 }, 'text'])
  await until(() => state.finished)
})

t.test('a typed view of npm eventsource', async (t) => {
  const more = deferred()
  const { app, url } = await start(t, (_, reply) => reply.sse(async function * () {
    yield { event: 'price', id: 'é', data: { eur: 1 } }
    yield { raw: 'text' }
    yield { event: 'error', data: 'the server has one' }
    await more.promise
    yield { event: 'price', data: { eur: 2 } }
    yield { event: 'gap', data: { requested: '1', earliest: null } }
    yield { event: 'price', data: { eur: 3 } }
  }))
  const source = new EventSource(url)
  t.after(() => source.close())
  const view = typedEventSource<typeof events & { error: ReturnType<typeof Type.String> }>(source)
  t.equal(view.source, source)
  const seen: unknown[] = []
  const off = view.on('price', (event) => seen.push(event, event.data.eur))
  view.on('message', ({ data, text, id }) => seen.push([data, text, id]))
  view.on('error', ({ data }) => seen.push(data))
  const gaps: unknown[] = []
  view.on('gap', ({ data }) => gaps.push(data.earliest))
  await until(() => seen.length === 4)
  t.strictSame(seen, [
    { event: 'price', data: { eur: 1 }, text: '{"eur":1}', id: 'é' }, 1, ['text', 'text', undefined], 'the server has one'
  ], 'of the last event ID it tells only with the event that has it')
  off()
  more.resolve()
  await until(() => gaps.length === 1)
  await until(() => source.readyState === source.CONNECTING)
  t.equal(seen.length, 4, 'who was taken off is told no more; nor is an error of the connection an event of the server')
  view.close()
  t.equal(source.readyState, source.CLOSED)
  await until(() => app.sse.connections.size === 0)
})

/** An EventSource by its shape: listeners are called by hand. */
class FakeSource {
  closed = false
  readonly #listeners = new Map<string, Set<(event: object) => void>>()

  addEventListener (type: string, listener: (event: object) => void): void {
    this.#listeners.set(type, (this.#listeners.get(type) ?? new Set()).add(listener))
  }

  removeEventListener (type: string, listener: (event: object) => void): void {
    this.#listeners.get(type)?.delete(listener)
  }

  close (): void {
    this.closed = true
  }

  emit (type: string, event: object): void {
    for (const listener of this.#listeners.get(type) ?? []) listener(event)
  }
}

t.test('a view checks on receipt, if asked, and tells who is to be told', async (t) => {
  const source = new FakeSource()
  const seen: unknown[] = []
  const invalid: any[] = []
  const check = ({ event, data }: { event: 'price' | 'message', data: unknown }) => Value.Check(events[event], data)
  const throwing = typedEventSource<typeof events>(source, { check })
  throwing.on('price', ({ data }) => seen.push(data))
  source.emit('price', { data: '{"eur":1}', lastEventId: '' })
  t.throws(() => source.emit('price', { data: '{"eur":"1"}', lastEventId: '' }), { code: 'SSE_INVALID_DATA' })

  const telling = typedEventSource<typeof events>(source, { check, onInvalid: (error) => invalid.push(error) })
  telling.on('message', ({ data }) => seen.push(data))
  telling.on('gap', ({ data }) => seen.push(data.requested))
  source.emit('message', { data: 'text', lastEventId: '1' })
  source.emit('message', { data: '5', lastEventId: '2' })
  source.emit('gap', { data: '{"requested":"a","earliest":null}', lastEventId: '' })
  t.same(seen, [{ eur: 1 }, 'text', 'a'])
  t.match(invalid, [{ code: 'SSE_INVALID_DATA', event: { event: 'message', data: 5, text: '5', id: '2' } }])
  t.equal(invalid.length, 1)
  telling.on('price', () => { throw new Error('of the listener') })
  t.throws(() => source.emit('price', { data: '{"eur":1}' }), { message: 'of the listener' }, 'which is not what onInvalid is for')
  throwing.close()
  t.ok(source.closed)
})

t.test('what onInvalid throws is reported as any error of a listener: nothing hangs, and the next event arrives', async (t) => {
  const goOn = deferred()
  const { app, url } = await start(t, (_, reply) => reply.sse(async function * () {
    yield { event: 'price', data: { eur: 'wrong' } }
    yield { event: 'price', data: { eur: 1 } }
    await goOn.promise
    yield { event: 'price', data: { eur: 'wrong again' } }
    yield { event: 'price', data: { eur: 2 } }
    await new Promise(() => {})
  }))
  const source = new EventSource(url)
  t.after(() => source.close())
  const reported: unknown[] = []
  // Where browsers have the error event of the page, Node has this; `npm eventsource` calls listeners as Node's EventTarget does.
  const report = (error: unknown) => { reported.push(error) }
  process.setUncaughtExceptionCaptureCallback(report)
  t.after(() => process.setUncaughtExceptionCaptureCallback(null))
  const invalid: any[] = []
  const view = typedEventSource<typeof events>(source, {
    check: ({ data }) => typeof (data as { eur: unknown }).eur === 'number',
    onInvalid (error) {
      invalid.push(error)
      throw new Error(`of onInvalid, ${invalid.length}`)
    }
  })
  const [seen, seenByAnother]: unknown[][] = [[], []]
  view.on('price', ({ data }) => seen!.push(data))
  typedEventSource<any>(source).on('price', ({ data }) => seenByAnother!.push(data))
  await until(() => seen!.length === 1)
  goOn.resolve()
  await until(() => seen!.length === 2 && reported.length === 2, () => JSON.stringify({ seen, reported: reported.map(String) }))
  t.same(seen, [{ eur: 1 }, { eur: 2 }], 'a listener is given what is right')
  t.equal(seenByAnother!.length, 4, 'and others are given all')
  t.match(invalid, [{ code: 'SSE_INVALID_DATA' }, { code: 'SSE_INVALID_DATA' }])
  t.match(reported, [{ message: 'of onInvalid, 1' }, { message: 'of onInvalid, 2' }], 'each once, and not given to onInvalid itself')
  t.equal(source.readyState, EventSource.OPEN)
  t.match(app.sse.stats(), { opened: 1, open: 1 }, 'on the same connection')
})

t.test('it is small, and needs nothing', async (t) => {
  const { outputFiles, metafile } = await build({
    entryPoints: [join(root, 'lib/client/index.ts')],
    bundle: true,
    minify: true,
    format: 'esm',
    platform: 'browser',
    write: false,
    metafile: true
  })
  const { contents } = outputFiles[0]!
  const size = gzipSync(contents).length
  t.ok(size <= 2_048, `${size} bytes, minified and gzipped`)
  t.same(Object.values(metafile.outputs)[0]!.imports, [])
  t.notMatch(Buffer.from(contents).toString(), /\brequire\b|\bprocess\b|\bBuffer\b|from ?["']/)
})

const CONSUMER = `
import { fetchEvents, SseError, typedEventSource } from './lib/client/index.js'
type Schema<T> = { static: T }
type Events = { price: Schema<{ eur: number }> }
const view = typedEventSource<Events>(new EventSource('/'), { onInvalid: (error) => console.log(error) })
view.on('price', ({ data }) => data.eur.toFixed())
view.on('gap', ({ data }) => data.earliest?.length)
for await (const event of fetchEvents<Events>('/', { credentials: 'include', fetch, check: ({ data }) => data.eur > 0 })) {
  if (event.event === 'price') event.data.eur.toFixed()
  else event.data.requested.trim()
}
for await (const { event, data } of fetchEvents(new URL('http://a/'))) console.log(event.trim(), data)
try {} catch (error) { if (error instanceof SseError) error.response?.json() }
export {}
`

t.test('its types are for browsers, too: they need nothing but the DOM', async (t) => {
  const folder = t.testdir()
  const tsc = (...args: string[]) => {
    const path = join(root, 'node_modules/typescript/bin/tsc')
    const { stdout } = spawnSync(process.execPath, [path, ...args, '--pretty', 'false'], { cwd: folder, encoding: 'utf8' })
    return stdout
  }
  const emit = { extends: join(root, 'tsconfig.json'), compilerOptions: { outDir: '.', rootDir: root, emitDeclarationOnly: true } }
  const files = [join(root, 'lib/client/index.ts')]
  const typeRoots = [join(root, 'node_modules/@types')]
  writeFileSync(join(folder, 'tsconfig.json'),
    JSON.stringify({ ...emit, compilerOptions: { ...emit.compilerOptions, typeRoots }, include: [], exclude: [], files }))
  t.equal(tsc('-p', 'tsconfig.json'), '')
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')
  writeFileSync(join(folder, 'consumer.ts'), CONSUMER)
  const compilerOptions = {
    lib: ['es2022', 'dom'], types: [], target: 'es2022', module: 'nodenext', strict: true, skipLibCheck: false, noEmit: true
  }
  writeFileSync(join(folder, 'consumer.json'), JSON.stringify({ compilerOptions, files: ['consumer.ts'] }))
  t.equal(tsc('-p', 'consumer.json'), '')
})
