/** `revalidate`: whether a client may still have its stream is asked again and again, and only `true` is a yes. */
import jwt from '@fastify/jwt'
import { EventSource } from 'eventsource'
import fastify, { type FastifyInstance, type FastifyRequest, type FastifyServerOptions } from 'fastify'
import { AsyncLocalStorage } from 'node:async_hooks'
import t, { type Test } from 'tap'
import sse, { type SseOptions } from '../index.ts'
import { createStats } from '../lib/stats.ts'
import { untilBehind } from './behind.ts'
import { connect, createApp, deferred, idleSource, listen, logInto, ownClock, turns, until } from './helpers.ts'

interface Line { level: number, msg: string, sse?: { reason: string, events: number }, err?: { message: string } }

const INFO = 30

/** An app of which the log is written down. */
async function observe (t: Test, options: SseOptions = {}, server: FastifyServerOptions = {}) {
  const lines: Line[] = []
  const app = await createApp(t, options, { ...logInto(lines), ...server })
  return { app, lines, ends: () => lines.filter((line) => line.sse !== undefined) }
}

/** Opens idle streams, each on a socket of its own, and sees their first event. */
async function openIdle (t: Test, app: FastifyInstance, port: number, count: number, ...headers: string[]) {
  const clients = []
  for (let n = 0; n < count; n++) {
    const client = connect(t, port).get('/', ...headers)
    await client.until('data: 1\n\n')
    clients.push(client)
  }
  return clients
}

/** Every draw is this one. */
function ownDraw (t: Test, draw: number): void {
  const { random } = Math
  t.after(() => { Math.random = random })
  Math.random = () => draw
}

/** The last of all draws. */
const MOST = 1 - Number.EPSILON

t.test('it is asked at a time drawn at random first, then every revalidateEvery ms', async (t) => {
  for (const [draw, first] of [[0, 1], [0.5, 501], [MOST, 1_000]] as const) {
    await t.test(`first after ${first} ms`, async (t) => {
      const at: number[] = []
      const revalidate = () => at.push(Date.now() - opened) > 0
      const { app } = await observe(t, { revalidate, revalidateEvery: 1_000 })
      app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
      const port = await listen(app)
      const clock = ownClock(t)
      ownDraw(t, draw)
      const opened = Date.now()
      await openIdle(t, app, port, 1)
      await clock.tickAsync(first - 1)
      t.same(at, [])
      for (let n = 0; n < 10; n++) await clock.tickAsync(n === 0 ? 1 : 1_000)
      t.same(at, Array.from({ length: 10 }, (_, n) => first + n * 1_000))
      t.equal(app.sse.stats().open, 1)
    })
  }
})

t.test('streams that are opened together are not asked about together, but each within every revalidateEvery ms', async (t) => {
  const asked = new Map<FastifyRequest, number[]>()
  const app = await createApp(t, {
    revalidate (request) {
      asked.set(request, [...asked.get(request) ?? [], Date.now() - start])
      return true
    },
    revalidateEvery: 1_000
  })
  app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  const port = await listen(app)
  const clock = ownClock(t)
  const start = Date.now()
  const clients = Array.from({ length: 200 }, () => connect(t, port).get('/'))
  await Promise.all(clients.map((client) => client.until('data: 1\n\n')))
  await clock.tickAsync(1_000)
  t.equal(asked.size, 200, 'each was asked about')
  t.ok([...asked.values()].every((times) => times.length === 1), 'once')
  const tenths = new Array(10).fill(0)
  for (const [ms] of asked.values()) tenths[Math.floor((ms! - 1) / 100)]++
  // Of 200 in ten parts 20 are to be expected in each; fewer than 3, or more than 50, is less likely than one in 100,000.
  t.ok(tenths.every((count) => count >= 3 && count <= 50), `spread: ${tenths}`)
  await clock.tickAsync(3_000)
  for (const [first, ...more] of asked.values()) t.same(more, [1, 2, 3].map((n) => first! + n * 1_000))
})

