/** Runs: a source that outlives its connections, started once, read by anybody from its start or from where he was. */
import { Type } from '@sinclair/typebox'
import type { FastifyInstance } from 'fastify'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { createHub, memoryBroker, type RunEnd } from '../index.ts'
import {
  collect, connect, createApp, dataOf, deferred, fetchBody, idleSource, listen, logInto, ownClock, readAll, readOn, turns, until
} from './helpers.ts'

const FINISHED = 'fastify-typed-sse:finished'
const END = `id: ${FINISHED}\n\n`

/** A source that yields what it is given, one by one, and ends when it is told to. */
function pushSource () {
  const waiting: { data: unknown }[] = []
  let wake = deferred()
  let done = false
  async function * source () {
    for (;;) {
      while (waiting.length > 0) yield waiting.shift()!
      if (done) return
      await wake.promise
      wake = deferred()
    }
  }
  return {
    source,
    push (data: unknown) {
      waiting.push({ data })
      wake.resolve()
    },
    end () {
      done = true
      wake.resolve()
    }
  }
}

/** An app whose errors are kept instead of written. */
async function createLoggingApp (t: Test): Promise<{ app: FastifyInstance, errors: Record<string, any>[] }> {
  const errors: Record<string, any>[] = []
  return { app: await createApp(t, {}, logInto(errors, 'error')), errors }
}

t.test('a run goes on when everybody who has read it is gone, and without anybody at all', async (t) => {
  const app = await createApp(t)
  const { source, push, end } = pushSource()
  app.get('/', async (request, reply) => reply.sse(app.sse.run('answer', source)))
  const port = await listen(app)
  push(1)
  const client = connect(t, port).get('/')
  await client.until('data: 1\n\n')
  client.destroy()
  await until(() => app.sse.stats().open === 0)
  push(2)
  await turns()
  push(3)
  end()
  t.same(await app.sse.run('answer', []).ended, { state: 'done' })
  t.same(dataOf(await readAll(app.sse.run.attach('answer').subscribe())), [1, 2, 3])
})

t.test('however many ask for a key in the same turn, the source runs once, and the others are let go of', async (t) => {
  const app = await createApp(t)
  let called = 0
  let returned = 0
  let pulled = 0
  const generator = (): AsyncGenerator<{ data: number }> => ({
    async next () { pulled++; return { done: true, value: undefined } },
    async return () { returned++; return { done: true, value: undefined } },
    async throw () { return { done: true, value: undefined } },
    [Symbol.asyncIterator] () { return this }
  }) as AsyncGenerator<{ data: number }>
  const source = () => { called++; return [{ data: 1 }] }
  const runs = [
    app.sse.run('key', source),
    app.sse.run('key', source),
    app.sse.run('key', generator()),
    app.sse.run('key', generator()),
    app.sse.run('key', source)
  ]
  await Promise.all(runs.map(({ ended }) => ended))
  t.equal(new Set(runs).size, 1, 'one run for all of them')
  t.equal(called, 1)
  t.equal(pulled, 0, 'no step of what is not used')
  t.equal(returned, 2, 'a generator given is returned')
  t.same(dataOf(await readAll(runs[0]!.subscribe())), [1])
})

t.test('many requests at once for a key that is new share one run', async (t) => {
  const app = await createApp(t)
  let called = 0
  app.get('/', async (request, reply) => reply.sse(app.sse.run('key', async function * () {
    called++
    yield { data: 'once' }
  })))
  const port = await listen(app)
  const bodies = await Promise.all(Array.from({ length: 20 }, () => fetchBody(t, port, '/')))
  t.equal(called, 1)
  for (const body of bodies) t.match(body, /data: "once"\n\nid: fastify-typed-sse:finished\n\n$/)
  t.equal(new Set(bodies).size, 1)
})

