/** A server with thousands of streams that closes; and one that is told to by a signal. */
import { EventSource } from 'eventsource'
import { once } from 'node:events'
import net, { type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { GRACE } from '../lib/shutdown.ts'
import { untilBehind } from './behind.ts'
import { connect, createApp, descriptors, idleSource, listen, ownClock, turns, until, watch } from './helpers.ts'
import { start as startProgram } from './program.ts'

const STREAMS = 5_000
const STALLED = 20

/** What the clock of a busy machine may be late by, in ms. */
const LATE = 1_500

/** Milliseconds that a test moves its clock by, so that times are known to that. */
const STEP = 20

/** Two for each stream, as its client is here too. */
const skip = descriptors() < 2 * (STREAMS + STALLED) + 500 && `it needs ${2 * (STREAMS + STALLED) + 500} file descriptors, and has ${descriptors()}`

/** A client that keeps little, as there are thousands. */
interface Client {
  socket: Socket
  text: string
  /** When the end of the response was there, in ms of the test's clock. */
  ended: number
  closed: boolean
}

/** Opens streams, some hundreds at once, and sees the first event of each. */
async function openMany (t: Test, port: number, count: number): Promise<Client[]> {
  const clients: Client[] = []
  for (let opened = 0; opened < count; opened += 250) {
    const some = Array.from({ length: Math.min(250, count - opened) }, () => open(t, port))
    clients.push(...some.map(({ client }) => client))
    await Promise.all(some.map(({ greeted }) => greeted))
  }
  return clients
}

function open (t: Test, port: number) {
  const socket = net.connect(port, '127.0.0.1').setEncoding('latin1').on('error', () => {})
  const client: Client = { socket, text: '', ended: NaN, closed: false }
  const greeted = new Promise<void>((resolve) => {
    socket.on('data', (text) => {
      client.text += text
      if (client.text.includes('data: 1\n\n')) resolve()
      if (client.text.endsWith('\r\n0\r\n\r\n')) client.ended = performance.now()
    })
  })
  socket.on('close', () => { client.closed = true })
  socket.write('GET / HTTP/1.1\r\nHost: test\r\n\r\n')
  t.after(() => socket.destroy())
  return { client, greeted }
}

/** Clients that have sent a request, and never read a byte of the flood that answers it. */
async function openStalled (t: Test, app: Awaited<ReturnType<typeof createApp>>, port: number): Promise<void> {
  for (let n = 0; n < STALLED; n++) {
    const client = connect(t, port)
    client.socket.pause()
    client.get('/flood')
  }
  await untilBehind(app.sse, undefined, STALLED)
}

/** An app that closes by what is to be shown. */
async function createFlooded (t: Test, drain: number, retry: number | undefined) {
  const app = await createApp(t, { drain, retry, writeTimeout: false, keepAlive: false }, { return503OnClosing: false })
  app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  app.get('/flood', (_, reply) => reply.sse(async function * () { for (;;) yield { raw: 'x'.repeat(65_536) } }))
  return { app, port: await listen(app) }
}

/** The reconnection time that a client was told last. */
const told = ({ text }: Client) => Number(/\r\nretry: (\d+)\n\n\r\n0\r\n\r\n$/.exec(text)?.[1])

for (const retry of [undefined, 1_500]) {
  const [least, most] = retry === undefined ? [1_000, 5_000] : [retry, 2 * retry]
  t.test(`drain: ${STREAMS} streams are ended over two seconds, and ${STALLED} clients that read nothing hold nothing up, retry ${retry}`, { skip }, async (t) => {
    const drain = 2_000
    const { app, port } = await createFlooded(t, drain, retry)
    const clock = ownClock(t)
    const clients = await openMany(t, port, STREAMS)
    await openStalled(t, app, port)
    const all = STREAMS + STALLED
    t.equal(app.sse.connections.size, all)

    const closed = watch(app.close())
    await turns()
    const perMs = all / drain
    for (let ms = 0; ms < drain; ms += STEP) {
      // In the middle of it: nobody new is taken.
      if (ms === drain / 2) await isRefused(t, port)
      clock.tick(STEP)
      const { shutdown } = app.sse.stats().closed
      t.ok(Math.abs(shutdown - perMs * (ms + STEP)) <= 2 * perMs, `${shutdown} have ended after ${ms + STEP} ms`)
      // Those that do not read came last.
      const read = Math.min(shutdown, STREAMS)
      await until(() => clients.filter(({ closed }) => closed).length === read, () => `${read} sockets to be closed`)
    }
    t.ok(clients.every(({ closed }) => closed))
    await clock.tickAsync(GRACE - 1)
    t.equal(closed.settled, false, 'it waits for the clients that do not read')
    await clock.tickAsync(1)
    await until(() => closed.settled)
    t.match(app.sse.stats(), { open: 0, opened: all, closed: { shutdown: all }, refused: { shutdown: 2 } })

    t.ok(clients.every(({ ended }) => ended > 0), 'each has a whole response')
    const back = clients.map((client) => client.ended + told(client) - drain - GRACE)
    t.ok(back.every((ms) => ms >= least! && ms <= most! + STEP), `each comes back ${least} to ${most} ms after the server has gone`)
    const quarters = new Array(4).fill(0)
    for (const ms of back) quarters[Math.min(3, Math.floor((ms - least!) / (most! - least!) * 4))]++
    t.ok(quarters.every((count) => count > STREAMS / 5), `not together: ${quarters}`)
  })
}

/** A server that closes sends new clients away: an EventSource softly, so that it comes back. */
async function isRefused (t: Test, port: number): Promise<void> {
  const late = connect(t, port).get('/', 'Accept: text/event-stream')
  await late.until(/retry: \d+\n$/)
  t.match(late.head, /^HTTP\/1\.1 200 /)
  const refused = connect(t, port).get('/')
  await refused.until('FST_SSE_SHUTTING_DOWN')
  t.match(refused.head, /^HTTP\/1\.1 503 /)
}

t.test(`drain 0: ${STREAMS} streams are ended at once, and the server waits a second for clients that do not read`, { skip }, async (t) => {
  const { app, port } = await createFlooded(t, 0, undefined)
  const clock = ownClock(t)
  const clients = await openMany(t, port, STREAMS)
  await openStalled(t, app, port)
  const closed = watch(app.close())
  await turns()
  clock.tick(1)
  await until(() => clients.every(({ closed }) => closed), () => 'all sockets to be closed')
  await clock.tickAsync(GRACE - 2)
  t.equal(closed.settled, false)
  await clock.tickAsync(1)
  await until(() => closed.settled)
  const retries = clients.map(told)
  t.ok(retries.every((ms) => ms >= 1_000 + GRACE && ms <= 5_000 + GRACE), 'each is told when to come back')
  t.ok(new Set(retries).size > 2_000, 'not together')
  t.match(app.sse.stats(), { open: 0, closed: { shutdown: STREAMS + STALLED } })
})

t.test('whoever is sent away comes back after the server is gone, though a client that does not read holds that up', async (t) => {
  for (const drain of [0, 300]) {
    // Fastify's own defaults: it answers 503 while it closes, and an EventSource gives up on that for good.
    const app = await createApp(t, { drain, retry: { min: 100, max: 100 }, writeTimeout: false }, { forceCloseConnections: true })
    app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
    app.get('/flood', (_, reply) => reply.sse(async function * () { for (;;) yield { raw: 'x'.repeat(65_536) } }))
    const port = await listen(app)
    await openStalled(t, app, port)
    const source = new EventSource(`http://127.0.0.1:${port}/`)
    t.after(() => source.close())
    const codes: (number | undefined)[] = []
    source.onerror = ({ code }) => { codes.push(code) }
    let received = 0
    source.onmessage = () => { received++ }
    await until(() => received === 1)
    await app.close()
    await turns()
    t.not(source.readyState, source.CLOSED, `drain ${drain}: it goes on trying, after the errors ${codes}`)
    source.close()
  }
})

t.test('SIGTERM: process.once(\'SIGTERM\', () => app.close()) ends the process well', async (t) => {
  const { child, output } = startProgram(t, `
    import fastify from 'fastify'
    import sse from './index.js'
    const app = fastify()
    await app.register(sse, { drain: 300, revalidate: () => true, maxDuration: 3_600_000, maxConnections: 100, maxConnectionsPerClient: 100 })
    app.get('/', (_, reply) => reply.sse(async function * ({ signal }) {
      yield { data: 1 }
      await new Promise((resolve) => signal.addEventListener('abort', resolve))
    }))
    process.once('SIGTERM', () => app.close())
    console.log(await app.listen({ port: 0, host: '127.0.0.1' }))`)
  await until(() => /http:\/\/\S+:\d+\n/.test(output()), () => `the server to listen: ${output()}`)
  const port = Number(/:(\d+)\n/.exec(output())![1])
  const clients = await openMany(t, port, 30)
  const start = performance.now()
  child.kill('SIGTERM')
  const [code, signal] = await once(child, 'exit')
  t.same({ code, signal }, { code: 0, signal: null }, output())
  t.ok(performance.now() - start < 300 + GRACE + LATE)
  await until(() => clients.every(({ closed }) => closed))
  t.ok(clients.every((client) => told(client) >= 1_000), 'each has a whole response, and a time to come back')
})