t.test('the default is a minute', async (t) => {
  let asked = 0
  const app = await createApp(t, { revalidate: () => { asked++; return true } })
  app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source, { keepAlive: false }))
  const port = await listen(app)
  const clock = ownClock(t)
  ownDraw(t, MOST)
  await openIdle(t, app, port, 1)
  await clock.tickAsync(59_999)
  t.equal(asked, 0)
  await clock.tickAsync(1)
  t.equal(asked, 1)
  await clock.tickAsync(59_999)
  t.equal(asked, 1)
  await clock.tickAsync(1)
  t.equal(asked, 2)
})

/** What is no yes, and what the log has of it: with the end of the stream, or as an error of the application. */
const NOES: Record<string, [revalidate: () => unknown, err?: RegExp | undefined, mistake?: RegExp]> = {
  false: [() => false],
  'a promise of false': [async () => false],
  'a throw': [() => { throw new Error('no such user') }, /^no such user$/],
  'a rejection': [async () => { throw new Error('no such user') }, /^no such user$/],
  undefined: [() => undefined, undefined, /revalidate must return true or false, got undefined$/],
  'a promise of nothing': [async () => {}, undefined, /revalidate must return true or false, got undefined$/],
  null: [() => null, undefined, /revalidate must return true or false, got null$/],
  1: [() => 1, undefined, /revalidate must return true or false, got the number 1$/],
  'a text': [() => 'true', undefined, /revalidate must return true or false, got the string "true"$/],
  'a user': [() => ({ name: 'secret' }), undefined, /revalidate must return true or false, got an object \(Object\)$/],
  'a thenable of a user': [() => ({ then: (resolve: (value: object) => void) => resolve([]) }), undefined, /revalidate must return true or false, got an array of 0$/]
}

for (const [name, [revalidate, err, mistake]] of Object.entries(NOES)) {
  t.test(`anything but true ends the stream as revoked: ${name}`, async (t) => {
    let asked = 0
    const { app, ends, lines } = await observe(t, {
      revalidate: (() => { asked++; return asked === 1 ? true : revalidate() }) as () => boolean, revalidateEvery: 1_000
    })
    const { state, source } = idleSource({ data: 1 })
    app.get('/', (_, reply) => reply.sse(source))
    const port = await listen(app)
    const clock = ownClock(t)
    ownDraw(t, MOST)
    const [client] = await openIdle(t, app, port, 1)
    await clock.tickAsync(1_000)
    t.match(app.sse.stats(), { open: 1 }, 'true: it goes on')
    await clock.tickAsync(1_000)
    await client!.until('\r\n0\r\n\r\n')
    t.match(client!.head, /^HTTP\/1\.1 200 /)
    t.equal(client!.body, 'data: 1\n\n', 'what was yielded, the end, and no error')
    t.equal(client!.closed, false)
    t.match(state, { aborted: true, finished: true })
    await until(() => ends().length > 0)
    t.same(app.sse.stats().closed, { ...createStats().closed, revoked: 1 })
    t.match(ends(), [{ level: INFO, msg: 'event stream ended', sse: { reason: 'revoked', events: 1, bytes: 9, ms: 2_000 } }])
    if (err === undefined) t.equal(ends()[0]?.err, undefined)
    else t.match(ends()[0]?.err?.message, err)
    t.notMatch(JSON.stringify(lines), 'secret')
    const errors = lines.filter(({ level }) => level > INFO)
    t.equal(errors.length, mistake === undefined ? 0 : 1, 'an error only of what is no answer')
    if (mistake !== undefined) t.match(errors[0], { level: 50, err: { code: 'FST_SSE_INVALID_OPTION', message: mistake } })
    await clock.tickAsync(10_000)
    t.equal(asked, 2, 'nobody asks after the end')
    t.equal(ends().length, 1)
  })
}

