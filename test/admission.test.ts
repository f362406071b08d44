/** Who gets a stream where there is no room for everybody, what the others are told, and that each place is given back. */
import { EventSource } from 'eventsource'
import fastify, { type FastifyInstance, type FastifyReply, type FastifyServerOptions } from 'fastify'
import diagnostics from 'node:diagnostics_channel'
import { once } from 'node:events'
import http2 from 'node:http2'
import { Readable } from 'node:stream'
import t, { type Test } from 'tap'
import sse, { memoryBroker } from '../index.ts'
import type { RefusalReason, SseDiagnostics, SseOptions } from '../index.ts'
import { Admission, type Place } from '../lib/admission.ts'
import { BrokerUnavailable } from '../lib/errors.ts'
import { createStats, type EndReason } from '../lib/stats.ts'
import { untilLagging } from './behind.ts'
import { connect, createApp, deferred, descriptors, idleSource, listen, RawClient, turns, until } from './helpers.ts'

const SOFTLY = 'Accept: text/event-stream'

/** A route that never ends. */
const idle = (reply: FastifyReply) => reply.sse(idleSource({ data: 1 }).source)

/** A source that counts what is done to it. */
function countedSource () {
  const counts = { next: 0, return: 0 }
  const source = {
    [Symbol.asyncIterator]: () => ({
      async next () {
        counts.next++
        return { done: true, value: undefined } as const
      },
      async return () {
        counts.return++
        return { done: true, value: undefined } as const
      }
    })
  }
  return { counts, source }
}

/** Opens a stream, or is refused: the status that it was answered with. */
async function ask (t: Test, port: number, path: string, ...headers: string[]) {
  const client = connect(t, port).get(path, ...headers)
  await client.until(/\r\n\r\n/)
  return { client, status: Number(/^HTTP\/1\.1 (\d+) /.exec(client.head)?.[1]) }
}

async function statuses (t: Test, port: number, path: string, ...clients: string[]): Promise<number[]> {
  const found = []
  for (const client of clients) found.push((await ask(t, port, path, `X-Client: ${client}`)).status)
  return found
}

const byHeader: SseOptions['clientKey'] = ({ headers }) => headers['x-client'] as string | undefined

/** How many streams have ended, all of them: their responses are gone. */
function countClosed (t: Test, app: FastifyInstance) {
  const closed = { count: 0 }
  const note = (message: unknown) => {
    const { connection } = message as SseDiagnostics['fastify-typed-sse:close']
    if (connection.request.server === app) closed.count++
  }
  diagnostics.subscribe('fastify-typed-sse:close', note)
  t.after(() => diagnostics.unsubscribe('fastify-typed-sse:close', note))
  return closed
}

/** Writes down each place that is taken, and how often it is given back. */
function watchPlaces (t: Test): { left: number }[] {
  const places: { left: number }[] = []
  const { enter } = Admission.prototype
  t.after(() => { Admission.prototype.enter = enter })
  Admission.prototype.enter = function (request) {
    const place = enter.call(this, request)
    if ('refused' in place) return place
    const seen = { left: 0 }
    places.push(seen)
    return {
      leave () {
        seen.left++
        place.leave()
      }
    } satisfies Place
  }
  return places
}

t.test('without limits nobody is refused, and nobody asks who is who', async (t) => {
  const none = { maxConnections: false, maxConnectionsPerClient: false } as const
  for (const options of [none, { maxConnectionsPerClient: false, maxConnections: 30 }] as const) {
    let asked = 0
    const app = await createApp(t, { ...options, clientKey: () => { asked++; return 1 } })
    app.get('/', (_, reply) => idle(reply))
    const port = await listen(app)
    const all = await Promise.all(Array.from({ length: 30 }, () => ask(t, port, '/')))
    t.ok(all.every(({ status }) => status === 200))
    t.equal(asked, 0)
  }
})

t.test('maxConnections: as many streams as that, of whatever client, and one more for each that is over', async (t) => {
  const app = await createApp(t, { maxConnections: 2 })
  app.get('/', (_, reply) => idle(reply))
  app.get('/other', (_, reply) => idle(reply))
  const port = await listen(app)
  const first = await ask(t, port, '/')
  t.equal(first.status, 200)
  t.equal((await ask(t, port, '/other')).status, 200, 'the limit is that of all routes')
  t.equal((await ask(t, port, '/')).status, 503)
  first.client.destroy()
  await until(() => app.sse.stats().open === 1)
  await turns()
  t.equal((await ask(t, port, '/other')).status, 200)
  t.equal((await ask(t, port, '/')).status, 503)
  t.match(app.sse.stats(), { open: 2, opened: 3, refused: { 'max-connections': 2, 'max-connections-per-client': 0 } })
})

t.test('maxConnectionsPerClient: as many streams as that for each client, by its address', async (t) => {
  const app = await createApp(t, { maxConnectionsPerClient: 2 }, { trustProxy: true })
  app.get('/', (_, reply) => idle(reply))
  const port = await listen(app)
  const from = async (address: string) => (await ask(t, port, '/', `X-Forwarded-For: ${address}`)).status
  t.same([await from('10.0.0.1'), await from('10.0.0.1'), await from('10.0.0.1')], [200, 200, 429])
  t.same([await from('10.0.0.2'), await from('10.0.0.2'), await from('10.0.0.2')], [200, 200, 429], 'another has room of its own')
  t.match(app.sse.stats(), { open: 4, refused: { 'max-connections': 0, 'max-connections-per-client': 2 } })
})

