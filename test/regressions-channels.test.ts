/** What channels once did wrong, each as the behaviour that it should have been. */
import type { FastifyInstance } from 'fastify'
import { Readable } from 'node:stream'
import t, { type Test } from 'tap'
import { createHub, memoryBroker, type Broker, type Listener, type ReceivedEvent, type SseChannel } from '../index.ts'
import { compareEntryIds } from '../lib/entry-id.ts'
import { untilBehind } from './behind.ts'
import { FarBroker } from './far-broker.ts'
import {
  brokerWith, connect, createApp, dataOf, deferred, idleSource, listen, noteProcess, ownClock, readOn, turns, until
} from './helpers.ts'

/** The most that is counted between two turns of the event loop, until it is stopped. */
function mostPerTurn () {
  const state = { count: 0, most: 0, stopped: false }
  const look = () => {
    state.most = Math.max(state.most, state.count)
    state.count = 0
    if (!state.stopped) setImmediate(look)
  }
  setImmediate(look)
  return state
}

/** Reads of 100,000 events the last one alone, which must not take up a turn of the event loop. */
async function readsLastInTurns (
  t: Test, app: FastifyInstance, channel: SseChannel<any>, by: string, after?: string
): Promise<void> {
  const loop = mostPerTurn()
  const subscription = channel.subscribe({
    after,
    filter ({ data }) {
      loop.count++
      return data === 99_999
    }
  })
  if (by === 'HTTP') {
    app.get('/', (_, reply) => reply.sse(subscription))
    await connect(t, await listen(app)).get('/').until('data: 99999')
  } else {
    for await (const { data } of subscription) if (data === 99_999) break
  }
  loop.stopped = true
  await turns(2)
  t.ok(loop.most < 20_000, `at most ${loop.most} events in a turn`)
}

/** Nothing takes any time, but it can be told to lose its way. */
function near (): FarBroker {
  return new FarBroker(1, { turns: 0 })
}

for (const onLag of ['disconnect', 'gap'] as const) {
  t.test(`a client that is behind when one turn publishes more than is held for it is told so (onLag '${onLag}')`, async (t) => {
    const app = await createApp(t, { writeTimeout: false, keepAlive: false })
    const channel: SseChannel<any> = app.sse.channel('a', { history: { events: 3, bytes: 1e9 }, onLag } as object)
    app.get('/', (_, reply) => reply.sse(channel))
    const client = connect(t, await listen(app)).get('/')
    await client.until('id: ')
    await turns()
    client.socket.pause()
    const text = 'x'.repeat(262_144)
    let published = 0
    const ids: string[] = []
    await untilBehind(app.sse, async () => {
      ids.push(await channel.publish({ raw: `${published++} ${text}` }))
      await turns(4)
    })
    ids.push(...await Promise.all(Array.from({ length: 60 }, () => channel.publish({ raw: `${published++} ${text}` }))))
    await turns()
    client.socket.resume()
    await until(() => app.sse.stats().closed.lagged === 1 || client.received.includes(`data: ${published - 1} `))
    if (app.sse.stats().closed.lagged === 0) await until(() => client.received.endsWith('x\n\n\r\n'))
    if (onLag === 'disconnect') await client.until(/\r\n0\r\n\r\n$/)
    const blocks = client.body.split('\n\n').slice(0, -1).map((block) => ({
      n: /^data: (\d+) /m.exec(block)?.[1], gap: /^event: gap\ndata: (.*)$/m.exec(block)?.[1]
    }))
    let next = 0
    let told = 0
    for (const { n, gap } of blocks) {
      if (gap !== undefined) {
        told++
        next = ids.indexOf(JSON.parse(gap).earliest)
      } else if (n !== undefined) {
        t.equal(Number(n), next++)
      }
    }
    if (next < published) t.equal(app.sse.stats().closed.lagged, 1, `cut off at ${next} of ${published}, and told`)
    else t.ok(told > 0 || blocks.length >= published, 'told of a gap, or given everything')
    t.equal(app.sse.stats().gaps, told)
  })
}