t.test('a late tab gets a run from its start; who comes back, from his last event ID; each once, in order', async (t) => {
  const app = await createApp(t)
  const { source, push, end } = pushSource()
  app.get('/', async (request, reply) => reply.sse(app.sse.run('answer', source)))
  const port = await listen(app)
  const first = connect(t, port).get('/')
  push(1)
  push(2)
  await first.until('data: 2\n\n')
  const [, id] = /id: (\S+)\ndata: 1\n/.exec(first.body)!
  const late = connect(t, port).get('/')
  const back = connect(t, port).get('/', `Last-Event-ID: ${id}`)
  await Promise.all([late.until('data: 2\n\n'), back.until('data: 2\n\n')])
  push(3)
  end()
  for (const [client, expected] of [[first, '123'], [late, '123'], [back, '23']] as const) {
    await client.until(END)
    t.equal(client.body.match(/(?<=data: )\d/g)!.join(''), expected)
  }
})

t.test('after its end a run gives the rest and the end, then 204 to who comes back with the ID of the end', async (t) => {
  const app = await createApp(t)
  app.get('/', async (request, reply) => reply.sse(app.sse.run('answer', [{ data: 1 }, { data: 2 }])))
  const port = await listen(app)
  const whole = await fetchBody(t, port, '/')
  t.match(whole, /^(id: 0-0\n\n)?id: \S+\ndata: 1\n\nid: \S+\ndata: 2\n\nid: fastify-typed-sse:finished\n\n$/)
  const [first, last] = [...whole.matchAll(/id: (\S+)\ndata/g)].map(([, id]) => id)
  t.match(await fetchBody(t, port, '/', `Last-Event-ID: ${first}`), /^id: \S+\n\nid: \S+\ndata: 2\n\nid: fastify-typed-sse:finished\n\n$/)
  t.equal(await fetchBody(t, port, '/', `Last-Event-ID: ${last}`), `id: ${last}\n\n${END}`)
  const finished = connect(t, port).get('/', `Last-Event-ID: ${FINISHED}`)
  await finished.until('\r\n\r\n')
  t.match(finished.head, /^HTTP\/1.1 204 /)
  await until(() => app.sse.stats().open === 0)
  t.equal(app.sse.stats().closed['source-done'], 3)
})

t.test('stop() lets go of the source, and readers get what was recorded, then the end', async (t) => {
  const app = await createApp(t)
  const { state, source } = idleSource({ data: 1 }, { data: 2 })
  const run = app.sse.run('answer', source)
  app.get('/', async (request, reply) => reply.sse(run))
  const port = await listen(app)
  const client = connect(t, port).get('/')
  await client.until('data: 2\n\n')
  await run.stop()
  t.equal(state.aborted, true)
  t.same(await run.ended, { state: 'stopped' })
  await client.until(END)
  await until(() => state.finished)
  t.same(dataOf(await readAll(run.subscribe())), [1, 2], 'also those who come later')
  await run.stop()
  t.same(await run.ended, { state: 'stopped' }, 'to stop twice does nothing')
})

t.test('stop() does not wait for a next() that never settles', async (t) => {
  const hub = createHub()
  t.after(() => hub.close())
  let returned = 0
  const run = hub.run('stuck', {
    [Symbol.asyncIterator]: () => ({
      next: () => new Promise<IteratorResult<{ data: 1 }>>(() => {}),
      return () {
        returned++
        return new Promise<IteratorResult<{ data: 1 }>>(() => {})
      }
    })
  })
  await turns()
  await run.stop()
  t.same(await run.ended, { state: 'stopped' })
  t.equal(returned, 1)
  t.same(await readAll(run.subscribe()), [])
})

t.test('stop() in the turn of the start: the source function is not called, a generator is returned', async (t) => {
  const hub = createHub()
  t.after(() => hub.close())
  let called = 0
  const run = hub.run('a', () => { called++; return [] })
  await run.stop()
  t.same(await run.ended, { state: 'stopped' })
  let returned = 0
  const other = hub.run('b', {
    [Symbol.asyncIterator]: () => ({
      next: async () => { called++; return { done: true as const, value: undefined } },
      return: async () => { returned++; return { done: true as const, value: undefined } }
    })
  })
  await other.stop()
  await turns()
  t.equal(called, 0)
  t.equal(returned, 1)
})