t.test('clientKey says who is one client: a string, a number, or nobody', async (t) => {
  const keys: Record<string, string | number | undefined> = { a: 'a', zero: 0, empty: '', nan: NaN, number: 7, text: '7', nobody: undefined }
  const app = await createApp(t, { maxConnectionsPerClient: 1, clientKey: ({ headers }) => keys[headers['x-client'] as string] })
  app.get('/', (_, reply) => idle(reply))
  const port = await listen(app)
  for (const client of ['a', 'zero', 'empty', 'nan', 'number', 'text']) {
    t.same(await statuses(t, port, '/', client, client), [200, 429], client)
  }
  t.same(await statuses(t, port, '/', 'nobody', 'nobody', 'nobody'), [200, 200, 200], 'undefined: no limit')
  t.equal(app.sse.stats().open, 9)
})

t.test('who is nobody counts for maxConnections all the same', async (t) => {
  const app = await createApp(t, { maxConnections: 2, maxConnectionsPerClient: 1, clientKey: () => undefined })
  app.get('/', (_, reply) => idle(reply))
  t.same(await statuses(t, await listen(app), '/', 'a', 'a', 'a'), [200, 200, 503])
})

t.test('a client that has no room when nobody has is told that of the server', async (t) => {
  const app = await createApp(t, { maxConnections: 1, maxConnectionsPerClient: 1, clientKey: byHeader! })
  app.get('/', (_, reply) => idle(reply))
  t.same(await statuses(t, await listen(app), '/', 'a', 'a', 'b'), [200, 503, 503])
})

t.test('a clientKey that throws fails the request, which takes no place', async (t) => {
  let throws = true
  const app = await createApp(t, {
    maxConnections: 1,
    maxConnectionsPerClient: 1,
    clientKey () {
      if (throws) throw Object.assign(new Error('who are you?'), { statusCode: 401 })
      return 'a'
    }
  })
  const { counts, source } = countedSource()
  app.get('/', (_, reply) => reply.sse(source as AsyncIterable<never>))
  app.get('/idle', (_, reply) => idle(reply))
  const port = await listen(app)
  const { client, status } = await ask(t, port, '/')
  t.equal(status, 401)
  await client.until('}')
  t.match(JSON.parse(client.body), { message: 'who are you?' })
  t.same(counts, { next: 0, return: 1 }, 'the source was let go of')
  t.match(app.sse.stats(), { open: 0, opened: 0, refused: createStats().refused })
  throws = false
  t.same(await statuses(t, port, '/idle', 'a', 'a'), [200, 503])
})

t.test('a clientKey that gives no key is a mistake, which the answer names', async (t) => {
  const keys: [unknown, RegExp][] = [
    [Promise.resolve('a'), /Promise/], [{ ip: 1 }, /an object/], [null, /null/], [true, /boolean true/], [1n, /bigint 1/], [Symbol('a'), /symbol/],
    [() => 'a', /a function/]
  ]
  for (const [key, got] of keys) {
    const app = await createApp(t, { maxConnections: 1, maxConnectionsPerClient: 1, clientKey: (() => key) as () => string })
    const { counts, source } = countedSource()
    app.get('/', (_, reply) => reply.sse(source as AsyncIterable<never>))
    for (const headers of [{}, { accept: 'text/event-stream' }]) {
      const response = await app.inject({ url: '/', headers })
      t.equal(response.statusCode, 500)
      t.equal(response.json().code, 'FST_SSE_INVALID_OPTION')
      t.match(response.json().message, /clientKey must return a string, a number or undefined, got /)
      t.match(response.json().message, got)
    }
    t.same(counts, { next: 0, return: 2 })
    t.match(app.sse.stats(), { opened: 0, refused: createStats().refused })
  }
})

t.test('an async clientKey is such a mistake, and its rejection nobody else\'s concern', async (t) => {
  const rejections: unknown[] = []
  const note = (error: unknown) => { rejections.push(error) }
  process.on('unhandledRejection', note)
  t.after(() => process.off('unhandledRejection', note))
  const clientKey = async () => 'a'
  const app = await createApp(t, { maxConnectionsPerClient: 1, clientKey: clientKey as unknown as () => string })
  app.get('/', async (_, reply) => reply.sse([{ data: 1 }]))
  const response = await app.inject('/')
  t.match(response.json(), { statusCode: 500, code: 'FST_SSE_INVALID_OPTION' })
  await turns()
  t.same(rejections, [])
})

t.test('options that cannot be are refused at registration', async (t) => {
  const wrong: object[] = [
    { maxConnections: 0 }, { maxConnections: -1 }, { maxConnections: 1.5 }, { maxConnections: '1' }, { maxConnections: true },
    { maxConnections: null }, { maxConnectionsPerClient: 0 }, { maxConnectionsPerClient: NaN }, { clientKey: 'ip' }, { clientKey: false }
  ]
  for (const options of wrong) {
    const app = fastify()
    t.after(() => app.close())
    await t.rejects(async () => { await app.register(sse, options) }, { code: 'FST_SSE_INVALID_OPTION' }, JSON.stringify(options))
  }
  const app = await createApp(t)
  for (const options of [{ maxConnections: 1 }, { maxConnectionsPerClient: 1 }, { clientKey: () => 1 }]) {
    t.throws(() => app.get('/', { sse: options as object }, (_, reply) => reply.sse([])), { code: 'FST_SSE_INVALID_OPTION' },
      'the plugin has them, its routes have not')
  }
})

