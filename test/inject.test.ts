/** `injectSse`: what tests of an application read without a port is what a client would get, and nothing is left open. */
import { Type } from '@sinclair/typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { injectSse } from '../lib/testing/index.ts'
import { createApp, dataOf, idleSource, logInto, noteProcess, ownClock, readAll, readOn, turns, until } from './helpers.ts'

/** An app whose `/` answers like this. */
async function start (t: Test, handler: (request: FastifyRequest, reply: FastifyReply) => unknown, options = {}) {
  const app = await createApp(t, options)
  app.route({ method: ['GET', 'POST'], url: '/', handler })
  return app
}

t.test('the events are those that a client would get', async (t) => {
  const app = await start(t, (request, reply) => reply.sse([
    { event: 'price', data: { eur: 1 }, id: '1' }, 'text', { comment: 'nobody sees it' }, { data: null, id: '€' }, { data: 'é' }
  ]))
  t.strictSame(await readAll(injectSse(app, '/')), [
    { event: 'price', data: { eur: 1 }, text: '{"eur":1}', id: '1' },
    { event: 'message', data: 'text', text: 'text', id: '1' },
    { event: 'message', data: null, text: 'null', id: '€' },
    { event: 'message', data: 'é', text: '"é"', id: '€' }
  ])
  t.match(app.sse.stats(), { open: 0, closed: { 'source-done': 1, 'client-gone': 0 } })
})

t.test('an app that is not ready is waited for, and one that fails to start is told of', async (t) => {
  const app = await start(t, (request, reply) => reply.sse([{ data: 1 }]))
  let ready = false
  app.addHook('onReady', async () => { ready = true })
  t.same(dataOf(await readAll(injectSse(app, '/'))), [1])
  t.ok(ready)

  const broken = await start(t, (request, reply) => reply.sse([]))
  broken.addHook('onReady', async () => { throw new Error('no database') })
  const events = injectSse(broken, '/')
  await t.rejects(events.next(), { message: 'no database' })
  await t.rejects(events.response, { message: 'no database' })
  t.strictSame(await events.return(), { value: undefined, done: true })
})

t.test('a request has the method, the headers and the body that it is given, and asks for an event stream', async (t) => {
  const app = await start(t, (request, reply) => {
    const { accept, authorization } = request.headers
    return reply.sse([{ data: [request.method, accept, authorization, request.body, request.lastEventId] }])
  })
  const request = { method: 'POST' as const, url: '/', headers: { authorization: 'me' }, payload: { prompt: 'é' } }
  t.same(dataOf(await readAll(injectSse(app, request, { lastEventId: 'é€' }))), [
    ['POST', 'text/event-stream', 'me', { prompt: 'é' }, 'é€']
  ])
  t.same(dataOf(await readAll(injectSse(app, { url: '/', headers: { Accept: '*/*' } }))), [['GET', '*/*', null, null, null]])
})

t.test('the head of a stream that has no event is there', async (t) => {
  const { source, state } = idleSource()
  const app = await start(t, (request, reply) => reply.code(203).header('x-who', 'me').sse(source))
  const events = injectSse(app, '/')
  t.match(await events.response, { statusCode: 203, headers: { 'content-type': 'text/event-stream', 'x-who': 'me' } })
  t.match(app.sse.stats(), { open: 1 })
  t.strictSame(await events.return(), { value: undefined, done: true })
  t.match(app.sse.stats(), { open: 0, closed: { 'client-gone': 1 } }, 'it was never read, and is closed all the same')
  await until(() => state.finished)
  t.strictSame(await events.next(), { value: undefined, done: true })
})

t.test('to break off is to go away: the source is stopped, and nothing keeps the app from closing', async (t) => {
  const { source, state } = idleSource({ data: 1 }, { data: 2 }, { data: 3 })
  const app = await start(t, (request, reply) => reply.sse(source))
  for await (const { data } of injectSse(app, '/')) if (data === 2) break
  t.match(app.sse.stats(), { open: 0, closed: { 'client-gone': 1 } }, 'at once')
  await until(() => state.finished)
  t.ok(state.aborted)
  t.equal(app.sse.connections.size, 0)
  await app.close()
})

t.test('return() ends a reading whose next() waits, for the head or for an event', async (t) => {
  const { source, state } = idleSource()
  const app = await start(t, (request, reply) => reply.sse(source))
  for (const untilOpen of [() => true, () => state.started]) {
    const events = injectSse(app, '/')
    const next = events.next()
    await until(untilOpen)
    await events.return()
    t.strictSame(await next, { value: undefined, done: true })
  }
  await until(() => app.sse.connections.size === 0)
  t.match(app.sse.stats(), { open: 0 })
})

