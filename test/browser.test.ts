/** A real browser: what Chromium's own EventSource and fetch make of the streams, over HTTP/1.1 and over HTTP/2 with TLS. */
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import type { JSHandle, Page } from 'playwright-core'
import t, { type Test } from 'tap'
import type { SseOptions } from '../index.ts'
import { CODINGS } from '../lib/coding.ts'
import { createPageApp, http2Options, launch, noBrowser, visit } from './browser.ts'
import { deferred, idleSource, turns, until } from './helpers.ts'

const skip = noBrowser
const browser = skip ? undefined! : await launch(t)

/** An event as the page has seen it: type, data, and the last event ID. */
type Seen = [type: string, data: string, lastEventId: string]

interface Watched { source: EventSource, opened: number, events: Seen[] }

/** An EventSource in the page, and what it has dispatched. */
async function openEventSource (page: Page, url: string, ...types: string[]): Promise<JSHandle<Watched>> {
  return await page.evaluateHandle(({ url, types }) => {
    const watched: Watched = { source: new EventSource(url), opened: 0, events: [] }
    watched.source.addEventListener('open', () => { watched.opened++ })
    for (const type of ['message', ...types]) {
      watched.source.addEventListener(type, (event) => {
        const { data, lastEventId } = event as MessageEvent
        watched.events.push([event.type, data, lastEventId])
      })
    }
    return watched
  }, { url, types })
}

async function untilEvents (page: Page, watched: JSHandle<Watched>, count: number): Promise<Seen[]> {
  await page.waitForFunction(({ watched, count }) => watched.events.length >= count, { watched, count })
  return await watched.evaluate(({ events }) => events)
}

/** Waits for a ready state: 0 CONNECTING, 1 OPEN, 2 CLOSED. */
async function untilState (page: Page, watched: JSHandle<Watched>, state: number): Promise<void> {
  await page.waitForFunction(({ watched, state }) => watched.source.readyState === state, { watched, state })
}

/** The same over every transport: a stream that breaks off after its first event is resumed after that event's ID. */
async function reconnects (t: Test, app: FastifyInstance, scheme: string): Promise<void> {
  const log = [{ id: 'é€😀', data: 1 }, { id: 'ß–二', data: 2 }, { id: 'plain', data: 3 }]
  const asked: [httpVersion: string, lastEventId: string | undefined][] = []
  app.get('/events', { sse: { retry: 20 } }, (request, reply) => {
    const { lastEventId } = request
    asked.push([request.raw.httpVersion, lastEventId])
    const next = log.slice(log.findIndex(({ id }) => id === lastEventId) + 1)
    return lastEventId === undefined ? reply.sse(next.slice(0, 1)) : reply.sse(idleSource(...next).source)
  })
  const { page } = await visit(t, browser, app, scheme)
  const watched = await openEventSource(page, '/events')

  t.strictSame(await untilEvents(page, watched, 3), [
    ['message', '1', 'é€😀'], ['message', '2', 'ß–二'], ['message', '3', 'plain']
  ], 'every event once, in order')
  const version = scheme === 'https' ? '2.0' : '1.1'
  t.strictSame(asked, [[version, undefined], [version, 'é€😀']], 'the ID came back as it was sent')
  t.equal(await watched.evaluate(({ opened }) => opened), 2)
}

t.test('EventSource reconnects with a last event ID beyond ASCII, and resumes after it', { skip }, async (t) => {
  await reconnects(t, await createPageApp(t), 'http')
})

t.test('EventSource does so over HTTP/2 with TLS', { skip }, async (t) => {
  await reconnects(t, await createPageApp(t, {}, http2Options(t)), 'https')
})

t.test('EventSource stops for good when a finite stream is over', { skip }, async (t) => {
  const app = await createPageApp(t)
  const answers: number[] = []
  let runs = 0
  app.addHook('onResponse', async (request, reply) => {
    if (request.url === '/events') answers.push(reply.statusCode)
  })
  app.get('/events', { sse: { finite: true, retry: 20 } }, (request, reply) => reply.sse(async function * () {
    runs++
    yield { id: 1, data: 'first' }
    yield { id: 2, data: 'last' }
  }))
  const { page } = await visit(t, browser, app)
  const watched = await openEventSource(page, '/events')

  await untilState(page, watched, 2)
  await until(() => answers.length >= 2)
  t.strictSame(answers, [200, 204], 'the second request is answered with 204, and there is no third')
  t.equal(runs, 1, 'the source is not run again')
  t.strictSame(await watched.evaluate(({ events }) => events), [['message', '"first"', '1'], ['message', '"last"', '2']],
    'the block that marks the end is not seen')
})