/** An app whose one stream is open, by this client. */
async function full (t: Test, options: SseOptions, which: 'max-connections' | 'max-connections-per-client') {
  const limit = which === 'max-connections' ? { maxConnections: 1 } : { maxConnectionsPerClient: 1 }
  const app = await createApp(t, { ...limit, ...options })
  app.get('/', (_, reply) => idle(reply))
  const port = await listen(app)
  const { client, status } = await ask(t, port, '/')
  t.equal(status, 200)
  return { app, port, client }
}

const REFUSALS = [
  ['max-connections', 503, 'FST_SSE_TOO_MANY_CONNECTIONS'],
  ['max-connections-per-client', 429, 'FST_SSE_TOO_MANY_CONNECTIONS_PER_CLIENT']
] as const

/** The reconnection times that the options allow. */
const TIMES: [SseOptions['retry'], least: number, most: number][] = [
  [undefined, 1_000, 5_000], [{ min: 7_000, max: 7_900 }, 7_000, 7_900], [3_000, 3_000, 6_000], [0, 0, 1_000], [100, 100, 1_100]
]

t.test('an EventSource is refused softly: 200, a time of its own to come back, the end', async (t) => {
  for (const [reason] of REFUSALS) {
    for (const [retry, least, most] of TIMES) {
      const { app, port } = await full(t, { retry }, reason)
      const drawn = new Set<number>()
      for (let n = 0; n < 20; n++) {
        const client = connect(t, port).get('/', n % 2 === 0 ? SOFTLY : 'Accept: application/json;q=0.5, Text/Event-Stream;q=0.9')
        await client.until(/\r\n\r\nretry: \d+\n$/)
        t.match(client.head, /^HTTP\/1\.1 200 OK\r\n/)
        for (const header of ['content-type: text/event-stream', 'cache-control: no-cache, no-transform', 'x-accel-buffering: no']) {
          t.match(client.head, new RegExp(`\r\n${header}(\r\n|$)`))
        }
        t.notMatch(client.head, /retry-after/i)
        const ms = Number(/^retry: (\d+)\n$/.exec(client.body)?.[1])
        t.match(client.head, new RegExp(`\r\ncontent-length: ${client.body.length}(\r\n|$)`), 'the whole of it')
        t.ok(ms >= least && ms <= most, `${ms} ms, of ${JSON.stringify(retry)}`)
        drawn.add(ms)
      }
      t.ok(drawn.size > 10, `${drawn.size} times among 20: they do not come back together`)
      t.match(app.sse.stats(), { open: 1, opened: 1, refused: { ...createStats().refused, [reason]: 20 } })
    }
  }
})

t.test('both ends of the range are drawn', async (t) => {
  const { random } = Math
  t.after(() => { Math.random = random })
  for (const [retry, least, most] of TIMES) {
    const { port } = await full(t, { retry }, 'max-connections')
    for (const [draw, ms] of [[0, least], [1 - Number.EPSILON, most]] as const) {
      Math.random = () => draw
      const { client } = await ask(t, port, '/', SOFTLY)
      Math.random = random
      await client.until(`\r\n\r\nretry: ${ms}\n`)
      t.equal(client.body, `retry: ${ms}\n`)
    }
  }
})

t.test('others are refused by a status, and told in how many seconds to come back', async (t) => {
  for (const [reason, status, code] of REFUSALS) {
    for (const [retry, least, most] of TIMES) {
      const { app, port } = await full(t, { retry }, reason)
      for (const accept of ['*/*', 'text/*', 'application/json', undefined]) {
        const { client, status: answered } = await ask(t, port, '/', ...(accept === undefined ? [] : [`Accept: ${accept}`]))
        t.equal(answered, status)
        await client.until('}')
        const after = /\r\nretry-after: (\d+)(\r\n|$)/.exec(client.head)?.[1]
        t.ok(Number(after) >= Math.ceil(least / 1_000) && Number(after) <= Math.ceil(most / 1_000), `after ${after} s, of ${JSON.stringify(retry)}`)
        t.match(client.head, /content-type: application\/json/)
        t.match(JSON.parse(client.body), { statusCode: status, code })
      }
      t.match(app.sse.stats().refused, { ...createStats().refused, [reason]: 4 })
    }
  }
})

t.test("the retry of a route, or of a call, goes before the plugin's", async (t) => {
  const { app, port } = await full(t, { retry: { min: 9_000, max: 9_000 } }, 'max-connections')
  t.equal((await app.inject({ url: '/', headers: { accept: 'text/event-stream' } })).payload, 'retry: 9000\n')
  const other = await createApp(t, { maxConnections: 1, retry: 9_000 })
  other.get('/', (_, reply) => idle(reply))
  other.get('/route', { sse: { retry: { min: 20, max: 20 } } }, (_, reply) => reply.sse([]))
  other.get('/call', (_, reply) => reply.sse([], { retry: { min: 10, max: 10 } }))
  const { client } = await ask(t, await listen(other), '/')
  const soft = { accept: 'text/event-stream' }
  t.equal((await other.inject({ url: '/route', headers: soft })).payload, 'retry: 20\n')
  t.equal((await other.inject({ url: '/call', headers: soft })).payload, 'retry: 10\n')
  client.destroy()
  t.equal((await ask(t, port, '/')).status, 503, 'each app has its own room')
})