t.test('a signal aborts: before, while it waits, and between two events', async (t) => {
  const { source, state } = idleSource({ data: 1 }, { data: 2 })
  const app = await start(t, (request, reply) => reply.sse(source))
  const reason = new Error('enough')
  const early = injectSse(app, '/', { signal: AbortSignal.abort(reason) })
  await t.rejects(early.next(), reason)
  await t.rejects(early.response, reason)
  t.equal(state.started, false, 'nothing was asked for')

  const [one, two] = [new AbortController(), new AbortController()]
  const waiting = readOn(injectSse(app, '/', { signal: one.signal }))
  await until(() => waiting.seen.length === 2)
  one.abort(reason)
  await t.rejects(waiting.ended, reason)

  const between = injectSse(app, '/', { signal: two.signal })
  t.match(await between.next(), { value: { data: 1 } })
  two.abort(reason)
  await t.rejects(between.next(), reason)
  await until(() => app.sse.connections.size === 0)
  t.match(app.sse.stats(), { open: 0, closed: { 'client-gone': 2 } })
})

t.test('who reads nothing and asks for nothing is told of nothing', async (t) => {
  const noted = noteProcess(t)
  const app = await createApp(t)
  injectSse(app, { url: '/', headers: { bad: undefined } as {} })
  injectSse(app, '/', { signal: AbortSignal.abort() })
  await app.close()
  injectSse(app, '/')
  await turns()
  t.same(noted, [], 'no rejection is left unhandled')
})

t.test('an answer that is no event stream is an error that shows it; 204 is the end', async (t) => {
  const app = await createApp(t)
  app.get('/json', async () => ({ some: 'thing' }))
  app.get('/long', async () => 'é'.repeat(100_000))
  app.get('/none', (request, reply) => reply.code(204).send())
  app.get('/500', async () => { throw new Error('broken') })
  await t.rejects(readAll(injectSse(app, '/json')), { message: 'expected an event stream, got 200 application/json; charset=utf-8: {"some":"thing"}' })
  await t.rejects(readAll(injectSse(app, '/500')), { message: /^expected an event stream, got 500 .*"message":"broken"/ })
  await t.rejects(readAll(injectSse(app, '/nowhere')), { message: /^expected an event stream, got 404 .*Route GET:\/nowhere not found/ })
  await t.rejects(readAll(injectSse(app, '/long')), { message: `expected an event stream, got 200 text/plain; charset=utf-8: ${'é'.repeat(1_000)}` })
  t.same(await readAll(injectSse(app, '/none')), [])
  t.match(await injectSse(app, '/500').response, { statusCode: 500 })
})

t.test('a source that fails after its first event breaks nothing: the stream ends', async (t) => {
  const app = await start(t, (request, reply) => reply.sse(async function * () {
    yield { data: 1 }
    await turns(5)
    throw new Error('late')
  }))
  t.same(dataOf(await readAll(injectSse(app, '/'))), [1])
})

t.test('a response that is broken off rejects', async (t) => {
  const app = await start(t, (request, reply) => reply.sse(idleSource({ data: 1 }).source))
  const { seen, ended } = readOn(injectSse(app, '/'))
  await until(() => seen.length === 1)
  for (const { request } of app.sse.connections) request.raw.destroy(new Error('cut'))
  await t.rejects(ended)
})

t.test('a source that is always ready is paused while nobody reads, and goes on', async (t) => {
  let yielded = 0
  let finished = false
  const app = await start(t, (request, reply) => reply.sse(async function * () {
    try {
      for (;;) yield { id: ++yielded, raw: 'x'.repeat(1_000) }
    } finally {
      finished = true
    }
  }))
  const events = injectSse(app, '/')
  await events.response
  await turns(200)
  t.ok(yielded < 200, `${yielded} KB while nobody reads`)
  let read = 0
  for await (const { id } of events) {
    if (Number(id) !== ++read) t.fail(`${id} is not ${read}`)
    if (yielded > read + 300) t.fail(`${yielded} were yielded, ${read} read`)
    if (read === 5_000) break
  }
  await until(() => finished)
  t.match(app.sse.stats(), { open: 0, closed: { 'client-gone': 1 } })
})

t.test('two streams of one app, each with events of its own', async (t) => {
  const app = await createApp(t)
  const news = app.sse.channel('news')
  app.get('/', (request, reply) => reply.sse(news))
  const [one, two] = [injectSse(app, '/'), injectSse(app, '/')]
  await Promise.all([one.response, two.response])
  await news.publish({ data: 1 })
  await news.publish({ data: 2 })
  t.match([await one.next(), await one.next(), await two.next()].map(({ value }) => value?.data), [1, 2, 1])
  await one.return()
  await news.publish({ data: 3 })
  t.match([await two.next(), await two.next()].map(({ value }) => value?.data), [2, 3])
  await two.return()
  t.match(app.sse.stats(), { open: 0 })
})