t.test('no answer when the next is due is a no, whatever comes later', async (t) => {
  for (const late of ['nothing', 'true', 'false', 'a rejection']) {
    await t.test(`later: ${late}`, async (t) => {
      const answer = deferred<boolean>()
      let asked = 0
      const revalidate = () => { asked++; return answer.promise }
      const { app, ends, lines } = await observe(t, { revalidate, revalidateEvery: 1_000 })
      app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
      const port = await listen(app)
      const clock = ownClock(t)
      ownDraw(t, 0)
      const [client] = await openIdle(t, app, port, 1)
      await clock.tickAsync(1)
      t.equal(asked, 1)
      await clock.tickAsync(999)
      t.match(app.sse.stats(), { open: 1 })
      await clock.tickAsync(1)
      t.match(app.sse.stats(), { open: 0, closed: { revoked: 1 } })
      await client!.until('\r\n0\r\n\r\n')
      t.equal(client!.body, 'data: 1\n\n')
      if (late === 'true' || late === 'false') answer.resolve(late === 'true')
      else if (late === 'a rejection') answer.reject(new Error('too late'))
      await clock.tickAsync(5_000)
      await until(() => ends().length > 0)
      t.match(ends(), [{ level: INFO, err: undefined }])
      t.match(lines.filter(({ level }) => level > INFO), [{ err: { message: /revalidate has not answered within 1000 ms$/ } }])
      t.equal(asked, 1, 'two are never under way')
      t.same(app.sse.stats().closed, { ...createStats().closed, revoked: 1 })
    })
  }
})

t.test('an answer that comes right before the next is due is in time, and two never overlap', async (t) => {
  let under = 0
  let most = 0
  let asked = 0
  const app = await createApp(t, {
    async revalidate () {
      asked++
      most = Math.max(most, ++under)
      await new Promise((resolve) => setTimeout(resolve, 999))
      under--
      return true
    },
    revalidateEvery: 1_000
  })
  app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  const port = await listen(app)
  const clock = ownClock(t)
  ownDraw(t, 0)
  await openIdle(t, app, port, 1)
  await clock.tickAsync(10_000)
  t.equal(asked, 10)
  t.equal(most, 1)
  t.match(app.sse.stats(), { open: 1 })
})

t.test('after the end of a stream nobody asks, and no timer is left, however it has ended', async (t) => {
  const endings: Record<string, (app: FastifyInstance, client: ReturnType<typeof connect>) => unknown> = {
    ended: (app) => [...app.sse.connections][0]!.end(),
    revoked: (app) => [...app.sse.connections][0]!.end('revoked'),
    'client-gone': (_, client) => client.destroy()
  }
  for (const [reason, end] of Object.entries(endings)) {
    for (const waiting of ['for its time', 'for an answer']) {
      await t.test(`${reason}, waiting ${waiting}`, async (t) => {
        let asked = 0
        const app = await createApp(t, {
          revalidate () {
            asked++
            return waiting === 'for an answer' ? new Promise(() => {}) : true
          },
          revalidateEvery: 1_000,
          keepAlive: false,
          writeTimeout: false
        })
        app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
        const port = await listen(app)
        const clock = ownClock(t)
        ownDraw(t, 0)
        const [client] = await openIdle(t, app, port, 1)
        await clock.tickAsync(1)
        t.equal(asked, 1)
        t.equal(clock.countTimers(), 1)
        end(app, client!)
        await until(() => app.sse.stats().open === 0)
        t.equal(app.sse.stats().closed[reason as 'ended'], 1)
        t.equal(clock.countTimers(), 0)
        await clock.tickAsync(10_000)
        t.equal(asked, 1)
      })
    }
  }
})

t.test('a revalidate that ends the stream itself is not asked again', async (t) => {
  let asked = 0
  const app: FastifyInstance = await createApp(t, {
    revalidate () {
      asked++
      for (const connection of app.sse.connections) connection.end()
      return false
    },
    revalidateEvery: 1_000
  })
  app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source, { keepAlive: false, writeTimeout: false }))
  const port = await listen(app)
  const clock = ownClock(t)
  ownDraw(t, 0)
  await openIdle(t, app, port, 1)
  await clock.tickAsync(10_000)
  t.equal(asked, 1)
  t.match(app.sse.stats(), { open: 0, closed: { ended: 1, revoked: 0 } }, 'the first reason stays')
  t.equal(clock.countTimers(), 0)
})