t.test('what a stopped source still yields, or throws, is nobody\'s concern', async (t) => {
  const errors: unknown[] = []
  const hub = createHub({ onError: (error) => errors.push(error) })
  t.after(() => hub.close())
  for (const late of ['yields', 'throws']) {
    const wait = deferred()
    const run = hub.run(late, (async function * () {
      yield { data: 1 }
      await wait.promise
      if (late === 'throws') throw new Error('too late')
      yield { data: 2 }
    })())
    await turns()
    await run.stop()
    wait.resolve()
    await turns()
    t.same(dataOf(await readAll(run.subscribe())), [1], late)
    t.same(await run.ended, { state: 'stopped' })
  }
  t.same(errors, [])
})

t.test('a source that fails ends its run; readers learn the end, and nothing of the error', async (t) => {
  const { app, errors } = await createLoggingApp(t)
  const error = new Error('the secret of the database')
  const run = app.sse.run('answer', async function * () {
    yield { data: 1 }
    throw error
  })
  app.get('/', async (request, reply) => reply.sse(run))
  const port = await listen(app)
  const end = await run.ended
  t.equal(end.state, 'failed')
  t.equal(end.error, error)
  const body = await fetchBody(t, port, '/')
  t.match(body, /data: 1\n\nid: fastify-typed-sse:finished\n\n$/)
  t.notMatch(body, 'secret')
  t.same(dataOf(await readAll(run.subscribe())), [1])
  t.equal(errors.length, 1, 'logged once')
  t.match(errors[0], { msg: "run 'answer' has failed", err: { message: error.message } })
})

t.test('a source that fails as it publishes to a channel that is closed has failed: its own run is not closed', async (t) => {
  const errors: unknown[] = []
  const hub = createHub({ onError: (error) => errors.push(error) })
  t.after(() => hub.close())
  const other = hub.channel('other')
  await other.close()
  async function * source () {
    yield { data: await other.publish({ data: 1 }) }
  }
  t.match(await hub.run('publishes', source).ended, { state: 'failed', error: { code: 'FST_SSE_CHANNEL_CLOSED' } })
  t.match(errors, [{ code: 'FST_SSE_CHANNEL_CLOSED' }], 'and is told')
})

t.test("what onEnd returns is recorded as the last event, however the run ends; what it returns nothing for isn't", async (t) => {
  const errors: [unknown, string][] = []
  const hub = createHub({ onError: (error, message) => errors.push([error, message]) })
  t.after(() => hub.close())
  const failure = new Error('out of tokens')
  const source = async function * () {
    yield { data: 1 }
    throw failure
  }
  const onEnd = ({ state }: RunEnd) => ({ event: 'end', data: state })
  const failed = hub.run('failed', source, { onEnd })
  t.same((await readAll(failed.subscribe())).map(({ event, data }) => [event, data]), [['message', 1], ['end', 'failed']])
  t.same(await failed.ended, { state: 'failed', error: failure })
  t.same(dataOf(await readAll(hub.run('done', [{ data: 1 }], { onEnd }).subscribe())), [1, 'done'])
  const stopped = hub.run('stopped', idleSource({ data: 1 }).source, { onEnd })
  await stopped.subscribe()[Symbol.asyncIterator]().next()
  await stopped.stop()
  t.same(dataOf(await readAll(stopped.subscribe())), [1, 'stopped'])
  t.same(dataOf(await readAll(hub.run('silent', source, { onEnd: () => undefined }).subscribe())), [1])

  errors.length = 0
  const broken = new Error('onEnd itself')
  const failing = hub.run('failing', source, { onEnd () { throw broken } })
  t.same(dataOf(await readAll(failing.subscribe())), [1], 'an onEnd that fails leaves the end')
  t.equal((await failing.ended).error, failure)
  t.same(errors.map(([error]) => error), [failure, broken])
  const invalid = hub.run('invalid', source, { onEnd: () => ({ data: 1, id: 5 }) })
  t.same(dataOf(await readAll(invalid.subscribe())), [1])
  t.equal((await invalid.ended).error, failure)
})