t.test('without finite, EventSource starts the stream anew', { skip }, async (t) => {
  const app = await createPageApp(t)
  app.get('/events', { sse: { retry: 20 } }, (request, reply) => reply.sse([{ data: 1 }]))
  const { page } = await visit(t, browser, app)
  const watched = await openEventSource(page, '/events')

  t.strictSame((await untilEvents(page, watched, 3)).slice(0, 3), Array(3).fill(['message', '1', '']))
})

/** An app on whose `/events` every stream has one event and stays open; `asked` are the last event IDs it was asked with. */
async function createIdleApp (t: Test, event: unknown, options: SseOptions, serverOptions: FastifyServerOptions = {}) {
  const app = await createPageApp(t, options, serverOptions)
  const asked: (string | undefined)[] = []
  app.get('/events', (request, reply) => {
    asked.push(request.lastEventId)
    return reply.sse(idleSource(event).source)
  })
  return { app, asked }
}

t.test('EventSource survives a restart of the server', { skip }, async (t) => {
  const before = await createIdleApp(t, { id: 'a', data: 'before' }, { retry: { min: 250, max: 250 }, drain: 100 })
  const { page, port } = await visit(t, browser, before.app)
  // Two, as a drain gives each a moment and a reconnection time of its own.
  const all = [await openEventSource(page, '/events'), await openEventSource(page, '/events')]
  for (const watched of all) await untilEvents(page, watched, 1)

  const refused = page.waitForEvent('requestfailed')
  await before.app.close()
  for (const watched of all) await untilState(page, watched, 0)
  await refused
  const after = await createIdleApp(t, { id: 'b', data: 'after' }, {})
  await after.app.listen({ port, host: '127.0.0.1' })

  for (const watched of all) {
    t.strictSame(await untilEvents(page, watched, 2), [['message', '"before"', 'a'], ['message', '"after"', 'b']])
    t.equal(await watched.evaluate(({ source }) => source.readyState), 1)
  }
  t.strictSame(before.asked, [undefined, undefined], 'it has not come back to the server that was closing')
  t.strictSame(after.asked, ['a', 'a'], 'it resumes after what it had')
})

t.test('EventSource that comes to a closing server comes back until there is a new one', { skip }, async (t) => {
  const before = await createIdleApp(t, { id: 'a', data: 'before' }, { retry: { min: 20, max: 20 } }, { return503OnClosing: false })
  const mayClose = deferred()
  t.after(() => mayClose.resolve())
  before.app.addHook('preClose', () => mayClose.promise)
  const { page, port } = await visit(t, browser, before.app)
  const watched = await openEventSource(page, '/events')
  await untilEvents(page, watched, 1)

  const closed = before.app.close()
  await until(() => before.app.sse.stats().refused.shutdown >= 2)
  mayClose.resolve()
  await closed
  const after = await createIdleApp(t, { id: 'b', data: 'after' }, {})
  await after.app.listen({ port, host: '127.0.0.1' })

  t.strictSame(await untilEvents(page, watched, 2), [['message', '"before"', 'a'], ['message', '"after"', 'b']])
  t.strictSame(after.asked, ['a'], 'it still knows its last event ID')
})

t.test('open fires although the source is idle', { skip }, async (t) => {
  const app = await createPageApp(t)
  app.get('/events', (request, reply) => reply.sse(idleSource().source))
  const { page } = await visit(t, browser, app)
  const watched = await openEventSource(page, '/events')

  await page.waitForFunction(({ opened }) => opened === 1, watched)
  t.equal(await watched.evaluate(({ source }) => source.readyState), 1)
  t.equal([...app.sse.connections][0]?.bytes, 0, 'the head alone has made it open')
})

t.test('events go to the listeners of their type, and comments to nobody', { skip }, async (t) => {
  const app = await createPageApp(t)
  const last = deferred()
  app.get('/events', { sse: { keepAlive: 10 } }, (request, reply) => reply.sse(async function * () {
    yield { comment: 'data: hidden' }
    yield { event: 'price', data: { eur: 1 }, comment: 'event: hidden\rdata: hidden\n' }
    yield { event: 'hidden', data: 'nobody listens' }
    yield 'two\r\nlines'
    yield { id: 'an id alone' }
    yield { event: 'price', data: null }
    await last.promise
    yield { event: 'message', data: 'after comments of keep-alive' }
  }))
  const { page } = await visit(t, browser, app)
  const watched = await openEventSource(page, '/events', 'price')
  await untilEvents(page, watched, 3)
  const [connection] = app.sse.connections
  const bytes = connection!.bytes
  await until(() => connection!.bytes >= bytes + 2 * ':\n\n'.length)
  last.resolve()

  t.strictSame((await untilEvents(page, watched, 4)).slice(0, 4), [
    ['price', '{"eur":1}', ''],
    ['message', 'two\nlines', ''],
    ['price', 'null', 'an id alone'],
    ['message', '"after comments of keep-alive"', 'an id alone']
  ])
})