t.test('a stream that has ended by itself, and one that was never opened, leave no timer', async (t) => {
  let asked = 0
  const options = { revalidateEvery: 1_000, keepAlive: false, writeTimeout: false } as const
  const app = await createApp(t, { revalidate: () => { asked++; return true }, ...options })
  const sources: Record<string, unknown> = {
    done: [{ data: 1 }],
    threw: (function * () { throw new Error('no') })(),
    invalid: [{ retry: -1 }],
    none: 42,
    function: () => { throw new Error('no') }
  }
  for (const [name, source] of Object.entries(sources)) app.get(`/${name}`, async (_, reply) => (reply as any).sse(source))
  app.get('/superseded', async (_, reply) => {
    reply.sse(idleSource().source)
    throw new Error('after all, no')
  })
  app.get('/304', async (_, reply) => reply.code(304).sse(idleSource().source))
  const port = await listen(app)
  const clock = ownClock(t)
  for (const path of [...Object.keys(sources), 'superseded', '304']) {
    await connect(t, port).get(`/${path}`).until('\r\n\r\n')
    await until(() => app.sse.stats().open === 0)
    await turns()
    t.equal(clock.countTimers(), 0, path)
  }
  await clock.tickAsync(10_000)
  t.equal(asked, 0)
})

t.test('the nearest option wins: a route, or a call, can switch it off, or have its own', async (t) => {
  const asked: string[] = []
  const app = await createApp(t, { revalidate: () => { asked.push('plugin'); return true }, revalidateEvery: 1_000 })
  const source = () => idleSource({ data: 1 }).source
  app.get('/plugin', (_, reply) => reply.sse(source()))
  app.get('/off', { sse: { revalidate: false } }, (_, reply) => reply.sse(source()))
  app.get('/route', { sse: { revalidate: () => { asked.push('route'); return true } } }, (_, reply) => reply.sse(source()))
  app.get('/call', (_, reply) => reply.sse(source(), { revalidate: () => { asked.push('call'); return true }, revalidateEvery: 500 }))
  app.get('/call-off', (_, reply) => reply.sse(source(), { revalidate: false }))
  const port = await listen(app)
  const clock = ownClock(t)
  for (const path of ['/plugin', '/off', '/route', '/call', '/call-off']) await connect(t, port).get(path).until('data: 1\n\n')
  await clock.tickAsync(1_000)
  t.same(asked.sort(), ['call', 'call', 'plugin', 'route'])
  t.equal(app.sse.stats().open, 5)
})

t.test('options that cannot be are refused where they are given', async (t) => {
  const wrong = [
    { revalidate: true }, { revalidate: 'yes' }, { revalidate: null }, { revalidateEvery: 0 }, { revalidateEvery: -1 }, { revalidateEvery: 1.5 },
    { revalidateEvery: false }, { revalidateEvery: 2_147_483_648 }, { revalidateEvery: '1' }
  ]
  const app = await createApp(t)
  for (const options of wrong) {
    const other = fastify()
    t.after(() => other.close())
    await t.rejects(async () => { await other.register(sse, options as object) }, { code: 'FST_SSE_INVALID_OPTION' }, JSON.stringify(options))
    t.throws(() => app.get('/', { sse: options as object }, (_, reply) => reply.sse([])), { code: 'FST_SSE_INVALID_OPTION' })
  }
})