t.test('what is no source, and a source function that throws, fail the run and nothing else', async (t) => {
  const hub = createHub({ onError () {} })
  t.after(() => hub.close())
  t.match(await hub.run('number', 5 as never).ended, { state: 'failed', error: { code: 'FST_SSE_INVALID_SOURCE' } })
  const error = new Error('at once')
  const end = await hub.run('throws', () => { throw error }).ended
  t.equal(end.error, error)
  t.same(await readAll(hub.run.attach('number').subscribe()), [])
})

t.test('an invalid event fails the run, or is left out', async (t) => {
  const { app, errors } = await createLoggingApp(t)
  const events = { n: Type.Number() }
  const source = function * () {
    yield { event: 'n' as const, data: 1 }
    yield { event: 'n' as const, data: 'two' as never }
    yield { event: 'n' as const, data: 3 }
  }
  let finished = false
  const failing = app.sse.run('fail', function * () {
    try {
      yield * source()
    } finally {
      finished = true
    }
  }, { events })
  t.match(await failing.ended, { state: 'failed', error: { code: 'FST_SSE_INVALID_EVENT' } })
  t.equal(finished, true, 'its source is let go of')
  t.same(dataOf(await readAll(failing.subscribe())), [1])
  t.equal(errors.length, 1)
  const dropping = app.sse.run('drop', source, { events, onInvalidEvent: 'drop' })
  t.same(dataOf(await readAll(dropping.subscribe())), [1, 3])
  t.same(await dropping.ended, { state: 'done' })
  t.equal(errors.length, 2, 'a line for what was dropped')
  t.match(errors[1]!.msg, /invalid event of run 'drop' dropped/)
})

t.test('events of a run are serialised by its schemas, and fit a route that declares them', async (t) => {
  const app = await createApp(t)
  const events = { token: Type.Object({ text: Type.String() }), message: Type.String() }
  const source = function * () {
    yield { event: 'token' as const, data: { text: 'a', secret: 1 } }
    yield 'text'
  }
  const run = app.sse.run('typed', source, { events })
  const { token } = events
  app.get('/', { schema: { events } }, async (request, reply) => reply.sse(run))
  app.get('/attached', { schema: { events } }, async (request, reply) => reply.sse(app.sse.run.attach('typed', { events })))
  app.get('/other', { schema: { events: { token } } }, async (request, reply) => reply.sse(run as never))
  const port = await listen(app)
  for (const path of ['/', '/attached']) {
    t.match(await fetchBody(t, port, path), /event: token\ndata: \{"text":"a"\}\n\nid: \S+\ndata: text\n\nid: /)
  }
  const other = await app.inject('/other')
  t.equal(other.statusCode, 500)
  t.equal(other.json().code, 'FST_SSE_INVALID_SOURCE')
})

t.test('attach with events fits its route also where others have attached without', async (t) => {
  const broker = memoryBroker()
  const elsewhere = createHub({ broker })
  t.after(() => elsewhere.close())
  const app = await createApp(t, { broker })
  const events = { n: Type.Number() }
  await elsewhere.run('key', [{ event: 'n' as const, data: 1 }], { events }).ended
  const untyped = app.sse.run.attach('key')
  app.get('/', { schema: { events } }, async (request, reply) => reply.sse(app.sse.run.attach('key', { events })))
  t.match((await app.inject('/')).body, /event: n\ndata: 1\n\n/)
  t.same(dataOf(await readAll(untyped.subscribe())), [1])
})

t.test('a run is forgotten some time after its end: then it is unknown, and its key starts anew', async (t) => {
  const clock = ownClock(t)
  const app = await createApp(t)
  app.get('/', async (request, reply) => reply.sse(app.sse.run.attach('answer')))
  let started = 0
  const start = () => app.sse.run('answer', () => [{ data: ++started }], { forgetAfter: 60_000 })
  const run = start()
  await run.ended
  const port = await listen(app)
  await clock.tickAsync(59_999)
  t.match(await fetchBody(t, port, '/'), 'data: 1\n\n')
  t.equal(start(), run)
  await clock.tickAsync(1)
  const response = await app.inject('/')
  t.equal(response.statusCode, 404)
  t.match(response.json(), { statusCode: 404, code: 'FST_SSE_UNKNOWN_RUN' })
  await t.rejects(readAll(run.subscribe()), { code: 'FST_SSE_UNKNOWN_RUN' }, 'though somebody may still hold it')
  await clock.tickAsync(100)
  const again = start()
  t.not(again, run)
  t.same(await again.ended, { state: 'done' })
  t.match(await fetchBody(t, port, '/'), 'data: 2\n\n')
})

