/** Comments that keep a silent connection alive: when, for whom, and what they cost. */
import t, { type Test } from 'tap'
import type { SseOptions } from '../index.ts'
import type { StreamOptions } from '../lib/options.ts'
import { untilBehind } from './behind.ts'
import { connect, createApp, deferred, idleSource, listen, ownClock, turns, until } from './helpers.ts'

/** An app whose clock stands still from the moment that it listens, with a stream that says when to yield. */
async function start (t: Test, options: SseOptions, routeOptions?: StreamOptions, callOptions?: StreamOptions) {
  const app = await createApp(t, options)
  const steps = [deferred()]
  let yielded = 0
  async function * source ({ signal }: { signal: AbortSignal }) {
    signal.addEventListener('abort', () => steps.at(-1)!.resolve())
    while (!signal.aborted) {
      await steps.at(-1)!.promise
      steps.push(deferred())
      yield { data: ++yielded }
    }
  }
  app.get('/', { ...(routeOptions && { sse: routeOptions }) }, (_, reply) => reply.sse(source, callOptions))
  const port = await listen(app)
  const clock = ownClock(t)
  const client = connect(t, port).get('/')
  await client.until('\r\n\r\n')
  await turns()
  return {
    app,
    port,
    clock,
    client,
    /** Moves the clock, and waits until whatever it has set off has arrived. */
    async pass (ms: number): Promise<string> {
      await clock.tickAsync(ms)
      await turns()
      return client.body
    },
    async write (): Promise<void> {
      steps.at(-1)!.resolve()
      await client.until(`data: ${yielded + 1}\n\n`)
      await turns()
    }
  }
}

t.test('a comment is sent after keepAlive of silence, and again after as much', async (t) => {
  const { pass } = await start(t, { keepAlive: 1_000 })
  t.equal(await pass(999), '')
  t.equal(await pass(1), ':\n\n')
  t.equal(await pass(999), ':\n\n')
  t.equal(await pass(1), ':\n\n:\n\n')
  t.equal(await pass(3_000), ':\n\n'.repeat(5))
})

t.test('the default is 15 s', async (t) => {
  const { pass } = await start(t, {})
  t.equal(await pass(14_999), '')
  t.equal(await pass(1), ':\n\n')
})

t.test('silence counts from the last write', async (t) => {
  const { pass, write } = await start(t, { keepAlive: 1_000 })
  t.equal(await pass(600), '')
  await write()
  t.equal(await pass(999), 'data: 1\n\n', 'not from the opening')
  await write()
  t.equal(await pass(999), 'data: 1\n\ndata: 2\n\n', 'not from the first event')
  t.equal(await pass(1), 'data: 1\n\ndata: 2\n\n:\n\n')
  t.equal(await pass(500), 'data: 1\n\ndata: 2\n\n:\n\n')
  await write()
  t.equal(await pass(999), 'data: 1\n\ndata: 2\n\n:\n\ndata: 3\n\n', 'nor from the last comment')
  t.equal(await pass(1), 'data: 1\n\ndata: 2\n\n:\n\ndata: 3\n\n:\n\n')
})

t.test('with false none is ever sent, and the stream stays open', async (t) => {
  for (const writeTimeout of [false, 1_000] as const) {
    await t.test(`writeTimeout ${writeTimeout}`, async (t) => {
      const { app, pass, write } = await start(t, { keepAlive: false, writeTimeout })
      t.equal(await pass(10_000_000), '')
      await write()
      t.equal(await pass(10_000_000), 'data: 1\n\n')
      t.equal(app.sse.stats().open, 1)
    })
  }
})

t.test('a keepAlive longer than writeTimeout is kept, and cuts off nobody who reads', async (t) => {
  const { app, pass } = await start(t, { keepAlive: 5_000, writeTimeout: 1_000 })
  t.equal(await pass(4_999), '')
  t.equal(await pass(1), ':\n\n')
  t.equal(app.sse.stats().open, 1)
})