t.test('it is given the request, in its async context', async (t) => {
  const storage = new AsyncLocalStorage<string>()
  const seen: [url: string, stored: string | undefined][] = []
  const app = await createApp(t, {
    async revalidate (request) {
      seen.push([request.url, storage.getStore()])
      return true
    },
    revalidateEvery: 1
  })
  app.addHook('onRequest', (request, _, done) => storage.run(`context of ${request.url}`, done))
  app.get('/:n', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  const port = await listen(app)
  for (const n of [1, 2]) await connect(t, port).get(`/${n}`).until('data: 1\n\n')
  await until(() => ['/1', '/2'].every((path) => seen.filter(([url]) => url === path).length > 3), () => 'both to be asked about')
  t.ok(seen.every(([url, stored]) => stored === `context of ${url}`), JSON.stringify(seen.slice(0, 4)))
})

t.test('a stream whose client is behind is ended too: it gets what was yielded, and the end', async (t) => {
  const allowed = { is: true }
  const options = { revalidateEvery: 1_000, keepAlive: false, writeTimeout: false } as const
  const { app, ends } = await observe(t, { revalidate: () => allowed.is, ...options })
  let yielded = 0
  app.get('/', (_, reply) => reply.sse(async function * () {
    for (;;) {
      yielded++
      yield { raw: 'x'.repeat(65_536) }
    }
  }))
  const port = await listen(app)
  const clock = ownClock(t)
  const client = connect(t, port).get('/')
  client.socket.pause()
  await untilBehind(app.sse)
  const pulled = yielded
  allowed.is = false
  await clock.tickAsync(1_000)
  t.match(app.sse.stats(), { open: 0, closed: { revoked: 1 } })
  client.socket.resume()
  await client.until(/\r\n0\r\n\r\n$/)
  const texts = client.body.split('\n\n').slice(0, -1)
  t.ok(texts.length > 0 && texts.every((text) => text === `data: ${'x'.repeat(65_536)}`), 'whole events')
  await until(() => ends().length > 0)
  t.match(ends(), [{ level: INFO, sse: { reason: 'revoked', events: texts.length } }])
  t.ok(yielded <= pulled, 'nothing more was pulled')
})

t.test('a pipelined stream that waits for its turn is asked about too, and never starts once it is revoked', async (t) => {
  const app = await createApp(t, { revalidate: ({ url }) => url !== '/2', revalidateEvery: 1_000 })
  const sources = [idleSource({ data: 1 }), idleSource({ data: 2 })]
  for (const [n, { source }] of sources.entries()) app.get(`/${n + 1}`, (_, reply) => reply.sse(source))
  const port = await listen(app)
  const clock = ownClock(t)
  const client = connect(t, port).get('/1').get('/2')
  await client.until('data: 1\n\n')
  await until(() => app.sse.stats().open === 2)
  await clock.tickAsync(1_000)
  t.match(app.sse.stats(), { open: 1, closed: { revoked: 1 } })
  ;[...app.sse.connections][0]!.end()
  await until(() => client.received.split('HTTP/1.1 200').length === 3)
  await turns()
  t.same(sources.map(({ state }) => state.started), [true, false])
  t.notMatch(client.received, 'data: 2')
})

t.test('the reader of a channel is revoked as any other, and may come back from where it was', async (t) => {
  const app = await createApp(t, { revalidate: () => false, revalidateEvery: 1_000, retry: { min: 5, max: 5 } })
  const channel = app.sse.channel('c')
  app.get('/', (_, reply) => reply.sse(channel))
  const port = await listen(app)
  const clock = ownClock(t)
  const client = connect(t, port).get('/')
  await client.until('id: ')
  const id = await channel.publish({ data: 1 })
  await client.until('data: 1\n\n')
  await clock.tickAsync(1_000)
  await client.until('\r\n0\r\n\r\n')
  t.match(client.body, new RegExp(`^id: [\\w-]+\n\nretry: 5\n\nid: ${id}\ndata: 1\n\n$`), 'no ID of the end: it may come back')
  t.match(app.sse.stats(), { closed: { revoked: 1 } })
})

t.test('a stream whose onSend hook is pending is ended, once that goes on', async (t) => {
  const gate = deferred()
  const app = await createApp(t, { revalidate: () => false, revalidateEvery: 1_000 })
  app.addHook('onSend', async () => { await gate.promise })
  const { state, source } = idleSource({ data: 1 })
  app.get('/', (_, reply) => reply.sse(source))
  const port = await listen(app)
  const clock = ownClock(t)
  const client = connect(t, port).get('/')
  await until(() => state.started)
  await turns()
  await clock.tickAsync(1_000)
  t.match(state, { aborted: true, finished: true })
  gate.resolve()
  await client.until('\r\n0\r\n\r\n')
  t.equal(client.body, 'data: 1\n\n')
  t.match(app.sse.stats(), { open: 0, closed: { revoked: 1 } })
})

t.test('no timer of it keeps the process alive', async (t) => {
  const before = process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length
  const options = { revalidateEvery: 100_000, keepAlive: false, writeTimeout: false } as const
  const app = await createApp(t, { revalidate: () => new Promise(() => {}), ...options })
  app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  const port = await listen(app)
  const clients = await openIdle(t, app, port, 5)
  // Timers that are unref'ed are not among the active resources; those of Node's HTTP server are not of this kind either.
  t.ok(process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length <= before)
  for (const client of clients) client.destroy()
  await until(() => app.sse.stats().open === 0)
})

t.test('three hundred streams that are asked about, and go at any moment, leave nothing behind', async (t) => {
  let asked = 0
  const app = await createApp(t, {
    async revalidate () {
      const number = asked++
      await new Promise((resolve) => setImmediate(resolve))
      if (number % 5 === 0) throw new Error('no')
      return number % 3 !== 0
    },
    revalidateEvery: 10,
    keepAlive: false,
    writeTimeout: false
  })
  app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  const port = await listen(app)
  const clock = ownClock(t)
  for (let round = 0; round < 10; round++) {
    const clients = Array.from({ length: 30 }, () => connect(t, port).get('/'))
    await Promise.all(clients.map((client) => client.until('data: 1\n\n')))
    for (const [n, client] of clients.entries()) {
      if (n % 3 === 0) client.destroy()
      await clock.tickAsync(1)
    }
    await until(() => {
      clock.tick(1)
      return app.sse.stats().open === 0
    })
  }
  const { open, opened, closed } = app.sse.stats()
  t.same({ open, opened, sum: closed.revoked + closed['client-gone'] }, { open: 0, opened: 300, sum: 300 })
  t.ok(closed.revoked > 100 && closed['client-gone'] > 20, JSON.stringify(closed))
  t.equal(clock.countTimers(), 0)
  const before = asked
  await clock.tickAsync(1_000)
  t.equal(asked, before)
})

t.test('with @fastify/jwt: a stream ends after its token has expired, and an EventSource that comes back gets 401', async (t) => {
  const app = fastify({ forceCloseConnections: true })
  t.after(() => app.close())
  await app.register(jwt, { secret: 'secret' })
  await app.register(sse, {
    async revalidate (request) {
      await request.jwtVerify()
      return true
    },
    revalidateEvery: 1_000,
    retry: { min: 10, max: 10 }
  })
  const statuses: number[] = []
  app.addHook('onResponse', async (_, reply) => { statuses.push(reply.statusCode) })
  app.get('/', { onRequest: (request) => request.jwtVerify() }, (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  const port = await listen(app)
  // 30 s from now, on a clock that stands still.
  const clock = ownClock(t)
  const token = app.jwt.sign({ user: 7 }, { expiresIn: '30s' })
  const source = new EventSource(`http://127.0.0.1:${port}/`, {
    fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, authorization: `Bearer ${token}` } })
  })
  t.after(() => source.close())
  const codes: (number | undefined)[] = []
  let received = 0
  source.onmessage = () => { received++ }
  source.onerror = ({ code }) => { codes.push(code) }
  await until(() => received === 1)
  for (let ms = 0; ms < 30_000; ms += 500) await clock.tickAsync(500)
  t.match(app.sse.stats(), { open: 1, opened: 1 }, 'it is asked some thirty times, and goes on')
  for (let ms = 0; ms < 2_000; ms += 500) await clock.tickAsync(500)
  t.match(app.sse.stats(), { open: 0, opened: 1, closed: { revoked: 1 } })
  await until(() => {
    clock.tick(10)
    return source.readyState === source.CLOSED
  }, () => 'the EventSource to give up')
  t.same(statuses, [200, 401])
  t.equal(codes.at(-1), 401)
  t.equal(received, 1)
})