t.test('pipelined requests whose streams have ended before their turn leave nobody listening', async (t) => {
  const broker = near()
  const app = await createApp(t, { broker })
  const channel = app.sse.channel('a')
  app.get('/first', (_, reply) => reply.sse(channel))
  app.get('/', (_, reply) => reply.sse(channel, { maxDuration: 10 }))
  app.get('/several', (_, reply) => reply.sse(app.sse.subscribe([channel]), { maxDuration: 10 }))
  const client = connect(t, await listen(app)).get('/first')
  await client.until('id: ')
  for (const path of ['/', '/several', '/', '/several']) client.get(path)
  await until(() => app.sse.stats().closed['max-duration'] === 4)
  t.equal(broker.listeners, 1)
  for (const connection of app.sse.connections) connection.end()
  await client.until(/(HTTP\/1.1 200 OK[^]*){5}/)
  await turns(50)
  t.equal(broker.listeners, 0)
  t.equal(app.sse.stats().open, 0)
})

t.test('1,100 readers who keep up are not cut off by a burst larger than the history', async (t) => {
  const hub = createHub()
  t.after(() => hub.close())
  const channel = hub.channel('a', { history: { events: 100 } })
  const readers = Array.from({ length: 1_100 }, () => readOn(channel.subscribe()))
  await turns()
  const publish = (from: number, to: number) => {
    for (let data = from; data < to; data++) channel.publish({ data })
  }
  publish(0, 50)
  await turns(1)
  publish(50, 200)
  const expected = Array.from({ length: 200 }, (_, data) => data)
  await until(() => readers.every(({ seen, result }) => seen.length >= 200 || result.done))
  t.equal(readers.filter(({ result }) => result.error !== undefined).length, 0, 'nobody lagged')
  t.equal(readers.filter(({ seen }) => JSON.stringify(dataOf(seen)) !== JSON.stringify(expected)).length, 0)
})

t.test("a reader who is past where the broker has lost its way is given all that is new (onLag 'latest')", async (t) => {
  const inner = memoryBroker()
  let listener!: Listener
  let isMuted = false
  const broker = brokerWith(inner, {
    listen (channel, its) {
      listener = its
      return inner.listen(channel, { ...its, entry: (entry) => { if (!isMuted) its.entry(entry) } })
    }
  })
  const hub = createHub({ broker })
  t.after(() => hub.close())
  const channel = hub.channel('a', { onLag: 'latest', key: () => 'one for all', history: { events: 10 } })
  const { seen } = readOn(channel.subscribe())
  await turns()
  const first = await channel.publish({ data: 0 })
  await channel.publish({ data: 1 })
  await until(() => seen.length === 2)
  isMuted = true
  for (const data of [2, 3]) await channel.publish({ data })
  // As Redis does for a stream that was trimmed further than one of its readers had come.
  const { entries } = await broker.read('a', first, { entries: 10, bytes: 1_000 })
  listener.lost(first)
  for (const entry of entries) listener.entry(entry)
  await until(() => dataOf(seen).at(-1) === 3)
  t.same(dataOf(seen), [0, 1, 2, 3])
})

t.test('a reader whose events an engine has lost, as it came back with an older copy, is told of a gap', async (t) => {
  const inner = memoryBroker()
  let listener!: Listener
  let lost = ''
  const broker = brokerWith(inner, {
    listen (channel, its) {
      listener = its
      return inner.listen(channel, its)
    },
    // The copy ends with the first event: nobody knows what followed the second one.
    async read (name, after, most) {
      return { ...await inner.read(name, after, most), complete: after !== lost }
    }
  })
  const hub = createHub({ broker })
  t.after(() => hub.close())
  const channel = hub.channel('a', { onLag: 'gap', history: { events: 10 } })
  const { seen } = readOn(channel.subscribe())
  await turns()
  const old = await channel.publish({ data: 0 })
  lost = await channel.publish({ data: 1 })
  await until(() => seen.length === 2)
  listener.lost(old)
  await channel.publish({ data: 2 })
  await until(() => dataOf(seen).at(-1) === 2)
  t.match(seen[2], { event: 'gap', data: { requested: lost } })
})