t.test('the headers of a handler are on the refusal too, as hooks and CORS need it', async (t) => {
  const app = await createApp(t, { maxConnections: 1 })
  app.get('/', (_, reply) => {
    reply.header('access-control-allow-origin', '*').header('cache-control', 'no-store')
    return idle(reply)
  })
  const port = await listen(app)
  await ask(t, port, '/')
  for (const headers of [[], [SOFTLY]]) {
    const { client } = await ask(t, port, '/', ...headers)
    t.match(client.head, /\r\naccess-control-allow-origin: \*(\r\n|$)/)
    t.match(client.head, /\r\ncache-control: no-store(\r\n|$)/)
  }
})

t.test('a refused source is let go of: none of it runs, and a function is not called', async (t) => {
  for (const headers of [[], [SOFTLY]]) {
    const app = await createApp(t, { maxConnections: 1 })
    const { counts, source } = countedSource()
    let called = 0
    let generated = 0
    const node = new Readable({ objectMode: true, read () {} })
    let cancelled = 0
    const web = new ReadableStream({ cancel () { cancelled++ } })
    const channel = app.sse.channel('c', { snapshot: () => { called++; return [] } })
    const sources: Record<string, unknown> = {
      iterator: source,
      function: () => { called++; return [] },
      generator: (async function * () { generated++; yield { data: 1 } })(),
      node,
      web,
      channel
    }
    app.get('/', (_, reply) => idle(reply))
    app.get<{ Params: { which: string } }>('/:which', async (request, reply) => (reply as any).sse(sources[request.params.which]))
    const port = await listen(app)
    await ask(t, port, '/')
    for (const which of Object.keys(sources)) {
      const { client, status } = await ask(t, port, `/${which}`, ...headers)
      t.equal(status, headers.length === 0 ? 503 : 200)
      await client.until(headers.length === 0 ? '}' : /retry: \d+\n$/)
    }
    await turns()
    t.same(counts, { next: 0, return: 1 })
    t.equal(called, 0)
    t.equal(generated, 0)
    t.equal(node.destroyed, true)
    t.equal(cancelled, 1)
    t.same(app.sse.stats().refused, { ...createStats().refused, 'max-connections': 6 })
    t.equal(app.sse.stats().opened, 1)
  }
})

t.test('each refusal is told on diagnostics, with its request and its reason', async (t) => {
  for (const [reason] of REFUSALS) {
    const { app, port } = await full(t, {}, reason)
    const told: { path: string, reason: RefusalReason }[] = []
    const note = (message: unknown) => {
      const { request, reason, ...more } = message as SseDiagnostics['fastify-typed-sse:refuse']
      if (request.server === app) told.push({ path: request.url, reason, ...more })
    }
    diagnostics.subscribe('fastify-typed-sse:refuse', note)
    t.after(() => diagnostics.unsubscribe('fastify-typed-sse:refuse', note))
    await ask(t, port, '/?1')
    t.same(told, [{ path: '/?1', reason }])
    await ask(t, port, '/?2', SOFTLY)
    t.same(told, [{ path: '/?1', reason }, { path: '/?2', reason }])
  }
})

t.test('HEAD, 204 for what has finished and 400 for a hostile ID take no place, and need none', async (t) => {
  for (const room of [1, 2]) {
    const app = await createApp(t, { maxConnections: room, maxConnectionsPerClient: room })
    app.get('/', (_, reply) => idle(reply))
    const port = await listen(app)
    // Of one place, or of two, one is taken.
    t.equal((await ask(t, port, '/')).status, 200)
    for (let n = 0; n < 3; n++) {
      const head = connect(t, port).send('HEAD / HTTP/1.1\r\nHost: test\r\n\r\n')
      await head.until('\r\n\r\n')
      t.match(head.head, /^HTTP\/1\.1 200 /)
      t.match(head.head, /content-type: text\/event-stream/)
      t.equal((await ask(t, port, '/', 'Last-Event-ID: fastify-typed-sse:finished')).status, 204)
      t.equal((await ask(t, port, '/', `Last-Event-ID: ${'x'.repeat(2_000)}`)).status, 400)
    }
    if (room === 2) t.equal((await ask(t, port, '/')).status, 200)
    t.equal((await ask(t, port, '/')).status, 503)
    t.match(app.sse.stats(), { open: room, opened: room, refused: { 'max-connections': 1 } })
  }
})

/** The room of the apps below: three streams, two of them for one client. */
const ROOM = { maxConnections: 3, maxConnectionsPerClient: 2, clientKey: byHeader! }

interface Scene {
  app: FastifyInstance
  port: number
  /** A request for the stream that is to end. */
  get (...headers: string[]): RawClient
}

interface Ending {
  reason?: EndReason | undefined
  options?: SseOptions
  /** How many streams were opened; default one. */
  opened?: number
  route (reply: FastifyReply, app: FastifyInstance): unknown
  act (scene: Scene, t: Test): Promise<unknown>
  prepare? (app: FastifyInstance): void
}

const whole = ({ get }: Scene) => get().until(/\r\n\r\n[^]*(\n0\r\n\r\n|\})$/)
const gone = async ({ get }: Scene) => {
  const client = get()
  await client.until('data: 1\n\n')
  client.destroy()
}
const flood = async function * () { for (;;) yield { raw: 'x'.repeat(65_536) } }
const away = () => Promise.reject(new BrokerUnavailable('not today'))

/** Stops reading until the server holds back what is for it. */
async function stall ({ app, get }: Scene, ...headers: string[]): Promise<RawClient> {
  const client = get(...headers)
  client.socket.pause()
  await until(() => [...app.sse.connections].some(({ behind }) => behind), () => 'a client that is behind')
  return client
}