/** An app with some streams of users. */
async function users (t: Test) {
  const { app, ends } = await observe(t)
  app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  const port = await listen(app)
  const of: Record<string, ReturnType<typeof connect>[]> = {}
  for (const user of ['ann', 'bob', 'ann', 'cem', 'ann']) {
    (of[user] ??= []).push(...await openIdle(t, app, port, 1, `X-User: ${user}`))
  }
  return { app, ends, of }
}

t.test('all streams of one user are ended by going through the connections', async (t) => {
  const { app, ends, of } = await users(t)
  for (const connection of app.sse.connections) {
    if (connection.request.headers['x-user'] === 'ann') connection.end('revoked')
  }
  t.match(app.sse.stats(), { open: 2, closed: { revoked: 3 } }, 'at once')
  t.same([...app.sse.connections].map(({ request }) => request.headers['x-user']), ['bob', 'cem'])
  for (const client of of.ann!) {
    await client.until('\r\n0\r\n\r\n')
    t.equal(client.body, 'data: 1\n\n')
  }
  await until(() => ends().length === 3)
  t.ok(ends().every(({ level, sse, err }) => level === INFO && sse!.reason === 'revoked' && err === undefined))
  for (const user of ['bob', 'cem']) t.equal(of[user]![0]!.body, 'data: 1\n\n')
  t.equal(app.sse.connections.size, 2)
})