t.test("a reader who has missed nothing when the broker has lost its way goes on (onLag 'latest')", async (t) => {
  const broker = near()
  const app = await createApp(t, { broker })
  const channel = app.sse.channel('a', { onLag: 'latest', key: ({ data }) => data, history: { events: 10 } })
  app.get('/', (_, reply) => reply.sse(channel))
  const client = connect(t, await listen(app)).get('/')
  await client.until('id: ')
  const { seen } = readOn(channel.subscribe())
  await turns()
  for (let round = 1; round <= 3; round++) {
    await channel.publish({ data: round })
    await until(() => seen.length === round)
    await client.until(`data: ${round}\n\n`)
    broker.comeBack()
    await turns(50)
  }
  t.ok(broker.calls.read <= 6, `${broker.calls.read} reads`)
  t.equal(app.sse.stats().lags, 0)
  t.same(dataOf(seen), [1, 2, 3])
  t.equal(broker.timesLost, 3)
})

for (const from of ['what is read back', 'what the process has'] as const) {
  for (const by of ['for await', 'HTTP'] as const) {
    t.test(`a long replay of which nothing is wanted makes way for others (${from}, by ${by})`, async (t) => {
      const app = await createApp(t)
      const channel = app.sse.channel('a', { history: { events: 1e6, bytes: 1e9 } })
      if (from === 'what the process has') readOn(channel.subscribe({ filter: () => false }))
      await turns()
      for (let data = 0; data < 100_000; data++) channel.publish({ data })
      await turns()
      await readsLastInTurns(t, app, channel, by, 'earliest')
    })
  }
}

function * rows () {
  for (let data = 0; data < 100_000; data++) yield { data }
}

async function * asyncRows () {
  yield * rows()
}

for (const [by, snapshot] of [['for await', rows], ['HTTP', rows], ['for await, async', asyncRows]] as const) {
  t.test(`a snapshot of many rows of which none is wanted makes way for others (by ${by})`, async (t) => {
    const app = await createApp(t)
    await readsLastInTurns(t, app, app.sse.channel('a', { snapshot }), by)
  })
}

t.test('a filter that gives a promise fails its reading, and lets nothing through', async (t) => {
  const noted = noteProcess(t)
  const app = await createApp(t)
  const channel = app.sse.channel('a', { snapshot: () => [{ data: 'state' }] })
  const quiet = app.sse.channel('b')
  const filters = [async () => true, async () => false, async () => { throw new Error('in the filter') }]
  const readers = filters.flatMap((filter) => [
    readOn(channel.subscribe({ filter })), readOn(quiet.subscribe({ filter })), readOn(app.sse.subscribe([quiet], { filter }))
  ])
  app.get('/', (_, reply) => reply.sse(quiet.subscribe({ filter: filters[2]! })))
  const client = connect(t, await listen(app)).get('/')
  await client.until('id: ')
  await turns()
  await channel.publish({ data: 1 })
  await quiet.publish({ data: 1 })
  await Promise.allSettled(readers.map(({ ended }) => ended))
  for (const { seen, result } of readers) {
    t.same(seen, [])
    t.match(result.error, { name: 'TypeError', message: 'promise' })
  }
  await until(() => app.sse.stats().closed['source-threw'] === 1)
  t.notMatch(client.body, 'data: ')
  await turns(50)
  t.same(noted, [])
})

t.test('a key, and an onEnd, that give promises are told to onError', async (t) => {
  const noted = noteProcess(t)
  const errors: [any, string][] = []
  const hub = createHub({ onError: (error, message) => errors.push([error, message]) })
  t.after(() => hub.close())
  const channel = hub.channel('a', { onLag: 'latest', async key () { throw new Error('in the key') } })
  const { seen } = readOn(channel.subscribe())
  await turns()
  await channel.publish({ data: 1 })
  await until(() => seen.length === 1)
  const run = hub.run('key', [{ data: 1 }], { onEnd: (async () => { throw new Error('in onEnd') }) as never })
  t.same(await run.ended, { state: 'done' })
  const recorded = readOn(run.subscribe())
  await recorded.ended
  t.same(dataOf(recorded.seen), [1])
  await turns(50)
  t.same(errors.map(([{ name }]) => name), ['TypeError', 'TypeError'])
  t.same(noted, [])
})

t.test('who starts a run can read it at once, though the broker does not know of it yet', async (t) => {
  const app = await createApp(t, { broker: new FarBroker(5, { turns: 30 }) })
  app.get('/:key', (request, reply) => {
    return reply.sse(app.sse.run((request.params as { key: string }).key, [{ data: 'recorded' }]))
  })
  for (let key = 0; key < 10; key++) {
    const { statusCode, body } = await app.inject(`/${key}`)
    t.equal(statusCode, 200)
    t.match(body, 'data: "recorded"')
  }
})