t.test('fetch reads the stream that answers a POST, as it comes', { skip }, async (t) => {
  const app = await createPageApp(t)
  const first = deferred()
  app.post('/events', (request, reply) => reply.sse(async function * () {
    yield { event: 'echo', data: request.body }
    await first.promise
    yield { event: 'end', data: '😀' }
  }))
  const { page } = await visit(t, browser, app)
  const reading = await page.evaluateHandle(() => {
    const state = { status: 0, type: '' as string | null, text: '', done: false }
    const read = async () => {
      const headers = { 'content-type': 'application/json' }
      const response = await fetch('/events', { method: 'POST', headers, body: '{"prompt":"é"}' })
      state.status = response.status
      state.type = response.headers.get('content-type')
      const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader()
      for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) state.text += chunk.value
      state.done = true
    }
    read().catch((error) => { state.text += error })
    return state
  })

  await page.waitForFunction(({ text }) => text.endsWith('\n\n'), reading)
  t.strictSame(await reading.jsonValue(), {
    status: 200, type: 'text/event-stream', text: 'event: echo\ndata: {"prompt":"é"}\n\n', done: false
  }, 'the first event is there while the second is not yet made')
  first.resolve()
  await page.waitForFunction(({ done }) => done, reading)
  t.equal(await reading.evaluate(({ text }) => text), 'event: echo\ndata: {"prompt":"é"}\n\nevent: end\ndata: "😀"\n\n')
})

t.test('a page that was cut off before its first event has every event of a channel, and is told of a gap', { skip }, async (t) => {
  const app = await createPageApp(t)
  const news = app.sse.channel('news', { history: { events: 3 } })
  const asked: (string | undefined)[] = []
  app.get('/events', { sse: { retry: 20 } }, (request, reply) => {
    asked.push(request.lastEventId)
    return reply.sse(news)
  })
  const { page } = await visit(t, browser, app)
  const watched = await openEventSource(page, '/events', 'gap')
  /** What is published while the page has no connection. */
  const whileAway = async (...data: number[]): Promise<string[]> => {
    for (const { request } of app.sse.connections) request.raw.socket.destroy()
    const ids = []
    for (const each of data) ids.push(await news.publish({ data: each }))
    return ids
  }
  await untilState(page, watched, 1)
  await until(() => [...app.sse.connections].some(({ bytes }) => bytes > 0))
  await turns()
  const first = await whileAway(1, 2)
  t.same(await untilEvents(page, watched, 2), [['message', '1', first[0]], ['message', '2', first[1]]])
  t.match(asked, [undefined, /^\d+-\d+$/], 'it has remembered the ID that came alone')

  await until(() => app.sse.connections.size === 1)
  const second = await whileAway(3, 4, 5, 6, 7)
  const events = await untilEvents(page, watched, 6)
  t.same(events.slice(2), [
    ['gap', JSON.stringify({ requested: first[1], earliest: second[2] }), first[1]],
    ['message', '5', second[2]],
    ['message', '6', second[3]],
    ['message', '7', second[4]]
  ])
  await watched.evaluate(({ source }) => source.close())
})

t.test('compressed streams: an EventSource and fetch get each event at once, of a channel and of a handler', { skip }, async (t) => {
  const app = await createPageApp(t, { retry: 20, compress: true })
  const channel = app.sse.channel('c')
  app.get('/channel', async (request, reply) => reply.sse(channel))
  let next = deferred()
  app.get('/own', async (request, reply) => reply.sse(async function * () {
    for (let n = 0; n < 5; n++) {
      yield { id: n, data: n }
      await next.promise
    }
  }))
  const { page } = await visit(t, browser, app)
  const codings: unknown[] = []
  page.on('response', (response) => { codings.push(response.headers()['content-encoding']) })

  const watched = await openEventSource(page, '/channel')
  await until(() => app.sse.stats().open === 1)
  for (let n = 0; n < 5; n++) {
    await channel.publish({ data: n })
    await untilEvents(page, watched, n + 1)
  }
  // It comes back from the ID that it has read last.
  for (const connection of app.sse.connections) connection.end()
  await channel.publish({ data: 5 })
  t.same((await untilEvents(page, watched, 6)).map(([, data]) => data), ['0', '1', '2', '3', '4', '5'])
  await watched.evaluate(({ source }) => source.close())

  const own = await openEventSource(page, '/own')
  for (let n = 0; n < 5; n++) {
    t.same((await untilEvents(page, own, n + 1)).at(-1), ['message', String(n), String(n)])
    const { resolve } = next
    if (n < 4) next = deferred()
    if (n < 4) resolve()
  }
  t.same(new Set(codings), new Set([CODINGS[0]]))
})

// The root test does not end by itself while the browser runs.
t.end()