t.test('the route\'s option goes before the plugin\'s, the call\'s before the route\'s', async (t) => {
  await t.test('route', async (t) => {
    const { pass } = await start(t, { keepAlive: 100 }, { keepAlive: 300 })
    t.equal(await pass(299), '')
    t.equal(await pass(1), ':\n\n')
  })
  await t.test('call', async (t) => {
    const { pass } = await start(t, { keepAlive: 100 }, { keepAlive: 300 }, { keepAlive: 200 })
    t.equal(await pass(199), '')
    t.equal(await pass(1), ':\n\n')
  })
  await t.test('call: false', async (t) => {
    const { pass } = await start(t, { keepAlive: 100 }, { keepAlive: 300 }, { keepAlive: false })
    t.equal(await pass(10_000), '')
  })
  await t.test('undefined leaves the outer one', async (t) => {
    const { pass } = await start(t, { keepAlive: 100 }, {}, { retry: 1 })
    t.equal(await pass(99), 'retry: 1\n\n')
    t.equal(await pass(1), 'retry: 1\n\n:\n\n')
  })
})

t.test('a client that is behind is sent none; once it has caught up, it is', async (t) => {
  const app = await createApp(t, { keepAlive: 1_000, writeTimeout: false })
  let yielded = ''
  app.get('/', (_, reply) => reply.sse(async function * ({ signal }) {
    const stop = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
    while (!signal.aborted) {
      const raw = 'x'.repeat(65_536)
      yielded += `data: ${raw}\n\n`
      yield { raw }
      // What was yielded when the client had fallen behind was the last.
      if (stalled) await stop
    }
  }))
  let stalled = false
  const port = await listen(app)
  const clock = ownClock(t)
  const client = connect(t, port).get('/')
  client.socket.pause()
  await untilBehind(app.sse)
  const { length } = yielded
  stalled = true
  t.equal([...app.sse.connections][0]!.behind, true)
  await clock.tickAsync(10_000)
  await turns()
  t.equal(app.sse.stats().open, 1)
  client.socket.resume()
  await until(() => client.received.length > length)
  await turns()
  t.ok(client.body === yielded, 'no comment among what it had not read')
  t.equal([...app.sse.connections][0]!.behind, false)
  await clock.tickAsync(1_000)
  await client.until(/:\n\n\r\n$/)
  t.ok(client.body === yielded + ':\n\n')
})

t.test('a stream that has ended is sent none', async (t) => {
  const { app, pass, client } = await start(t, { keepAlive: 1_000 })
  ;[...app.sse.connections][0]!.end()
  await client.until('0\r\n\r\n')
  const { received } = client
  await pass(5_000)
  t.equal(client.received, received)
})

t.test('none is sent before the head, while an onSend hook takes its time', async (t) => {
  const app = await createApp(t, { keepAlive: 1_000 })
  const gate = deferred()
  const entered = deferred()
  app.addHook('onSend', async () => {
    entered.resolve()
    await gate.promise
  })
  app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  const port = await listen(app)
  const clock = ownClock(t)
  const client = connect(t, port).get('/')
  await entered.promise
  await clock.tickAsync(10_000)
  await turns()
  t.equal(client.received, '')
  gate.resolve()
  await client.until('data: 1\n\n')
  t.equal(client.body, 'data: 1\n\n')
  await clock.tickAsync(1_000)
  await client.until(':\n\n')
  t.equal(client.body, 'data: 1\n\n:\n\n')
})

t.test('a hundred streams share one timer, and each is kept alive in its own time', async (t) => {
  const app = await createApp(t, { keepAlive: 1_000 })
  app.get('/', (_, reply) => reply.sse(idleSource().source))
  const port = await listen(app)
  const clock = ownClock(t)
  const clients = []
  for (let n = 0; n < 100; n++) {
    const client = connect(t, port).get('/')
    await client.until('\r\n\r\n')
    clients.push(client)
    if (n === 49) await clock.tickAsync(400)
  }
  await turns()
  t.equal(clock.countTimers(), 1)
  await clock.tickAsync(600)
  await turns()
  t.equal(clients.filter((client) => client.body === ':\n\n').length, 50)
  t.ok(clients.slice(0, 50).every((client) => client.body === ':\n\n'), 'those that were silent for longer')
  t.equal(clock.countTimers(), 1)
  await clock.tickAsync(400)
  await turns()
  t.ok(clients.every((client) => client.body === ':\n\n'))
  for (const client of clients) client.destroy()
  await until(() => app.sse.stats().open === 0)
  await clock.tickAsync(1_000)
  t.equal(clock.countTimers(), 0, 'nobody is left to wait for')
})