t.test('a run that has not ended is not forgotten', async (t) => {
  const clock = ownClock(t)
  const hub = createHub()
  t.after(() => hub.close())
  const { source } = idleSource({ data: 1 })
  const run = hub.run('long', source, { forgetAfter: 1 })
  await clock.tickAsync(86_400_000)
  t.equal(hub.run('long', []), run)
  const { seen } = readOn(hub.run.attach('long').subscribe())
  await turns()
  t.same(dataOf(seen), [1])
})

t.test('forgetAfter is no longer than Node can time', async (t) => {
  const hub = createHub()
  const wrong = { code: 'FST_SSE_INVALID_OPTION', message: /'forgetAfter' of run 'key' must be an integer of milliseconds from 1 to/ }
  for (const forgetAfter of [0, 2 ** 31 - 1, NaN, false]) t.throws(() => hub.run('key', [], { forgetAfter: forgetAfter as number }), wrong)
  t.same(await hub.run('key', [], { forgetAfter: 2_061_083_647 }).ended, { state: 'done' })
})

t.test('who attaches to an unknown key is answered with 404 by the error handler, or with a rejection', async (t) => {
  const app = await createApp(t)
  app.setErrorHandler((error: Error & { statusCode?: number, code?: string }, request, reply) => {
    reply.code(error.statusCode ?? 500).send({ handled: error.code })
  })
  app.get('/', async (request, reply) => reply.sse(app.sse.run.attach('nothing')))
  const response = await app.inject('/')
  t.equal(response.statusCode, 404)
  t.same(response.json(), { handled: 'FST_SSE_UNKNOWN_RUN' })
  t.match(app.sse.stats(), { closed: { superseded: 1, 'source-threw': 0 } }, 'nothing has failed')
  const resumed = await app.inject({ url: '/', headers: { 'last-event-id': '5-5' } })
  t.equal(resumed.statusCode, 404, 'also who comes back with an ID')
  const iterator = app.sse.run.attach('nothing').subscribe()[Symbol.asyncIterator]()
  await t.rejects(iterator.next(), { code: 'FST_SSE_UNKNOWN_RUN' })
  t.same(await iterator.next(), { done: true, value: undefined })
})

t.test('whoever attached before the run was started can read it once it is there', async (t) => {
  const hub = createHub()
  t.after(() => hub.close())
  const before = hub.run.attach('key')
  const subscription = before.subscribe()
  await t.rejects(readAll(subscription), { code: 'FST_SSE_UNKNOWN_RUN' })
  const run = hub.run('key', [{ data: 1 }])
  t.same(dataOf(await readAll(subscription)), [1])
  t.same(dataOf(await readAll(hub.run.attach('key').subscribe())), [1])
  t.same(dataOf(await readAll(run.subscribe())), [1])
  t.equal(before.key, 'key')
})

t.test('a run can be read from its start, from an ID, or with what comes next; filtered', async (t) => {
  const hub = createHub()
  t.after(() => hub.close())
  const run = hub.run('key', [{ data: 1 }, { data: 2 }, { data: 3 }])
  const events = await readAll(run.subscribe())
  t.same(dataOf(events), [1, 2, 3])
  t.same(dataOf(await readAll(run.subscribe({ after: 'earliest' }))), [1, 2, 3])
  t.same(dataOf(await readAll(run.subscribe({ after: events[1]!.id }))), [3])
  t.same(dataOf(await readAll(run.subscribe({ filter: ({ data }) => data !== 2 }))), [1, 3])
  const aborted = new AbortController()
  aborted.abort()
  t.same(await readAll(run.subscribe({ signal: aborted.signal })), [])
})

