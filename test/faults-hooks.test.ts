/**
 * What goes wrong around a stream: hooks, the log, clients that break off in the middle of a head, an application that does
 * things out of their order. Its source is let go of, it is counted once, and nobody else notices.
 */
import fastify, { type FastifyReply, type FastifyRequest, type RouteShorthandOptions, type FastifyServerOptions } from 'fastify'
import { once } from 'node:events'
import http2 from 'node:http2'
import { Readable, Transform } from 'node:stream'
import t from 'tap'
import { Registry } from 'prom-client'
import sse from '../index.ts'
import type { EndReason } from '../lib/stats.ts'
import { createBystanders, SECRET, WARN } from './bystanders.ts'
import { connect, createApp, deferred, idleSource, listen, readOn, turns, until, type RawClient } from './helpers.ts'

const secret = () => new Error(SECRET)
const isStream = (payload: any): payload is Readable => typeof payload?.pipe === 'function'

/** Two events, some turns apart, then none. */
function pausing () {
  const state = { started: false, finished: false }
  async function * source ({ signal }: { signal: AbortSignal }) {
    state.started = true
    try {
      yield { data: 1 }
      await turns(5)
      yield { data: 2 }
      await new Promise((resolve) => signal.addEventListener('abort', resolve))
    } finally {
      state.finished = true
    }
  }
  return { state, source }
}

interface Fault {
  onSend: (payload: unknown) => unknown
  act?: (client: RawClient) => unknown
  reason: EndReason
  /** The end of the answer; undefined: there is none. */
  answer?: RegExp
  /** The message of the error in the log. */
  log?: string
}

const leave = async (client: RawClient) => {
  await turns(10)
  client.destroy()
}

/** A stream that an onSend hook puts before the response, and that throws at one of its writes. */
const throwsAt = (write: number) => (payload: unknown) => {
  let writes = 0
  return isStream(payload) && payload.pipe(new Transform({
    transform (chunk, _, callback) {
      if (++writes === write) throw secret()
      callback(null, chunk)
    }
  }))
}

const FAULTS: Record<string, Fault> = {
  throws: {
    onSend (payload) {
      if (isStream(payload)) throw secret()
      return payload
    },
    reason: 'superseded',
    answer: /^HTTP\/1.1 500 [^]*sorry$/,
    log: SECRET
  },
  'fails later': {
    onSend: async (payload) => {
      if (!isStream(payload)) return payload
      await turns(10)
      throw secret()
    },
    reason: 'superseded',
    answer: /^HTTP\/1.1 500 [^]*sorry$/,
    log: SECRET
  },
  'never ends': { onSend: (payload) => isStream(payload) ? new Promise(() => {}) : payload, act: leave, reason: 'client-gone' },
  'sends a text instead': { onSend: () => 'another', reason: 'superseded', answer: /^HTTP\/1.1 200 [^]*another$/ },
  'sends an endless stream instead': {
    onSend: (payload) => isStream(payload) ? new Readable({ read () {} }) : payload, act: leave, reason: 'client-gone'
  },
  'puts a stream before the response that throws': { onSend: throwsAt(1), reason: 'source-threw', log: SECRET },
  'puts a stream before the response that throws later': { onSend: throwsAt(2), reason: 'source-threw', log: SECRET }
}

t.test('an onSend hook', async (t) => {
  const bystanders = await createBystanders(t)
  const { app, lines } = bystanders
  const states: { finished: boolean }[] = []
  for (const [n, { onSend }] of Object.values(FAULTS).entries()) {
    app.get(`/${n}`, { onSend: async (_request, _reply, payload) => onSend(payload) }, (_, reply) => {
      const { state, source } = pausing()
      states.push(state)
      return reply.sse(source)
    })
  }
  await bystanders.arrive(t)
  for (const [n, [name, { act, reason, answer, log }]] of Object.entries(FAULTS).entries()) {
    await t.test(name, async (t) => {
      lines.length = 0
      const client = connect(t, bystanders.port).get(`/${n}`)
      await act?.(client)
      await until(() => client.socket.destroyed || answer?.test(client.received) === true, () => `the answer: ${client.received}`)
      await until(() => states[n]!.finished)
      await bystanders.haveNotNoticed(t, reason)
      if (answer === undefined) t.notMatch(client.received, /\r\n0\r\n\r\n$/, 'it is not taken for whole')
      t.notMatch(client.received, SECRET)
      t.equal(lines.some(({ level, err }) => level > WARN && err?.message === log), log !== undefined, 'the log says why')
      client.destroy()
    })
  }
  await bystanders.nothingIsLeft(t)
})