t.test('clients that ask for everything and read nothing hold one small page each, at the most', async (t) => {
  const inner = memoryBroker()
  const pages: { asked: number, given: number }[] = []
  const broker = brokerWith(inner, {
    async read (channel, after, most) {
      const page = await inner.read(channel, after, most)
      pages.push({ asked: most.bytes, given: page.entries.length })
      return page
    }
  })
  const app = await createApp(t, { broker, writeTimeout: false })
  const channel = app.sse.channel('a', { history: { events: 1e6, bytes: 1e9 } })
  for (let n = 0; n < 20_000; n++) channel.publish({ raw: 'x'.repeat(1_000) })
  app.get('/', (_, reply) => reply.sse(channel.subscribe({ after: 'earliest' })))
  const port = await listen(app)
  const clients = Array.from({ length: 20 }, () => connect(t, port).get('/'))
  for (const { socket } of clients) socket.pause()
  await untilBehind(app.sse, undefined, 20)
  t.ok(pages.every(({ asked, given }) => asked <= 65_536 && given <= 67), JSON.stringify(pages.slice(0, 10)))
  const written = app.sse.stats().bytes
  const given = pages.reduce((sum, page) => sum + page.given, 0)
  t.ok(given * 1_000 <= written + 20 * 2 * 65_536, `${given} entries were read back, and ${written} bytes written`)
})

t.test('a name that is free again is a new channel, though somebody still reads the old one', async (t) => {
  const clock = ownClock(t)
  const hub = createHub()
  const channel = hub.channel('a', { history: { age: 1_000 } })
  const slow = channel.subscribe()[Symbol.asyncIterator]()
  const first = slow.next()
  await turns()
  for (const data of ['old 1', 'old 2']) await channel.publish({ data })
  t.equal((await first).value!.data, 'old 1')
  await channel.close()
  clock.tick(1_001)
  const fresh = readOn(hub.channel('a').subscribe())
  const all = readOn(hub.channel('a').subscribe({ after: 'earliest' }))
  await turns()
  await hub.channel('a').publish({ data: 'new' })
  await until(() => fresh.seen.length > 0 && all.seen.length > 0)
  t.same(dataOf(fresh.seen), ['new'])
  t.same(dataOf(all.seen), ['new'])
  t.equal(fresh.result.done, false)
  t.equal((await slow.next()).value!.data, 'old 2')
  t.same(await slow.next(), { done: true, value: undefined })
  await hub.channel('a').publish({ data: 'newer' })
  await until(() => fresh.seen.length === 2)
})

t.test('a run whose source function stops it has stopped, and its source is let go of', async (t) => {
  const hub = createHub()
  let returned = 0
  let asked = 0
  const run = hub.run('key', () => {
    run.stop()
    return {
      [Symbol.asyncIterator]: () => ({
        async next () {
          asked++
          return { done: false, value: { data: 1 } }
        },
        async return () {
          returned++
          return { done: true, value: undefined }
        }
      })
    }
  })
  t.same(await run.ended, { state: 'stopped' })
  await turns()
  t.same([asked, returned], [0, 1])
  const { seen, ended } = readOn(hub.run.attach('key').subscribe())
  await ended
  t.same(seen, [])
})

t.test('a synchronous generator that stops its own run is let go of', async (t) => {
  const hub = createHub()
  const steps: string[] = []
  const run = hub.run('key', function * () {
    try {
      yield { data: 1 }
      run.stop()
      yield { data: 2 }
      steps.push('went on')
    } finally {
      steps.push('finally')
    }
  })
  t.same(await run.ended, { state: 'stopped' })
  await turns()
  t.same(steps, ['finally'])
  const { seen, ended } = readOn(run.subscribe())
  await ended
  t.same(dataOf(seen), [1])
})

t.test('any number of readers may share one signal', async (t) => {
  const noted = noteProcess(t)
  const app = await createApp(t)
  const channel = app.sse.channel('a')
  const controller = new AbortController()
  const { signal } = controller
  app.get('/', (_, reply) => reply.sse(channel.subscribe({ signal })))
  const port = await listen(app)
  const clients = Array.from({ length: 30 }, () => connect(t, port).get('/'))
  const readers = Array.from({ length: 30 }, (_, reader) => {
    return readOn(reader % 2 === 0 ? channel.subscribe({ signal }) : app.sse.subscribe([channel], { signal }))
  })
  await Promise.all(clients.map((client) => client.until('id: ')))
  await turns()
  t.same(noted, [])
  controller.abort()
  await Promise.allSettled(readers.map(({ ended }) => ended))
  await until(() => app.sse.stats().closed.ended === 30)
})