t.test('a source that has not yielded yet has readers, who wait', async (t) => {
  const app = await createApp(t)
  const { source, push, end } = pushSource()
  const run = app.sse.run('slow', source)
  const reader = readOn(run.subscribe())
  await turns()
  t.same(reader.seen, [])
  push(1)
  end()
  await reader.ended
  t.same(dataOf(reader.seen), [1])
})

t.test('app.close() stops the runs', async (t) => {
  const app = await createApp(t)
  const { state, source } = idleSource({ data: 1 })
  const run = app.sse.run('answer', source)
  const reader = readOn(run.subscribe())
  await app.ready()
  await turns()
  await app.close()
  t.same(await run.ended, { state: 'stopped' })
  t.equal(state.aborted, true)
  await until(() => state.finished)
  await reader.ended
  t.same(dataOf(reader.seen), [1])
})

t.test('of two hubs on one broker one records a run, and both read it', async (t) => {
  const broker = memoryBroker()
  const here = createHub({ broker })
  const there = createHub({ broker })
  t.after(() => Promise.all([here.close(), there.close()]))
  const { source, push, end } = pushSource()
  const run = here.run('key', source)
  let called = 0
  const other = there.run('key', () => { called++; return [] })
  t.same(await other.ended, { state: 'elsewhere' })
  t.equal(called, 0)
  const readers = [run, other, there.run.attach('key'), here.run.attach('key')].map((each) => readOn(each.subscribe()))
  push(1)
  await turns()
  t.same(await there.run('key', []).ended, { state: 'elsewhere' }, 'who asks again learns the same')
  push(2)
  end()
  for (const { seen, ended } of readers) {
    await ended
    t.same(dataOf(seen), [1, 2])
  }
  t.same(await run.ended, { state: 'done' })
})

t.test('anybody who has the key can stop a run, from another hub too', async (t) => {
  const broker = memoryBroker()
  const here = createHub({ broker })
  const there = createHub({ broker })
  const { state, source } = idleSource({ data: 1 })
  const run = here.run('key', source)
  const reader = readOn(there.run.attach('key').subscribe())
  await until(() => reader.seen.length === 1)
  await there.run.attach('key').stop()
  t.same(await run.ended, { state: 'stopped' })
  t.ok(state.aborted)
  await reader.ended
  t.same(dataOf(reader.seen), [1])
  await there.run.attach('key').stop()
  const again = here.run('other', idleSource().source)
  await here.run.attach('other').stop()
  t.same(await again.ended, { state: 'stopped' }, 'and in the same hub')
})

t.test('to stop a run that nobody has started is an error, and does not make it known', async (t) => {
  const hub = createHub()
  await t.rejects(hub.run.attach('key').stop(), { code: 'FST_SSE_UNKNOWN_RUN', statusCode: 404 })
  await t.rejects(readAll(hub.run.attach('key').subscribe()), { code: 'FST_SSE_UNKNOWN_RUN' })
  t.same(await hub.run('key', []).ended, { state: 'done' })
})

t.test('a hub that closes does not end a run that is recorded elsewhere; who stops it does, known yet or not', async (t) => {
  const broker = memoryBroker()
  const here = createHub({ broker })
  t.after(() => here.close())
  const { source, push, end } = pushSource()
  const run = here.run('key', source)
  await turns()
  const closing = createHub({ broker })
  closing.run('key', [])
  await closing.close()
  push(1)
  end()
  t.same(await run.ended, { state: 'done' })
  t.same(dataOf(await readAll(run.subscribe())), [1])

  const long = here.run('long', idleSource().source)
  await turns()
  const there = createHub({ broker })
  await there.run('long', []).stop()
  t.same(await long.ended, { state: 'stopped' })
})