const ENDINGS: Record<string, Ending> = {
  'the source is done': { reason: 'source-done', route: (reply) => reply.sse([{ data: 1 }]), act: whole },
  'a finite source is done': { reason: 'source-done', options: { finite: true }, route: (reply) => reply.sse([{ data: 1 }]), act: whole },
  'a closed channel': {
    reason: 'source-done',
    route: (reply, app) => reply.sse(app.sse.channel('c')),
    act: whole,
    prepare: (app) => { app.sse.channel('c').close() }
  },
  'the client has gone': { reason: 'client-gone', route: idle, act: gone },
  'the client has reset its connection': {
    reason: 'client-gone',
    route: idle,
    async act ({ get }) {
      const client = get()
      await client.until('data: 1\n\n')
      client.socket.resetAndDestroy()
    }
  },
  'the client has closed its half': {
    reason: 'client-gone',
    route: idle,
    async act ({ get }) {
      const client = get()
      await client.until('data: 1\n\n')
      client.socket.end()
    }
  },
  'the client has gone while it was behind': {
    reason: 'client-gone',
    options: { writeTimeout: false },
    route: (reply) => reply.sse(flood),
    act: async (scene) => { (await stall(scene)).destroy() }
  },
  'the client has gone before reply.sse': {
    opened: 0,
    async route (reply) {
      await until(() => reply.raw.destroyed || reply.request.raw.socket.destroyed)
      return idle(reply)
    },
    async act ({ get, app }) {
      const client = get()
      await until(() => client.socket.bytesWritten > 0)
      await turns()
      client.destroy()
      await turns(50)
      t.equal(app.sse.stats().opened, 0)
    }
  },
  'the source has thrown, early': {
    reason: 'source-threw',
    route: (reply) => reply.sse(() => ({ [Symbol.asyncIterator]: () => ({ next: () => Promise.reject(new Error('early')) }) })),
    act: whole
  },
  'the source has thrown, late': {
    reason: 'source-threw',
    route: (reply) => reply.sse(async function * () {
      yield { data: 1 }
      throw new Error('late')
    }),
    act: whole
  },
  'an invalid event, early': { reason: 'invalid-event', route: (reply) => reply.sse([{ retry: -1 }]), act: whole },
  'an invalid event, late': { reason: 'invalid-event', route: (reply) => reply.sse([{ data: 1 }, { retry: -1 }]), act: whole },
  'the write timeout': {
    reason: 'write-timeout', options: { writeTimeout: 20 }, route: (reply) => reply.sse(flood), act: (scene) => stall(scene)
  },
  'a reader has lagged': {
    reason: 'lagged',
    options: { writeTimeout: false },
    route: (reply, app) => reply.sse(app.sse.channel('c')),
    prepare: (app) => { app.sse.channel('c', { history: { events: 2, bytes: 100_000_000 } }) },
    async act ({ app, get }) {
      const client = get()
      await client.until('id: ')
      client.socket.pause()
      await untilLagging(app.sse, app.sse.channel('c'))
      client.socket.resume()
    }
  },
  'max duration': { reason: 'max-duration', options: { maxDuration: 1 }, route: idle, act: whole },
  'ended by the application': {
    reason: 'ended',
    route: idle,
    async act ({ app, get }) {
      await get().until('data: 1')
      for (const connection of app.sse.connections) {
        connection.end()
        connection.end()
      }
    }
  },
  'ended by the signal of a subscription': {
    reason: 'ended',
    route (reply, app) {
      const controller = new AbortController()
      const source = app.sse.channel('c').subscribe({ signal: controller.signal })
      setImmediate(() => setImmediate(() => controller.abort()))
      return reply.sse(source)
    },
    act: whole
  },
  'revoked by the application': {
    reason: 'revoked',
    route: idle,
    async act ({ app, get }) {
      await get().until('data: 1')
      for (const connection of app.sse.connections) connection.end('revoked')
    }
  },
  'revoked by revalidate': { reason: 'revoked', options: { revalidate: () => false, revalidateEvery: 1 }, route: idle, act: whole },
  'superseded: the handler throws after reply.sse': {
    reason: 'superseded',
    route (reply) {
      idle(reply)
      throw new Error('after all, no')
    },
    act: whole
  },
  'superseded: an async handler throws after reply.sse': {
    reason: 'superseded',
    async route (reply) {
      idle(reply)
      throw new Error('after all, no')
    },
    act: whole
  },
  'superseded: another answer': {
    reason: 'superseded',
    route (reply) {
      idle(reply)
      return reply.send({ another: 'answer' })
    },
    act: whole
  },
  'superseded: called twice': {
    reason: 'superseded',
    async route (reply) {
      idle(reply)
      return idle(reply)
    },
    act: whole
  },
  'superseded: an onSend hook throws': {
    reason: 'superseded',
    route: idle,
    prepare: (app) => {
      app.addHook('onSend', async (request, reply, payload) => {
        if (request.url === '/' && reply.statusCode === 200) throw new Error('no')
        return payload
      })
    },
    act: whole
  },
  'superseded: an onSend hook has another payload': {
    reason: 'superseded',
    route: idle,
    prepare: (app) => {
      app.addHook('onSend', async (request, _, payload) => request.url === '/' ? '{"another":"payload"}' : payload)
    },
    act: whole
  },
  'superseded: 304': {
    reason: 'superseded',
    route: (reply) => idle(reply.code(304)),
    act: ({ get }) => get().until(/^HTTP\/1\.1 304 [^]*\r\n\r\n$/)
  },
  'superseded: 204': {
    reason: 'superseded',
    route: (reply) => idle(reply.code(204)),
    act: ({ get }) => get().until(/^HTTP\/1\.1 204 [^]*\r\n\r\n$/)
  },
  'a source that is none': { opened: 0, route: (reply) => (reply as any).sse(42), act: whole },
  'a source function that throws': { opened: 0, route: (reply) => reply.sse(() => { throw new Error('no') }), act: whole },
  'a source function that returns a promise': { opened: 0, route: (reply) => (reply as any).sse(async () => []), act: whole },
  'a channel with types that the route has not': {
    opened: 0,
    prepare (app) {
      app.get('/typed', { schema: { events: { other: {} } } }, (_, reply) => (reply as any).sse(app.sse.channel('c')))
    },
    route: idle,
    act: ({ port }, t) => connect(t, port).get('/typed', 'X-Client: a').until('}')
  },
  'an event for this client alone that is invalid': {
    opened: 0, route: (reply) => reply.sse([], { first: [{ id: 1, data: 1 }] }), act: whole
  },
  'an error handler that answers with reply.sse': {
    opened: 2,
    prepare (app) {
      app.setErrorHandler((_, __, reply) => reply.sse([{ data: 'instead' }]))
    },
    route: (reply) => reply.sse(function * () { throw new Error('early') } as () => Generator<never>),
    act: async ({ get }, t) => {
      const client = get()
      await client.until('0\r\n\r\n')
      t.equal(client.body, 'data: "instead"\n\n')
    }
  },
  'an error handler that answers with reply.sse, and its client goes': {
    opened: 2,
    prepare (app) {
      app.setErrorHandler((_, __, reply) => idle(reply))
    },
    route: (reply) => reply.sse(function * () { throw new Error('early') } as () => Generator<never>),
    act: gone
  },
  'the broker is away, for an EventSource': {
    reason: 'source-threw',
    options: { broker: Object.assign(memoryBroker(), { read: away, listen: away }) },
    route: (reply, app) => reply.sse(app.sse.channel('c')),
    act: ({ get }) => get(SOFTLY).until(/retry: \d+\n/)
  },
  'the broker is away, for others': {
    reason: 'source-threw',
    options: { broker: Object.assign(memoryBroker(), { read: away, listen: away }) },
    route: (reply, app) => reply.sse(app.sse.channel('c')),
    async act (scene) { await scene.get().until(/^HTTP\/1\.1 503 [^]*\}/) }
  },
  'a pipelined request that never gets its turn': {
    reason: 'client-gone',
    opened: 2,
    route: idle,
    async act ({ app, get }) {
      const client = get()
      await client.until('data: 1\n\n')
      client.get('/', 'X-Client: a')
      await until(() => app.sse.connections.size === 2)
      client.destroy()
    }
  },
  'a pipelined request that is ended before its turn': {
    opened: 2,
    route: idle,
    async act ({ app, get }) {
      const client = get()
      await client.until('data: 1\n\n')
      client.get('/', 'X-Client: a')
      await until(() => app.sse.connections.size === 2)
      ;[...app.sse.connections][1]!.end('revoked')
      ;[...app.sse.connections][0]!.end()
      await until(() => client.received.split('HTTP/1.1 200 OK').length === 3)
    }
  },
  'an injected request': {
    reason: 'source-done',
    route: (reply) => reply.sse([{ data: 1 }]),
    act: ({ app }) => app.inject({ url: '/', headers: { 'x-client': 'a' } })
  }
}