t.test('a run that was stopped elsewhere has stopped, though its broker refuses an event before it tells of the end', async (t) => {
  const inner = memoryBroker()
  const broker = brokerWith(inner, {
    listen: (channel, listener) => inner.listen(channel, {
      entry: (entry) => listener.entry(entry), closed () {}, failed () {}, lost () {}
    })
  })
  const errors: unknown[] = []
  const here = createHub({ broker, onError: (error) => errors.push(error) })
  const there = createHub({ broker: inner })
  const goOn = deferred()
  let finished = false
  const run = here.run('key', async function * () {
    try {
      yield { data: 1 }
      await goOn.promise
      yield { data: 2 }
    } finally {
      finished = true
    }
  }, { onEnd: ({ state }) => ({ data: state }) })
  await turns()
  await there.run.attach('key').stop()
  goOn.resolve()
  t.same(await run.ended, { state: 'stopped' })
  await until(() => finished)
  t.same(errors, [])
})

t.test('a run that was stopped elsewhere has stopped, though its lease is refused before its broker tells of the end', async (t) => {
  const inner = memoryBroker()
  let outages = 2
  const broker = brokerWith(inner, {
    async listen (channel, listener) {
      const listening = await inner.listen(channel, { entry () {}, closed () {}, failed () {}, lost () {} })
      // Asked whether it is closed, it is out of reach twice.
      if (listening.closed && outages > 0) {
        outages--
        throw new Error('out of reach')
      }
      return listening
    }
  })
  const errors: unknown[] = []
  const here = createHub({ broker, onError: (error) => errors.push(error) })
  const there = createHub({ broker: inner })
  const { state, source } = idleSource({ data: 1 })
  const ends: unknown[] = []
  const clock = ownClock(t)
  const run = here.run('key', source, { lease: 300, onEnd: (end) => { ends.push(end) } })
  await turns()
  await there.run.attach('key').stop()
  await clock.tickAsync(299)
  t.equal(outages, 0, 'refused, and not told why')
  t.equal(state.finished, false)
  await clock.tickAsync(1)
  t.equal(state.finished, true)
  t.same(await run.ended, { state: 'stopped' })
  t.same(ends, [{ state: 'stopped' }])
  t.same(errors, [])
})

t.test('a hub, and an app, close though the broker never answers', async (t) => {
  for (const dead of ['close', 'append', 'open', 'listen'] as const) {
    const broker = new FarBroker(1, { turns: 0, silent: (method) => method === dead })
    const hub = createHub({ broker, onError () {} })
    hub.run('key', async function * () { yield { data: 1 } })
    const reader = readOn(hub.channel('a').subscribe())
    await turns()
    await t.resolves(hub.close(), `a hub whose broker does not answer '${dead}'`)
    await reader.ended
  }
  const app = await createApp(t, { broker: new FarBroker(1, { turns: 0, silent: (method) => method === 'close' }) })
  app.get('/', (_, reply) => reply.sse(app.sse.run('key', async function * () {
    yield { data: 1 }
    await new Promise(() => {})
  })))
  const client = connect(t, await listen(app)).get('/')
  await client.until('data: 1')
  await t.resolves(app.close())
})

t.test('who publishes to the channel that he reads does not keep timers from their turn', async (t) => {
  const hub = createHub()
  t.after(() => hub.close())
  const channel = hub.channel('a')
  let events = 0
  const loop = mostPerTurn()
  let fired = false
  const iterator = channel.subscribe()[Symbol.asyncIterator]()
  const first = iterator.next()
  await turns()
  await channel.publish({ data: 0 })
  await first
  await channel.publish({ data: 0 })
  setTimeout(() => { fired = true }, 1)
  for await (const { data } of iterator as AsyncIterable<ReceivedEvent>) {
    loop.count++
    if (fired || ++events > 200_000) break
    await channel.publish({ data: (data as number) + 1 })
  }
  loop.stopped = true
  t.equal(fired, true)
  t.ok(loop.most <= 1_000, `${loop.most} events in a turn`)
})

