/** One event for many readers: what it costs, who gets it, and what one reader can do to the others. */
import { Type } from '@sinclair/typebox'
import http from 'node:http'
import t, { type Test } from 'tap'
import type { SseChannel } from '../index.ts'
import { type RawClient, connect, createApp, gc, listen, turns, until } from './helpers.ts'

const MEGABYTE = 1_048_576

/** What the process holds, when all is let go of that can be. */
async function held (): Promise<number> {
  gc()
  // Buffers are freed when their finalizers have run.
  await turns()
  gc()
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

/** The numbers that a body has as its data, in the order of its events. */
function numbersOf (body: string): number[] {
  return [...body.matchAll(/^data: \{"n":(\d+)/gm)].map(([, n]) => Number(n))
}

function numbers (count: number, from = 0): number[] {
  return Array.from({ length: count }, (_, index) => from + index)
}

/** Where these are not the numbers from 0 on, up to a count; shorter than a diff of thousands of them. */
function faultIn (received: readonly number[], count: number): string {
  const wrong = received.findIndex((n, index) => n !== index)
  if (wrong !== -1) return `${received[wrong]} in place of ${wrong}`
  return received.length === count ? 'none' : `${received.length} of ${count}`
}

/** A client that reads all, and keeps of each event its number alone. */
function readNumbers (t: Test, port: number, path: string): number[] {
  const received: number[] = []
  const request = http.get({ port, host: '127.0.0.1', path, agent: false }, (response) => {
    let rest = ''
    response.on('error', () => {})
    response.setEncoding('utf8').on('data', (chunk: string) => {
      rest += chunk
      const end = rest.lastIndexOf('\n\n') + 2
      if (end < 2) return
      received.push(...numbersOf(rest.slice(0, end)))
      rest = rest.slice(end)
    })
  })
  request.on('error', () => {})
  t.after(() => { request.destroy() })
  return received
}

/** Reads on in the background, and keeps of each event its number alone. */
function iterate (t: Test, subscription: AsyncIterable<unknown>): number[] {
  const received: number[] = []
  const iterator = subscription[Symbol.asyncIterator]()
  t.after(async () => { await iterator.return?.() })
  async function run () {
    for (let step = await iterator.next(); step.done !== true; step = await iterator.next()) {
      received.push((step.value as { data: { n: number } }).data.n)
    }
  }
  run().catch((error) => t.fail('the iteration has failed', { error }))
  return received
}

t.test('what is published past a client that does not read is not held for it, and costs the others nothing', async (t) => {
  const app = await createApp(t, { writeTimeout: false })
  const channel = app.sse.channel('c')
  app.get('/', (_, reply) => reply.sse(channel))
  const port = await listen(app)
  const text = 'x'.repeat(65_536)
  const stalled = connect(t, port).get('/', 'Connection: close')
  await stalled.until('id: ')
  stalled.socket.pause()
  const received = readNumbers(t, port, '/')
  await until(() => app.sse.connections.size === 2)
  let published = 0

  async function publish (megabytes: number): Promise<void> {
    for (const end = published + megabytes * 16; published < end;) {
      await channel.publish({ data: { n: published++, text } })
      await until(() => received.length > published - 8, () => 'the client that reads to keep up')
    }
  }

  // Until the stalled client's socket is full, and the history too.
  await publish(20)
  const [connection] = app.sse.connections
  t.equal(connection?.behind, true)
  const before = await held()
  await publish(100)
  const growth = await held() - before
  t.ok(growth < 2 * MEGABYTE, `100 MB were published, ${growth} bytes more are held`)
  await until(() => received.length === published)
  t.equal(faultIn(received, published), 'none', 'the one who reads has got all of it, in order')
  t.match(app.sse.stats(), { open: 2, gaps: 0 })

  stalled.socket.resume()
  await stalled.untilClosed()
  const got = numbersOf(stalled.body)
  t.equal(faultIn(got, got.length), 'none', 'the stalled one gets what was sent to it')
  t.ok(got.length < published / 4, `${got.length} of ${published} events`)
  t.match(app.sse.stats(), { open: 1, closed: { lagged: 1 }, gaps: 0 })

  const last = stalled.body.match(/^id: .*/gm)!.at(-1)!.slice(4)
  const back = connect(t, port).get('/', `Last-Event-ID: ${last}`)
  await back.until(`data: {"n":${published - 1},`)
  const [, gap, position, first, n] =
    /event: gap\ndata: (.*)\n\nid: (.*)\n\nid: (.*)\ndata: \{"n":(\d+)/.exec(back.body) ?? t.fail('no gap') as unknown as string[]
  t.ok(back.body.startsWith(`id: ${last}\n\nevent: gap\n`), 'when it comes back, it is told of a gap before anything else')
  t.same(JSON.parse(gap!), { requested: last, earliest: first })
  t.not(position, last)
  t.same(numbersOf(back.body), numbers(published - Number(n), Number(n)), 'and goes on with all that is retained')
  t.match(app.sse.stats(), { gaps: 1, lags: 0 })
})

t.test('an event is checked and serialised once, for any number of readers', async (t) => {
  const app = await createApp(t)
  const events = { tick: Type.Object({ n: Type.Number() }), any: Type.Any() }
  const channels = { read: app.sse.channel('read', { events }), unread: app.sse.channel('unread', { events }) }
  app.get('/', (_, reply) => reply.sse(channels.read))
  app.get('/filtered', (_, reply) => reply.sse(channels.read.subscribe({ filter: () => true })))
  app.get('/merged', (_, reply) => reply.sse(app.sse.subscribe([channels.read, channels.unread])))
  const port = await listen(app)
  const clients = ['/', '/filtered', '/merged'].flatMap((path) => Array.from({ length: 5 }, () => connect(t, port).get(path)))
  const received = iterate(t, channels.read.subscribe())
  await until(() => app.sse.connections.size === clients.length)
  await Promise.all(clients.map((client) => client.until('id: ')))

  async function publish (channel: SseChannel<any, any>): Promise<{ reads: number, jsons: number }> {
    const counts = { reads: 0, jsons: 0 }
    const data = { get n () { return ++counts.reads && 1 } }
    await channel.publish({ event: 'tick', data })
    await channel.publish({ event: 'any', data: { toJSON: () => ++counts.jsons && { n: 2 } } })
    return counts
  }

  const read = await publish(channels.read)
  await Promise.all(clients.map((client) => client.until('data: {"n":2}')))
  await until(() => received.length === 2)
  t.equal(read.jsons, 1, 'toJSON was called once')
  t.same(read, await publish(channels.unread), 'and the data was read as often as without any reader')
})

t.test('an event is framed once: all connections write the same bytes, those of one turn in one write', async (t) => {
  const app = await createApp(t)
  const channel = app.sse.channel('c')
  const writes = new Map<unknown, Buffer[]>()
  app.addHook('onRequest', async (_, reply) => {
    const { raw } = reply
    const write = raw.write
    const written: Buffer[] = []
    writes.set(raw, written)
    raw.write = function (this: typeof raw, ...args: unknown[]) {
      if (Buffer.isBuffer(args[0])) written.push(args[0])
      return Reflect.apply(write, this, args) as boolean
    }
  })
  app.get('/', (_, reply) => reply.sse(channel))
  const port = await listen(app)
  const clients = numbers(3).map(() => connect(t, port).get('/'))
  await Promise.all(clients.map((client) => client.until('id: ')))
  for (const written of writes.values()) written.length = 0

  // One event; then many in one turn, though not more than one write takes.
  const one = await channel.publish({ data: { n: 0 } })
  await Promise.all(clients.map((client) => client.until('{"n":0}')))
  const text = 'x'.repeat(100)
  const ids = await Promise.all(numbers(400, 1).map((n) => channel.publish({ data: { n, text } })))
  await Promise.all(clients.map((client) => client.until('{"n":400,')))
  const blocks = ids.map((id, index) => `id: ${id}\ndata: {"n":${index + 1},"text":"${text}"}\n\n`)
  const [first, ...others] = [...writes.values()]
  t.same(first!.map(String), [`id: ${one}\ndata: {"n":0}\n\n`, blocks.join('')], 'two turns, two writes')
  for (const written of others) {
    t.equal(written.length, 2)
    t.ok(written.every((bytes, index) => isSame(bytes, first![index]!)), 'the same memory')
  }
})

t.test('a wrong event rejects its publisher, and reaches nobody', async (t) => {
  const app = await createApp(t)
  const channel = app.sse.channel('c', { events: { tick: Type.Object({ n: Type.Number() }) } })
  const open = app.sse.channel('open')
  app.get('/', (_, reply) => reply.sse(app.sse.subscribe([channel, open as SseChannel<any, any>])))
  const port = await listen(app)
  const client = connect(t, port).get('/')
  await client.until('id: ')
  const received = iterate(t, app.sse.subscribe([channel, open as SseChannel<any, any>]))
  await turns()
  const before = client.body
  const cycle: Record<string, unknown> = {}
  cycle.cycle = cycle
  const wrong: Record<string, [SseChannel<any, any>, unknown]> = {
    'data that its schema does not allow': [channel, { event: 'tick', data: { n: 'one' } }],
    'no data': [channel, { event: 'tick' }],
    'a type that is not declared': [channel, { event: 'tock', data: { n: 1 } }],
    'text where the schema wants an object': [channel, { event: 'tick', raw: 'one' }],
    'a getter that throws': [channel, { event: 'tick', data: { get n () { throw new Error('no') } } }],
    'an ID of its own': [open, { id: 7, data: { n: 1 } }],
    'an ID alone': [open, { id: 7 }],
    'a comment alone': [open, { comment: 'hm' }],
    'a reconnection time alone': [open, { retry: 1 }],
    'a type alone': [open, { event: 'tick' }],
    'the type of gaps': [open, { event: 'gap', data: { n: 1 } }],
    'data and text': [open, { data: { n: 1 }, raw: 'x' }],
    'a line break in its type': [open, { event: 'a\nb', data: { n: 1 } }],
    'data that has no JSON': [open, { data: () => {} }],
    'a cycle': [open, { data: cycle }],
    nothing: [open, undefined],
    null: [open, null]
  }
  for (const [name, [to, event]] of Object.entries(wrong)) {
    // A rejection, not an exception: `publish` never throws.
    const publishing = to.publish(event)
    await t.rejects(publishing, { code: 'FST_SSE_INVALID_EVENT' }, name)
  }
  await channel.publish({ event: 'tick', data: { n: 1 } })
  await open.publish({ data: { n: 2 } })
  await client.until('{"n":2}')
  await until(() => received.length === 2)
  t.match(client.body.slice(before.length), /^id: .*\nevent: tick\ndata: \{"n":1\}\n\nid: .*\ndata: \{"n":2\}\n\n$/)
  t.same(received, [1, 2])
  t.match(app.sse.stats(), { open: 1, events: 2, dropped: 0 })
})

t.test('a burst of one turn that is larger than the history reaches everybody who keeps up, whole and in order', async (t) => {
  const COUNT = 10_000
  const app = await createApp(t)
  const channel = app.sse.channel('c', { history: { events: 1_000 } })
  const quiet = app.sse.channel('quiet')
  app.get('/', (_, reply) => reply.sse(channel))
  app.get('/filtered', (_, reply) => reply.sse(channel.subscribe({ filter: () => true })))
  app.get('/merged', (_, reply) => reply.sse(app.sse.subscribe([channel, quiet])))
  const port = await listen(app)
  const received: Record<string, number[]> = {
    'over HTTP': readNumbers(t, port, '/'),
    'over HTTP, with a filter': readNumbers(t, port, '/filtered'),
    'over HTTP, of several channels': readNumbers(t, port, '/merged'),
    'for await': iterate(t, channel.subscribe()),
    'for await, of several channels': iterate(t, app.sse.subscribe([quiet, channel]))
  }
  await until(() => app.sse.connections.size === 3)
  // They have begun when they have got something.
  await channel.publish({ data: { n: 0 } })
  await until(() => Object.values(received).every(({ length }) => length > 0))

  // Twice, as readers must not be left in another state than before.
  for (const end of [1 + COUNT, 1 + 2 * COUNT]) {
    const publishing = numbers(COUNT, end - COUNT).map((n) => channel.publish({ data: { n, text: 'x'.repeat(80) } }))
    await Promise.all(publishing)
    for (const [name, got] of Object.entries(received)) {
      await until(() => got.at(-1) === end - 1 || app.sse.stats().open < 3, () => `the end of the burst, ${name}`)
      t.equal(faultIn(got, end), 'none', name)
    }
    t.match(app.sse.stats(), { open: 3, gaps: 0, lags: 0, closed: { lagged: 0 } })
  }
})

t.test('such a burst reaches those, too, who begin in the same turn: the first reader of a channel, and the next', async (t) => {
  const COUNT = 5_000
  const POLICIES = ['disconnect', 'gap', 'latest'] as const
  const app = await createApp(t)
  const quiet = app.sse.channel('quiet')
  const channelOf = (onLag: typeof POLICIES[number]): SseChannel<any> => {
    return app.sse.channel(onLag, { history: { events: 3 }, onLag, ...onLag === 'latest' && { key: () => 'one for all' } } as object)
  }
  const publish = (channel: SseChannel<any>, from: number) => numbers(COUNT, from).map((n) => channel.publish({ data: { n } }))
  app.get('/:onLag', (request, reply) => {
    const channel = channelOf((request.params as { onLag: typeof POLICIES[number] }).onLag)
    const streaming = reply.sse(channel)
    publish(channel, 2 * COUNT)
    return streaming
  })
  const port = await listen(app)
  for (const onLag of POLICIES) {
    const channel = channelOf(onLag)
    const first = iterate(t, channel.subscribe())
    publish(channel, 0)
    await until(() => first.at(-1) === COUNT - 1, () => `the first burst, ${onLag}`)
    const next = iterate(t, channel.subscribe())
    const merged = iterate(t, app.sse.subscribe([quiet, channel]))
    publish(channel, COUNT)
    await until(() => [first, next, merged].every((got) => got.at(-1) === 2 * COUNT - 1), () => `the second burst, ${onLag}`)
    const client = readNumbers(t, port, `/${onLag}`)
    await until(() => [first, next, merged, client].every((got) => got.at(-1) === 3 * COUNT - 1), () => `the third burst, ${onLag}`)
    for (const [missed, got] of [first, next, client].entries()) {
      t.equal(faultIn([...numbers(missed * COUNT), ...got], 3 * COUNT), 'none', `whoever has missed ${missed}, ${onLag}`)
    }
    t.same(merged, next, `of several channels, ${onLag}`)
  }
  t.match(app.sse.stats(), { gaps: 0, lags: 0 })
})

t.test('an audience that is larger than what one turn serves gets everything, in order', async (t) => {
  const AUDIENCE = 600
  const app = await createApp(t)
  const channel = app.sse.channel('c')
  app.get('/', (_, reply) => reply.sse(channel))
  const port = await listen(app)
  const clients: RawClient[] = numbers(AUDIENCE).map(() => connect(t, port).get('/'))
  await until(() => clients.every(({ received }) => received.includes('id: ')), () => 'all to be there')
  let published = 0
  // Bursts, with more published while some have been told of the one before, and others have not.
  for (let burst = 0; burst < 30; burst++) {
    await Promise.all(numbers(10).map(() => channel.publish({ data: { n: published++ } })))
    await turns(burst % 4)
  }
  const last = `{"n":${published - 1}}\n\n`
  await until(() => clients.every(({ received }) => received.includes(last)), () => 'all to get the last event')
  const bodies = new Set(clients.map(({ body }) => body))
  t.equal(bodies.size, 1, 'all have got the same bytes')
  t.same(numbersOf([...bodies][0]!), numbers(published))
  t.match(app.sse.stats(), { open: AUDIENCE, events: AUDIENCE * published })
})

function isSame (a: Buffer, b: Buffer): boolean {
  return a.buffer === b.buffer && a.byteOffset === b.byteOffset && a.length === b.length
}