for (const [name, { reason, options, opened = 1, route, act, prepare }] of Object.entries(ENDINGS)) {
  t.test(`a place is given back, once: ${name}`, async (t) => {
    const places = watchPlaces(t)
    const app = await createApp(t, { ...ROOM, ...options })
    const closed = countClosed(t, app)
    prepare?.(app)
    app.get('/', (_, reply) => route(reply, app))
    app.get('/probe', { sse: { writeTimeout: 30_000, maxDuration: false, revalidate: false } }, (_, reply) => idle(reply))
    const port = await listen(app)
    for (let round = 1; round <= 2; round++) {
      await act({ app, port, get: (...headers) => connect(t, port).get('/', 'X-Client: a', ...headers) }, t)
      await until(() => app.sse.stats().opened === opened * round && closed.count === opened * round,
        () => `${opened * round} streams to be over: ${JSON.stringify(app.sse.stats())}`)
    }
    await turns()
    if (reason !== undefined) t.same(app.sse.stats().closed, { ...createStats().closed, [reason]: opened * 2 })
    t.ok(places.every(({ left }) => left === 1), `${places.length} places, each given back once`)
    t.same(await statuses(t, port, '/probe', 'a', 'a', 'a', 'b', 'b'), [200, 200, 429, 200, 503], 'all the room is there again')
    t.equal(app.sse.connections.size, 3)
  })
}

t.test('a place is given back, once: the server closes', async (t) => {
  const places = watchPlaces(t)
  const app = await createApp(t, { ...ROOM, writeTimeout: false })
  app.get('/', (_, reply) => idle(reply))
  app.get('/flood', (_, reply) => reply.sse(flood))
  const port = await listen(app)
  t.same(await statuses(t, port, '/', 'a', 'b'), [200, 200])
  const client = connect(t, port)
  await stall({ app, port, get: () => client.get('/flood') })
  await app.close()
  await until(() => places.every(({ left }) => left > 0))
  await turns()
  t.same(places, [{ left: 1 }, { left: 1 }, { left: 1 }])
})