t.test('a source that always has a next event gives way to timers and to other requests', async (t) => {
  const app = await createApp(t)
  let yielded = 0
  const run = app.sse.run('flood', function * () {
    for (;;) yield { data: yielded++ }
  }, { history: { events: 10 } })
  app.get('/other', async () => 'served')
  const port = await listen(app)
  await sleep(5)
  t.match(await fetch(`http://127.0.0.1:${port}/other`).then((response) => response.text()), 'served')
  const before = yielded
  await turns(5)
  t.ok(yielded > before, 'and goes on')
  await run.stop()
  const dropped = app.sse.run('invalid flood', function * () {
    for (;;) yield { event: 'gap', data: yielded++ }
  }, { onInvalidEvent: 'drop' })
  await sleep(5)
  await dropped.stop()
  t.same(await dropped.ended, { state: 'stopped' })
})

t.test('HEAD is answered without a stream, and starts no reading', async (t) => {
  const app = await createApp(t)
  app.get('/', async (request, reply) => reply.sse(app.sse.run('answer', [{ data: 1 }])))
  const response = await app.inject({ method: 'HEAD', url: '/' })
  t.equal(response.statusCode, 200)
  t.match(response.headers['content-type'], /^text\/event-stream/)
  t.equal(response.body, '')
  t.equal(app.sse.stats().opened, 0)
})

t.test('a late reader of a run whose history is smaller than its output is told a gap', async (t) => {
  const app = await createApp(t)
  const run = app.sse.run('long', Array.from({ length: 10 }, (_, index) => ({ data: index })), { history: { events: 3 } })
  app.get('/', async (request, reply) => reply.sse(run))
  await run.ended
  const [gap, ...rest] = await readAll(run.subscribe())
  t.equal(gap!.event, 'gap')
  t.same(gap!.data, { requested: '0-0', earliest: rest[0]!.id })
  t.same(dataOf(rest), [7, 8, 9])
  t.same(dataOf(await readAll(run.subscribe({ after: 'earliest' }))), [7, 8, 9], "'earliest' is what there is")
  const body = await fetchBody(t, await listen(app), '/')
  t.match(body, /event: gap\ndata: \{"requested":"0-0","earliest":"\S+"\}\n\n/)
  t.same(body.match(/(?<=data: )\d/g), ['7', '8', '9'])
  t.equal(app.sse.stats().gaps, 1)
})

t.test('keys and options that are wrong are refused', async (t) => {
  const hub = createHub()
  t.after(() => hub.close())
  const code = 'FST_SSE_INVALID_OPTION'
  for (const key of ['', 5, undefined, '\uD800']) {
    t.throws(() => hub.run(key as string, []), { code }, `key ${key}`)
    t.throws(() => hub.run.attach(key as string), { code }, `key ${key}`)
  }
  for (const options of [
    { forgetafter: 1 }, { forgetAfter: 0 }, { forgetAfter: false }, { forgetAfter: 1.5 }, { onEnd: 'log' },
    { onInvalidEvent: 'ignore' }, { history: 5 }, { history: { events: 0 } }, { history: { entries: 1 } }, { history: { age: 0 } },
    { events: 5 }, { events: { gap: Type.Number() } }, { snapshot: () => [] }, 5, null
  ]) t.throws(() => hub.run('key', [], options as never), { code }, JSON.stringify(options))
  t.throws(() => hub.run('key', [], { events: { a: { type: 'nothing' } } }), { code: 'FST_SSE_INVALID_SCHEMA' })
  const run = hub.run('key', [{ data: 1 }])
  t.same(dataOf(await readAll(run.subscribe())), [1], 'a refused call has started nothing')
  for (const options of [{ after: 5 }, { filter: true }, { signal: {} }, { before: '1-1' }]) {
    t.throws(() => run.subscribe(options as never), { code }, JSON.stringify(options))
    t.throws(() => hub.run.attach('key').subscribe(options as never), { code })
  }
})

t.test('keys that nobody has started leave nothing, however many are asked for', async (t) => {
  const hub = createHub()
  t.after(() => hub.close())
  const ask = async (from: number, to: number) => {
    for (let key = from; key < to; key++) await readAll(hub.run.attach(`key ${key}`).subscribe()).catch(() => {})
    await collect()
    return process.memoryUsage().heapUsed
  }
  const before = await ask(0, 5_000)
  const after = await ask(5_000, 25_000)
  t.ok(after - before < 20_000 * 50, `${Math.round((after - before) / 20_000)} bytes are left of each`)
})