for (const delay of [0, 10]) {
  t.test(`1,000 readers who wait when the broker has lost its way are served by one read (${delay} turns away)`, async (t) => {
    const broker = near()
    const whole = broker.read.bind(broker)
    broker.read = async (...args) => {
      await turns(delay)
      return whole(...args)
    }
    const hub = createHub({ broker })
    t.after(() => hub.close())
    const channel = hub.channel('a')
    const readers = Array.from({ length: 1_000 }, () => readOn(channel.subscribe()))
    await turns()
    await channel.publish({ data: 1 })
    await until(() => readers.every(({ seen }) => seen.length === 1))
    broker.leave()
    for (const data of [2, 3]) await channel.publish({ data })
    broker.comeBack()
    await until(() => readers.every(({ seen }) => seen.length === 3))
    await turns(50)
    t.ok(readers.every(({ seen }) => dataOf(seen).join() === '1,2,3'))
    // A near broker has answered before all of them are told, as that takes eight turns.
    t.ok(broker.calls.read <= (delay === 0 ? 8 : 1), `${broker.calls.read} reads`)
    await channel.publish({ data: 4 })
    await until(() => readers.every(({ seen }) => seen.length === 4))
  })
}

t.test('a page that was asked for before the broker lost its way is not taken for what is there since', async (t) => {
  const log = ['1-1']
  const held = deferred()
  const reads: string[] = []
  let told!: Listener
  const entryOf = (id: string) => ({ id, message: { event: '', data: `"${id}"` } })
  const broker: Broker = {
    open: async () => true,
    append: async () => { throw new Error('not here') },
    close: async () => {},
    async read (_, after = '0-0') {
      reads.push(after)
      // It sees what there is when it is asked; the first answer takes its time.
      const page = { after, entries: log.filter((id) => compareEntryIds(id, after) > 0).map(entryOf), complete: true }
      if (reads.length === 1) await held.promise
      return page
    },
    async listen (_, listener) {
      told = listener
      return { position: '1-0', closed: false, known: true, stop () {} }
    }
  }
  const hub = createHub({ broker })
  t.after(() => hub.close())
  const channel = hub.channel('a')
  const waiting = readOn(channel.subscribe())
  const slow = channel.subscribe()[Symbol.asyncIterator]()
  const first = slow.next()
  await turns()
  told.entry(entryOf('1-1'))
  t.equal((await first).value!.data, '1-1')
  await until(() => waiting.seen.length === 1)
  // Nothing was missed, but the position is a later one.
  told.lost('1-5')
  await until(() => reads.length === 1)
  log.push('1-6', '1-7')
  told.lost('1-7')
  const rest = [slow.next(), slow.next(), slow.next()]
  await turns(50)
  held.resolve()
  await turns(50)
  log.push('1-8')
  told.entry(entryOf('1-8'))
  await until(() => waiting.seen.at(-1)?.data === '1-8')
  t.same(dataOf(waiting.seen), ['1-1', '1-6', '1-7', '1-8'])
  const given = await Promise.race([Promise.all(rest), turns(200)])
  t.same(given?.map(({ value }) => value?.data), ['1-6', '1-7', '1-8'], 'the slow one has missed nothing')
})

t.test('a page that could not be read is asked for anew, also by who asks again at once', async (t) => {
  const inner = memoryBroker()
  let failures = 3
  const hub = createHub({
    broker: brokerWith(inner, {
      async read (...args) {
        if (failures-- > 0) throw new Error('not now')
        return inner.read(...args)
      }
    })
  })
  t.after(() => hub.close())
  const channel = hub.channel('a')
  // Somebody else reads, so that what the process has of the channel stays.
  readOn(channel.subscribe())
  await channel.publish({ data: 1 })
  const reasons: unknown[] = []
  while (reasons.length < 5) {
    try {
      const { value } = await channel.subscribe({ after: 'earliest' })[Symbol.asyncIterator]().next()
      t.equal(value!.data, 1)
      break
    } catch (error) {
      reasons.push((error as Error).message)
    }
  }
  t.same(reasons, ['not now', 'not now', 'not now'])
})