t.test('a place is given back, once: HTTP/2 streams that are reset, or whose session breaks', async (t) => {
  const places = watchPlaces(t)
  const app = await createApp(t, { ...ROOM, writeTimeout: false }, { http2: true } as FastifyServerOptions)
  const closed = countClosed(t, app)
  app.get('/', (_, reply) => idle(reply))
  app.get('/flood', (_, reply) => reply.sse(flood))
  app.get('/short', (_, reply) => reply.sse([{ data: 1 }]))
  const port = await listen(app)
  const sessions: http2.ClientHttp2Session[] = []
  t.after(() => sessions.forEach((session) => session.destroy()))
  const open = (session: http2.ClientHttp2Session, path: string, client: string) => {
    const stream = session.request({ ':path': path, 'x-client': client })
    stream.on('error', () => {})
    return stream
  }
  const answered = (stream: http2.ClientHttp2Stream) => new Promise<number>((resolve) => {
    stream.once('response', (headers) => resolve(headers[':status']!))
  })
  const newSession = () => {
    const session = http2.connect(`http://127.0.0.1:${port}`)
    session.on('error', () => {})
    sessions.push(session)
    return session
  }
  const session = newSession()
  const { NGHTTP2_CANCEL, NGHTTP2_NO_ERROR, NGHTTP2_INTERNAL_ERROR } = http2.constants
  let opened = 0
  for (const code of [NGHTTP2_CANCEL, NGHTTP2_NO_ERROR, NGHTTP2_INTERNAL_ERROR]) {
    for (const path of ['/', '/flood']) {
      const stream = open(session, path, 'a')
      t.equal(await answered(stream), 200)
      if (path === '/') stream.resume()
      stream.close(code)
      opened++
      await until(() => closed.count >= opened, () => `${opened} streams to be over after ${path}, ${code}`)
      await turns()
      t.same(places.map(({ left }) => left), new Array(opened).fill(1), `${path} reset with code ${code}`)
    }
  }
  const short = open(session, '/short', 'a')
  short.resume()
  t.equal(await answered(short), 200)
  await until(() => short.closed && app.sse.stats().closed['source-done'] === 1)
  const breaking = newSession()
  t.same(await Promise.all(['a', 'a', 'b'].map((client) => answered(open(breaking, '/', client)))), [200, 200, 200])
  breaking.destroy()
  await until(() => places.every(({ left }) => left > 0))
  await turns()
  t.equal(closed.count, app.sse.stats().opened, 'each is told of once')
  const found: number[] = []
  for (const client of ['a', 'a', 'a', 'b', 'b']) found.push(await answered(open(session, '/', client)))
  t.same(found, [200, 200, 429, 200, 503])
})

t.test('a stream that has failed leaves its place to the stream by which the error handler answers', async (t) => {
  const app = await createApp(t, { maxConnections: 1, maxConnectionsPerClient: 1 })
  app.setErrorHandler((_, __, reply) => reply.sse([{ data: 'instead' }]))
  app.get('/', (_, reply) => reply.sse(function * () { throw new Error('early') } as () => Generator<never>))
  const client = connect(t, await listen(app)).get('/', SOFTLY)
  await client.until(/\n0\r\n\r\n$|retry: \d+\n$/)
  t.equal(client.body, 'data: "instead"\n\n', 'one request, one stream')
})

t.test('an EventSource that was refused comes back by itself, and gets its stream when there is room', async (t) => {
  const app = await createApp(t, { maxConnections: 1, retry: { min: 20, max: 40 } }, { forceCloseConnections: true })
  app.get('/', (_, reply) => idle(reply))
  const port = await listen(app)
  const { client } = await ask(t, port, '/')
  const source = new EventSource(`http://127.0.0.1:${port}/`)
  t.after(() => source.close())
  const got = deferred<string>()
  source.onmessage = ({ data }) => got.resolve(data)
  await until(() => app.sse.stats().refused['max-connections'] >= 3, () => 'three tries')
  t.not(source.readyState, source.CLOSED)
  t.equal(app.sse.stats().opened, 1)
  client.destroy()
  t.equal(await got.promise, '1')
  t.equal(source.readyState, source.OPEN)
  const { open, opened, refused } = app.sse.stats()
  t.same({ open, opened }, { open: 1, opened: 2 })
  t.same(refused, { ...createStats().refused, 'max-connections': refused['max-connections'] })
})

const BATCH = 500
const BATCHES = 20