t.test('end() is counted as ended, end(\'revoked\') as revoked, and another reason is a mistake that ends nothing', async (t) => {
  const { app, ends } = await users(t)
  const all = [...app.sse.connections]
  for (const reason of ['bogus', 'source-done', 'shutdown', '', null, 0, {}] as any[]) {
    t.throws(() => all[0]!.end(reason), { code: 'FST_SSE_INVALID_OPTION', statusCode: 500, message: /one of ended, revoked, got / }, String(reason))
  }
  t.match(app.sse.stats(), { open: 5, closed: createStats().closed }, 'all are open')
  all[0]!.end()
  all[1]!.end(undefined)
  all[2]!.end('ended')
  all[3]!.end('revoked')
  t.same(app.sse.stats().closed, { ...createStats().closed, ended: 3, revoked: 1 })
  all[0]!.end('revoked')
  all[3]!.end()
  t.same(app.sse.stats().closed, { ...createStats().closed, ended: 3, revoked: 1 }, 'one that has ended is left alone')
  t.throws(() => all[0]!.end('bogus' as 'ended'), { code: 'FST_SSE_INVALID_OPTION' })
  await until(() => ends().length === 4)
  t.same(ends().map(({ sse }) => sse!.reason).sort(), ['ended', 'ended', 'ended', 'revoked'])
})

t.test('an answer that was there in time counts, though the event loop was blocked until the next was due', async (t) => {
  const { app } = await observe(t, {
    // The answer comes by the event loop, as one over a socket would.
    revalidate: () => new Promise<boolean>((resolve) => { setImmediate(() => resolve(true)) }), revalidateEvery: 20
  })
  app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  const port = await listen(app)
  await openIdle(t, app, port, 3)
  for (let round = 0; round < 20; round++) {
    await new Promise((resolve) => setTimeout(resolve, 5))
    const until = performance.now() + 30
    while (performance.now() < until);
  }
  t.match(app.sse.stats(), { open: 3, closed: { revoked: 0 } })
})