t.test('a snapshot that rejects before it is asked for harms only its reader', async (t) => {
  const hub = createHub()
  t.after(() => hub.close())
  const goOn = deferred()
  const slow = hub.channel('slow', {
    async * snapshot () {
      await goOn.promise
      yield { data: 'slow' }
    }
  })
  const broken = hub.channel('broken', { snapshot: async () => { throw new Error('no rows') } })
  const unhandled: unknown[] = []
  const note = (error: unknown) => unhandled.push(error)
  process.on('unhandledRejection', note)
  t.after(() => process.removeListener('unhandledRejection', note))
  const reader = readOn(hub.subscribe([slow, broken]))
  await turns()
  t.same(unhandled, [])
  goOn.resolve()
  await t.rejects(reader.ended, { message: 'no rows' })
})

t.test('what a snapshot promised is let go of when its reader has gone meanwhile', async (t) => {
  const hub = createHub()
  t.after(() => hub.close())
  const promised = deferred<Readable>()
  const channel = hub.channel('a', { snapshot: () => promised.promise as Promise<any> })
  const iterator = channel.subscribe()[Symbol.asyncIterator]()
  const next = iterator.next()
  await turns()
  await iterator.return!()
  t.same(await next, { done: true, value: undefined })
  const rows = Readable.from([{ data: 1 }])
  promised.resolve(rows)
  await until(() => rows.destroyed)
})

t.test("onLag 'latest' tells of a gap where what was newest is no longer there when the reader goes on", async (t) => {
  const hub = createHub()
  t.after(() => hub.close())
  const channel = hub.channel('a', { history: { events: 100 }, onLag: 'latest', key: ({ data }) => (data as { key: number }).key })
  const publish = async (from: number, to: number) => {
    for (let key = from; key < to; key++) {
      channel.publish({ data: { key, text: 'x'.repeat(2_000) } })
      if (key % 10 === 9) await turns(1)
    }
  }
  const iterator = channel.subscribe()[Symbol.asyncIterator]()
  const first = iterator.next()
  await publish(0, 10)
  await first
  await publish(10, 90)
  await publish(10, 90)
  const seen: unknown[] = []
  while (seen.length < 40) seen.push((await iterator.next()).value!.event)
  t.notOk(seen.includes('gap'), 'the newest of all keys are there')
  await publish(200, 400)
  while (seen.length < 80) seen.push((await iterator.next()).value!.event)
  t.ok(seen.includes('gap'), 'then some of them are not')
})

t.test('who has asked for two events at once is urged like anybody else', async (t) => {
  const hub = createHub()
  t.after(() => hub.close())
  const channel = hub.channel('a', { history: { events: 10 }, onLag: 'gap' })
  const iterator = channel.subscribe()[Symbol.asyncIterator]()
  const seen: unknown[] = []
  const ask = async (): Promise<void> => {
    const { done, value } = await iterator.next()
    if (done === true) return
    seen.push(value.event === 'gap' ? 'gap' : value.id)
    return ask()
  }
  const asking = [ask(), ask()]
  const ids: string[] = []
  for (let n = 0; n < 50; n++) {
    ids.push(await channel.publish({ raw: 'x'.repeat(100_000) }))
    await turns(2)
  }
  ids.push(...await Promise.all(Array.from({ length: 30 }, () => channel.publish({ raw: 'x'.repeat(100_000) }))))
  await until(() => seen.length >= ids.length)
  t.same(seen, ids)
  await hub.close()
  await Promise.all(asking)
})

t.test('what comes after a loss that is told before the position is known is not lost', async (t) => {
  let listener!: Listener
  const listening = deferred()
  const message = { event: '', raw: 'x' }
  const hub = createHub({
    broker: {
      ...memoryBroker(),
      async open () { return true },
      async append () { return '9-0' },
      async close () {},
      async read (_, after) { return { after: after ?? '1-0', entries: [], complete: true } },
      async listen (_, given) {
        listener = given
        await listening.promise
        return { position: '1-0', closed: false, known: true, stop () {} }
      }
    }
  })
  const reader = readOn(hub.channel('a').subscribe({ after: '2-0' }))
  listener.lost('2-0')
  listener.entry({ id: '3-0', message })
  listening.resolve()
  await turns()
  listener.entry({ id: '4-0', message })
  await until(() => reader.seen.length === 2)
  t.same(reader.seen.map(({ id }) => id), ['3-0', '4-0'])
  await hub.close()
})