t.test('ten thousand clients that break off at any moment leave all the room there was', {
  skip: descriptors() < 3 * BATCH && `it needs ${3 * BATCH} file descriptors`
}, async (t) => {
  const places = watchPlaces(t)
  const room = 230
  const limits = { maxConnections: room, maxConnectionsPerClient: 140, clientKey: byHeader! }
  const app = await createApp(t, { ...limits, writeTimeout: false })
  const closed = countClosed(t, app)
  app.get('/', (_, reply) => idle(reply))
  app.get('/flood', (_, reply) => reply.sse(flood))
  app.get('/short', (_, reply) => reply.sse([{ data: 1 }]))
  app.get('/slow', async (_, reply) => {
    await turns(3)
    return idle(reply)
  })
  const port = await listen(app)

  let answered = 0
  let all = deferred()
  /** Has an answer, and goes when all others who wait for one (half of a batch) have theirs, so that there is no room. */
  const met = async ({ socket }: RawClient) => {
    await new Promise((resolve) => { socket.once('data', resolve) })
    if (++answered % (BATCH / 2) === 0) all.resolve()
    await all.promise
  }

  /** How each of them goes about it. */
  const kinds: ((client: RawClient, header: string) => Promise<unknown> | void)[] = [
    (client) => client.destroy(),
    async (client) => {
      client.send('GET / HTTP/1.1\r\nHost: te')
      await turns(3)
      client.destroy()
    },
    async (client, header) => {
      client.get('/slow', header)
      await turns(5)
      client.destroy()
    },
    async (client, header) => {
      await met(client.get('/', header))
      client.destroy()
    },
    async (client, header) => {
      await met(client.get('/', header))
      client.socket.resetAndDestroy()
    },
    async (client, header) => {
      await met(client.get('/', header).get('/', header).get('/short', header))
      client.destroy()
    },
    async (client, header) => {
      await met(client.get('/short', header).get('/', header))
      client.destroy()
    },
    async (client, header) => {
      await met(client.get('/', header))
      client.socket.end()
    },
    (client, header) => {
      client.socket.end(`GET /slow HTTP/1.1\r\nHost: test\r\n${header}\r\n\r\n`)
    },
    async (client, header) => {
      client.socket.pause()
      client.get('/flood', header)
      await turns(10)
      client.destroy()
    }
  ]
  let broken = 0
  for (let batch = 0; batch < BATCHES; batch++) {
    all = deferred()
    await Promise.all(Array.from({ length: BATCH }, async (_, n) => {
      const client = new RawClient(port)
      await kinds[n % kinds.length]!(client, `X-Client: ${n % 3 === 0 ? 'a' : 'b'}`)
      await client.untilClosed()
      broken++
    }))
    await until(() => app.sse.stats().open === 0 && closed.count === app.sse.stats().opened,
      () => `${closed.count} closed, ${JSON.stringify(app.sse.stats())}`)
  }
  await turns(50)
  t.equal(broken, BATCH * BATCHES)
  const { open, opened, closed: reasons, refused } = app.sse.stats()
  t.equal(open, 0)
  t.ok(opened > 4_000, `${opened} streams were opened`)
  t.ok(reasons['client-gone'] > 2_000, `${reasons['client-gone']} clients went away`)
  t.ok(refused['max-connections'] > 0 && refused['max-connections-per-client'] > 0, JSON.stringify(refused))
  t.equal(Object.values(reasons).reduce((sum, count) => sum + count), opened, 'each has ended for one reason')
  t.equal(app.sse.connections.size, 0)
  t.same([...app.sse.connections], [])
  t.equal(places.length, opened)
  t.ok(places.every(({ left }) => left === 1), 'each place was given back, once')

  const clients = Array.from({ length: room }, (_, n) => connect(t, port).get('/', `X-Client: ${n < 140 ? 'a' : 'b'}`))
  await Promise.all(clients.map((client) => client.until('data: 1\n\n')))
  t.equal(app.sse.connections.size, room, 'the whole limit is free')
  t.same(await statuses(t, port, '/', 'a', 'b', 'd'), [503, 503, 503])
  clients[0]!.destroy()
  await until(() => closed.count === opened + 1)
  t.same(await statuses(t, port, '/', 'a', 'd'), [200, 503])
  clients[229]!.destroy()
  await until(() => closed.count === opened + 2)
  t.same(await statuses(t, port, '/', 'a', 'b'), [429, 200])
})

t.test('a clientKey that would never be called is refused at registration', async (t) => {
  for (const options of [{}, { maxConnections: 5 }, { maxConnectionsPerClient: undefined }]) {
    const app = fastify()
    t.after(() => app.close())
    await t.rejects(async () => app.register(sse, { ...options, clientKey: () => 1 }), {
      code: 'FST_SSE_INVALID_OPTION', message: /'clientKey' of the plugin needs 'maxConnectionsPerClient'/
    })
  }
})

t.test('HTTP/2: a stream that was ended, but is not read, gives its place back after writeTimeout; one that is reset at once', async (t) => {
  const app = await createApp(t, { maxConnections: 5, writeTimeout: 200 }, { http2: true } as FastifyServerOptions)
  app.get('/done', (_, reply) => reply.sse([{ data: 1 }]))
  app.get('/throws', (_, reply) => {
    reply.sse(idleSource().source)
    throw new Error('no')
  })
  const port = await listen(app)
  const statuses = () => {
    const session = http2.connect(`http://127.0.0.1:${port}`)
    t.after(() => session.destroy())
    return Promise.all(Array.from({ length: 5 }, async () => {
      const [headers] = await once(session.request({ ':path': '/done' }).resume(), 'response')
      return headers[':status']
    }))
  }
  for (const [path, reason, isReset] of [
    ['/throws', 'superseded', true], ['/done', 'source-done', true], ['/done', 'source-done', false]
  ] as const) {
    const session = http2.connect(`http://127.0.0.1:${port}`, { settings: { initialWindowSize: 0 } })
    session.on('error', () => {})
    t.after(() => session.destroy())
    const before = app.sse.stats().closed[reason]
    const streams = Array.from({ length: 5 }, () => session.request({ ':path': path }).on('error', () => {}))
    await until(() => app.sse.stats().closed[reason] >= before + 5)
    if (isReset) {
      for (const stream of streams) stream.close(http2.constants.NGHTTP2_NO_ERROR)
      await new Promise((resolve) => session.ping(resolve))
      t.same(await statuses(), [200, 200, 200, 200, 200], path)
    } else {
      t.same(await statuses(), [503, 503, 503, 503, 503], 'it is not over')
      // A stream that nobody reads is there until its time is over.
      while ((await statuses()).includes(503));
    }
  }
})