t.test('who reads the same channel through a stream that throws harms no reader', async (t) => {
  const bystanders = await createBystanders(t)
  const { app, news } = bystanders
  app.get('/broken', { onSend: async (_request, _reply, payload) => throwsAt(2)(payload) }, (_, reply) => reply.sse(news))
  const port = await listen(app)
  const client = connect(t, port).get('/broken')
  await client.until('\n\n')
  const after = readOn(news.subscribe())
  await turns()
  for (const data of [1, 2, 3]) await news.publish({ data })
  await client.untilClosed()
  await until(() => after.seen.length === 3, () => `3 events, got ${after.seen.length}`)
  t.match(app.sse.stats(), { open: 0, closed: { 'source-threw': 1 } })
})

/** Its log throws, whatever it is told, but for what Fastify says of each request. */
function logThatThrows (request: FastifyRequest, reply: FastifyReply): void {
  const fail = () => { throw secret() }
  const info = (facts: { res?: unknown }) => { if (facts.res === undefined) fail() }
  request.log = reply.log = Object.assign(Object.create(request.log), { error: fail, warn: fail, info, debug: fail })
}

t.test('a log that throws', async (t) => {
  const bystanders = await createBystanders(t)
  const { app } = bystanders
  const never = () => new Promise(() => {})
  async function * failing () { yield { data: 1 }; await turns(); throw secret() }
  const cases: Record<string, [(reply: FastifyReply) => unknown, EndReason, string]> = {
    'at the end of a stream': [(reply) => reply.sse([{ data: 1 }]), 'source-done', 'data: 1\n\n'],
    'when a source fails': [(reply) => reply.sse(failing), 'source-threw', 'data: 1\n\n'],
    'when onError fails too': [(reply) => reply.sse(failing, { onError: () => { throw secret() } }), 'source-threw', 'data: 1\n\n'],
    'when an invalid event is dropped': [
      (reply) => reply.sse([{ data: 1 }, { retry: -1 }, { data: 2 }] as any, { onInvalidEvent: 'drop' }), 'source-done', 'data: 1\n\ndata: 2\n\n'
    ],
    'when revalidate does not answer': [
      (reply) => reply.sse(idleSource().source, { revalidate: never as any, revalidateEvery: 5 }), 'revoked', ''
    ],
    'when another answer is sent': [(reply) => { reply.sse(idleSource().source); return { another: 'answer' } }, 'superseded', '{"another":"answer"}']
  }
  const all = Object.values(cases)
  const onRequest: RouteShorthandOptions['onRequest'] = async (request, reply) => logThatThrows(request, reply)
  app.get<{ Params: { n: number } }>('/:n', { onRequest }, async ({ params }, reply) => all[params.n]![0](reply))
  await bystanders.arrive(t)
  for (const [n, [name, [, reason, body]]] of Object.entries(cases).entries()) {
    await t.test(name, async (t) => {
      const client = connect(t, bystanders.port).get(`/${n}`)
      await client.until(/\n0\r\n\r\n$|\}$/)
      t.equal(client.body, body)
      await bystanders.haveNotNoticed(t, reason)
      client.destroy()
    })
  }
  t.equal(app.sse.stats().dropped, 1)
})