t.test('a channel: from a last event ID, with a gap, up to its end', async (t) => {
  const app = await createApp(t)
  const news = app.sse.channel('news', { history: { events: 2 } })
  app.get('/', (request, reply) => reply.sse(news))
  const ids: string[] = []
  for (let n = 1; n <= 5; n++) ids.push(await news.publish({ event: 'n', data: n }))
  const resumed = readOn(injectSse(app, '/', { lastEventId: ids[3]! }))
  await until(() => resumed.seen.length === 1)
  await news.close()
  await resumed.ended
  t.strictSame(resumed.seen, [{ event: 'n', data: 5, text: '5', id: ids[4] }])
  t.match(await readAll(injectSse(app, '/', { lastEventId: ids[0]! })), [
    { event: 'gap', data: { requested: ids[0], earliest: ids[3] }, id: ids[0] }, { data: 4, id: ids[3] }, { data: 5, id: ids[4] }
  ])
})

t.test('a finite stream ends, for browsers that need an event for it, too; who comes back to it gets 204', async (t) => {
  const app = await start(t, (request, reply) => reply.sse([{ id: 1, data: 1 }], { finite: true }))
  for (const agent of ['', 'Firefox/150.0']) {
    t.same(dataOf(await readAll(injectSse(app, { url: '/', headers: { 'user-agent': agent } }))), [1])
  }
  const again = injectSse(app, '/', { lastEventId: 'fastify-typed-sse:finished' })
  t.same(await readAll(again), [])
  t.match(await again.response, { statusCode: 204 })
})

t.test('maxDuration ends a stream, and comments keep it alive until then', async (t) => {
  const clock = ownClock(t)
  const options = { keepAlive: 100, maxDuration: 1_000 }
  const app = await start(t, (request, reply) => reply.sse(idleSource({ data: 1 }).source), options)
  const { seen, ended } = readOn(injectSse(app, '/'))
  await until(() => seen.length === 1)
  const [connection] = app.sse.connections
  const before = connection!.bytes
  // What was written must count as sent, or there is no silence to break.
  await turns()
  clock.tick(100)
  await turns()
  t.equal(connection!.bytes, before + ':\n\n'.length)
  clock.tick(900)
  await ended
  t.same(dataOf(seen), [1])
  t.match(app.sse.stats(), { closed: { 'max-duration': 1 } })
})

t.test('a server that closes ends its streams', async (t) => {
  const app = await start(t, (request, reply) => reply.sse(idleSource({ data: 1 }).source))
  const { seen, ended } = readOn(injectSse(app, '/'))
  await until(() => seen.length === 1)
  await app.close()
  await ended
})

t.test('the schemas of a route give the types', async (t) => {
  const app = await createApp(t)
  const events = { price: Type.Object({ eur: Type.Number() }) }
  app.get('/', { schema: { events } }, async (request, reply) => reply.sse([{ event: 'price', data: { eur: 2 } }]))
  for await (const event of injectSse(app, '/', { events })) {
    if (event.event === 'price') t.equal(event.data.eur.toFixed(2), '2.00')
  }
})

t.test('to break off is nothing that the log has for an error', async (t) => {
  const lines: { level: number, msg: string }[] = []
  const app = await createApp(t, {}, logInto(lines, 'info'))
  const { source } = idleSource({ data: 1 })
  app.get('/', async (request, reply) => reply.sse(source))
  for await (const { data } of injectSse(app, '/')) if (data === 1) break
  await turns()
  t.same(lines.map(({ level, msg }) => [level, msg]), [[30, 'incoming request'], [30, 'request completed']])
})

t.test('a stream that is compressed is an error, as nobody undoes it', async (t) => {
  const app = await start(t, (request, reply) => reply.sse([{ data: 1 }]), { compress: true })
  t.same(dataOf(await readAll(injectSse(app, '/'))), [1], 'it is not asked for')
  const events = injectSse(app, { url: '/', headers: { 'accept-encoding': 'gzip' } })
  await t.rejects(events.next(), { message: 'the event stream is compressed (gzip): ask without accept-encoding' })
})

t.test('a misspelt option is told of', async (t) => {
  const app = await start(t, (request, reply) => reply.sse([]))
  t.throws(() => injectSse(app, '/', { lastEventID: '5' } as never), { code: 'FST_SSE_INVALID_OPTION' })
  t.throws(() => injectSse(app, '/', { lastEventId: 5 } as never), { code: 'FST_SSE_INVALID_OPTION' })
})

t.test('who waits for an event keeps the process alive, and nobody else does', async (t) => {
  const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
  const app = await start(t, (request, reply) => reply.sse(idleSource({ data: 1 }).source))
  const events = injectSse(app, '/')
  await events.next()
  await turns()
  const before = timers()
  const waiting = events.next()
  t.equal(timers(), before + 1)
  await events.return()
  await waiting
  t.equal(timers(), before)
})