t.test('clients that reset their connection in the middle of a head', async (t) => {
  const bystanders = await createBystanders(t)
  const { app } = bystanders
  const entered = deferred()
  const states: { started: boolean, finished: boolean }[] = []
  const stream = (_: unknown, reply: FastifyReply) => {
    const { state, source } = pausing()
    states.push(state)
    return reply.sse(source)
  }
  app.get('/', stream)
  app.get('/slow', { onSend: async (_request, _reply, payload) => { entered.resolve(); await turns(10); return payload } }, stream)
  const port = await bystanders.arrive(t)
  const reset = (client: RawClient) => client.socket.resetAndDestroy()

  await t.test('of their request', async (t) => {
    const client = connect(t, port).send('GET / HTTP/1.1\r\nHost: te')
    await once(client.socket, 'connect')
    await turns()
    reset(client)
    await turns()
    await bystanders.haveNotNoticed(t)
  })
  await t.test('of their response, while onSend hooks run', async (t) => {
    const client = connect(t, port).get('/slow')
    await entered.promise
    reset(client)
    await bystanders.haveNotNoticed(t, 'client-gone')
  })
  await t.test('of their response, at whatever moment', async (t) => {
    for (let moment = 0; moment < 12; moment++) {
      const before = app.sse.stats().opened
      const client = connect(t, port).get('/')
      await once(client.socket, 'connect')
      await turns(moment)
      reset(client)
      await turns()
      await bystanders.haveNotNoticed(t, ...(app.sse.stats().opened > before ? ['client-gone' as const] : []))
    }
  })
  await until(() => states.every(({ started, finished }) => started === finished), () => 'all sources to be let go of')
  await bystanders.nothingIsLeft(t)
})

t.test('an application that ends the response itself, over HTTP/1.1 and HTTP/2', async (t) => {
  for (const options of [{}, { http2: true }] as FastifyServerOptions[]) {
    const app = await createApp(t, {}, options)
    const { state, source } = pausing()
    app.get('/', (_, reply) => {
      setTimeout(() => reply.raw.end(), 1)
      return reply.sse(source)
    })
    const port = await listen(app)
    if ('http2' in options) {
      const session = http2.connect(`http://127.0.0.1:${port}`)
      t.after(() => session.destroy())
      session.request({ ':path': '/' }).on('error', () => {}).resume()
    } else {
      connect(t, port).get('/')
    }
    await until(() => state.finished && app.sse.connections.size === 0)
    const { open, opened } = app.sse.stats()
    t.same({ open, opened }, { open: 0, opened: 1 })
  }
})

t.test('app.close() while a stream starts, and twice', async (t) => {
  const app = await createApp(t)
  const entered = deferred()
  const gate = deferred()
  const { state, source } = pausing()
  app.addHook('onSend', async () => { entered.resolve(); await gate.promise })
  app.get('/', (_, reply) => reply.sse(source))
  const client = connect(t, await listen(app)).get('/')
  await entered.promise
  const closing = [app.close(), app.close()]
  await turns()
  gate.resolve()
  await Promise.all(closing)
  await client.untilClosed()
  t.match(client.body, /^data: 1\n\n(data: 2\n\n)?retry: \d+\n\n$/)
  t.equal(state.finished, true)
  t.match(app.sse.stats(), { open: 0, opened: 1, closed: { shutdown: 1 } })
})

t.test('app.close() before the app is ready', async (t) => {
  const app = fastify()
  app.register(sse)
  await t.resolves(async () => app.close())
})

t.test('a metrics registry that throws fails the registration, and is left as it was', async (t) => {
  const registry = new Registry()
  let registered = 0
  const registerMetric = (metric: any) => {
    if (++registered === 5) throw new Error('full')
    Registry.prototype.registerMetric.call(registry, metric)
  }
  const app = fastify()
  t.after(() => app.close())
  await t.rejects(async () => app.register(sse, { metrics: Object.assign(registry, { registerMetric }) }), { message: 'full' })
  t.same(registry.getMetricsAsArray(), [])
})
