/** What ends or delays a stream by the clock: writeTimeout, maxDuration, retry, and the lines that connections wait in. */
import type { FastifyInstance } from 'fastify'
import type { Socket } from 'node:net'
import t, { type Test } from 'tap'
import { Lines, type Line, type Waiting } from '../lib/timeouts.ts'
import { connect, createApp, deferred, idleSource, listen, ownClock, turns, until, type RawClient } from './helpers.ts'

const onlyConnection = (app: FastifyInstance) => [...app.sse.connections][0]!

class Waiter implements Waiting {
  line: Line | undefined
  earlier: Waiting | undefined
  later: Waiting | undefined
  since = 0
  onDue: () => void

  constructor (onDue: (this: Waiter) => void) {
    this.onDue = onDue
  }
}

t.test('a line of waiters has one timer, and none when it is empty', async (t) => {
  const clock = ownClock(t)
  const lines = new Lines()
  let due = 0
  const waiters = Array.from({ length: 1_000 }, () => new Waiter(() => { due++ }))
  t.equal(lines.of(100), lines.of(100), 'one line for each length of time')
  for (const waiter of waiters) lines.of(100).wait(waiter)
  t.equal(clock.countTimers(), 1)
  for (const waiter of waiters) lines.of(100).wait(waiter)
  t.equal(clock.countTimers(), 1, 'to begin again takes no other')
  lines.of(50).wait(waiters[0]!)
  t.equal(clock.countTimers(), 2, 'another length of time is another line')
  clock.tick(50)
  t.equal(due, 1)
  clock.tick(50)
  t.equal(due, 1_000)
  t.equal(clock.countTimers(), 0)
})

t.test('waiters are due in the order in which they began to wait, each in its time', async (t) => {
  const clock = ownClock(t)
  const line = new Lines().of(100)
  const due: string[] = []
  const [a, b, c] = ['a', 'b', 'c'].map((name) => new Waiter(() => { due.push(`${name} ${performance.now() - start}`) }))
  const start = performance.now()
  line.wait(a!)
  clock.tick(10)
  line.wait(b!)
  clock.tick(10)
  line.wait(c!)
  clock.tick(10)
  line.wait(a!)
  clock.tick(1_000)
  t.same(due, ['b 110', 'c 120', 'a 130'])
})

t.test('a waiter leaves from wherever it stands, and the others stay', async (t) => {
  for (const leaving of [[0], [1], [2], [3], [0, 1], [1, 2], [2, 3], [0, 3], [3, 2, 1, 0]]) {
    await t.test(`leaving: ${leaving}`, async (t) => {
      const clock = ownClock(t)
      const line = new Lines().of(100)
      const due: number[] = []
      const waiters = [0, 1, 2, 3].map((index) => new Waiter(() => { due.push(index) }))
      for (const waiter of waiters) line.wait(waiter)
      for (const index of leaving) line.leave(waiters[index]!)
      for (const index of leaving) line.leave(waiters[index]!)
      clock.tick(100)
      t.same(due, [0, 1, 2, 3].filter((index) => !leaving.includes(index)))
      for (const index of leaving) line.wait(waiters[index]!)
      clock.tick(100)
      t.same(due.slice(-leaving.length), leaving, 'and may wait again')
      t.equal(clock.countTimers(), 0)
    })
  }
})

t.test('to wait in another line is to leave the first', async (t) => {
  const clock = ownClock(t)
  const lines = new Lines()
  let due = 0
  const waiter = new Waiter(() => { due++ })
  lines.of(100).wait(waiter)
  lines.of(300).wait(waiter)
  lines.of(100).leave(waiter)
  clock.tick(299)
  t.equal(due, 0)
  clock.tick(1)
  t.equal(due, 1)
})

t.test('one that waits again when it is due postpones nobody', async (t) => {
  const clock = ownClock(t)
  const line = new Lines().of(100)
  const due: string[] = []
  const start = performance.now()
  const note = (name: string) => due.push(`${name} ${performance.now() - start}`)
  line.wait(new Waiter(function () { note('a'); line.wait(this) }))
  clock.tick(30)
  line.wait(new Waiter(() => { note('b') }))
  clock.tick(30)
  line.wait(new Waiter(function () { note('c'); line.wait(this) }))
  clock.tick(200)
  t.same(due, ['a 100', 'b 130', 'c 160', 'a 200', 'c 260'])
  t.equal(clock.countTimers(), 1)
})

t.test('one that is due may make another leave, who is due at the same time', async (t) => {
  const clock = ownClock(t)
  const line = new Lines().of(100)
  const due: string[] = []
  const second = new Waiter(() => { due.push('second') })
  line.wait(new Waiter(() => { due.push('first'); line.leave(second) }))
  line.wait(second)
  line.wait(new Waiter(() => { due.push('third') }))
  clock.tick(100)
  t.same(due, ['first', 'third'])
})

/** A stream that its client does not read: its source yields until that is enough, then what the test gives it. */
async function stall (t: Test, app: FastifyInstance, size: number, enough: (socket: Socket) => boolean) {
  const stalled = deferred()
  const state = { finished: false }
  const more: ((raw: string) => void)[] = []
  app.get('/', (request, reply) => reply.sse(async function * ({ signal }) {
    const wake = () => more.pop()?.('')
    signal.addEventListener('abort', wake)
    try {
      while (!enough(request.raw.socket)) {
        yield { raw: 'x'.repeat(size) }
        await turns(3)
      }
      stalled.resolve()
      while (!signal.aborted) yield { raw: await new Promise<string>((resolve) => more.push(resolve)) }
    } finally {
      state.finished = true
    }
  }))
  const port = await listen(app)
  const clock = ownClock(t)
  const client = connect(t, port).get('/')
  client.socket.pause()
  return { clock, client, state, stalled: stalled.promise, write: (raw: string) => more.pop()!(raw) }
}

const never = () => false
/** Bytes are left unread in this process, though too few for the socket to ask for a pause. */
const unread = (socket: Socket) => socket.writableLength > 0

async function untilBehind (app: FastifyInstance) {
  let events = -1
  let same = 0
  await until(() => {
    const connection = onlyConnection(app)
    same = connection?.behind === true && connection.events === events ? same + 1 : 0
    events = connection?.events
    return same > 100
  }, () => 'a client that is behind')
}

t.test('a client that is behind is cut off after writeTimeout, whatever keepAlive is', async (t) => {
  for (const keepAlive of [false, 400, 5_000] as const) {
    await t.test(`keepAlive ${keepAlive}`, async (t) => {
      const app = await createApp(t, { keepAlive, writeTimeout: 1_000 })
      const { clock, client, state } = await stall(t, app, 65_536, never)
      await untilBehind(app)
      await clock.tickAsync(999)
      await turns()
      t.equal(app.sse.stats().open, 1)
      t.equal(state.finished, false)
      await clock.tickAsync(1)
      await until(() => state.finished)
      t.match(app.sse.stats(), { open: 0, closed: { 'write-timeout': 1 } })
      client.socket.resume()
      await client.untilClosed()
      t.notMatch(client.received, ':\n\n')
    })
  }
})

t.test('a client that is behind and reads again in time is not cut off', async (t) => {
  const app = await createApp(t, { keepAlive: 5_000, writeTimeout: 1_000 })
  const { clock, client } = await stall(t, app, 65_536, never)
  for (let round = 0; round < 3; round++) {
    await untilBehind(app)
    await clock.tickAsync(999)
    const { events } = onlyConnection(app)
    client.socket.resume()
    await until(() => onlyConnection(app).events > events + 10)
    client.socket.pause()
  }
  t.equal(app.sse.stats().open, 1)
  await untilBehind(app)
  await clock.tickAsync(1_000)
  await until(() => app.sse.stats().closed['write-timeout'] === 1)
  t.equal(app.sse.stats().open, 0)
})

t.test('with writeTimeout: false a client may be behind for ever', async (t) => {
  const app = await createApp(t, { keepAlive: 100, writeTimeout: false })
  const { clock } = await stall(t, app, 65_536, never)
  await untilBehind(app)
  await clock.tickAsync(1_000_000)
  await turns()
  t.equal(app.sse.stats().open, 1)
})

t.test('a client that leaves a small write unread is cut off after writeTimeout, too', async (t) => {
  for (const keepAlive of [false, 400, 1_000, 5_000] as const) {
    await t.test(`keepAlive ${keepAlive}`, async (t) => {
      const app = await createApp(t, { keepAlive, writeTimeout: 1_000 })
      const { clock, client, state, stalled } = await stall(t, app, 4_096, unread)
      await stalled
      t.equal(onlyConnection(app).behind, false, 'the socket has not asked for a pause')
      const { bytes } = onlyConnection(app)
      await clock.tickAsync(999)
      await turns()
      t.equal(app.sse.stats().open, 1)
      t.equal(app.sse.stats().bytes, bytes, 'no comment on top of what is unread')
      await clock.tickAsync(1)
      await turns()
      t.match(app.sse.stats(), { open: 0, closed: { 'write-timeout': 1 } })
      t.equal(state.finished, true)
      client.destroy()
    })
  }
})

t.test('a client that reads what it had left unread, late but in time, is not cut off', async (t) => {
  const app = await createApp(t, { keepAlive: 400, writeTimeout: 1_000 })
  const { clock, client, stalled } = await stall(t, app, 4_096, unread)
  await stalled
  await clock.tickAsync(600)
  client.socket.resume()
  await until(() => onlyConnection(app).request.raw.socket.writableLength === 0)
  await clock.tickAsync(400)
  await client.until(':\n\n')
  await clock.tickAsync(10_000)
  await turns()
  t.equal(app.sse.stats().open, 1)
})

t.test('small writes on top of what is unread do not put the cut off', async (t) => {
  for (const keepAlive of [false, 400] as const) {
    await t.test(`keepAlive ${keepAlive}`, async (t) => {
      const app = await createApp(t, { keepAlive, writeTimeout: 1_000 })
      const { clock, stalled, write } = await stall(t, app, 4_096, unread)
      await stalled
      for (let ms = 0; ms < 3_000 && app.sse.stats().open === 1; ms += 300) {
        await clock.tickAsync(300)
        await turns()
        if (app.sse.stats().open === 1) write('y')
        await turns()
      }
      t.equal(app.sse.stats().closed['write-timeout'], 1, 'bytes were left unread for three times writeTimeout')
    })
  }
})

t.test('a response that has ended is not kept for a client that does not read its rest', async (t) => {
  const app = await createApp(t, { writeTimeout: 1_000 })
  const { clock, client, stalled } = await stall(t, app, 65_536, never)
  stalled.catch(() => {})
  await untilBehind(app)
  const { socket } = onlyConnection(app).request.raw
  onlyConnection(app).end()
  await clock.tickAsync(999)
  await turns()
  t.equal(socket.destroyed, false)
  await clock.tickAsync(1)
  await until(() => socket.destroyed, () => 'its socket to be destroyed')
  t.match(app.sse.stats().closed, { ended: 1, 'write-timeout': 0, 'client-gone': 0 }, 'one reason, the first')
  client.destroy()
})

/** Opens a number of idle streams, one after the other. */
async function open (t: Test, app: FastifyInstance, port: number, count: number): Promise<RawClient[]> {
  const clients = []
  for (let n = 0; n < count; n++) {
    const client = connect(t, port).get('/')
    await client.until('\r\n\r\n')
    clients.push(client)
  }
  await until(() => app.sse.stats().opened === count)
  return clients
}

t.test('maxDuration: a stream is ended at its time, events or not', async (t) => {
  const app = await createApp(t, { maxDuration: 1_000, keepAlive: 300 })
  app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  const port = await listen(app)
  const clock = ownClock(t)
  const [client] = await open(t, app, port, 1)
  await clock.tickAsync(999)
  await turns()
  t.equal(app.sse.stats().open, 1)
  await clock.tickAsync(1)
  await client!.until('0\r\n\r\n')
  t.equal(client!.body, 'data: 1\n\n:\n\n:\n\n:\n\n')
  t.match(app.sse.stats(), { open: 0, closed: { 'max-duration': 1 } })
})

t.test('maxDuration as a range: each connection draws its own, from min to max', async (t) => {
  const app = await createApp(t, { maxDuration: { min: 1_000, max: 2_000 } })
  app.get('/', (_, reply) => reply.sse(idleSource().source))
  const port = await listen(app)
  const clock = ownClock(t)
  const { random } = Math
  t.after(() => { Math.random = random })
  const draws = [0, 0.5, 1 - Number.EPSILON]
  Math.random = () => draws.shift() ?? random()
  await open(t, app, port, 3)
  for (const [ms, ended] of [[999, 0], [1, 1], [499, 1], [1, 2], [499, 2], [1, 3]] as const) {
    await clock.tickAsync(ms)
    t.equal(app.sse.stats().closed['max-duration'], ended)
  }
})

t.test('the timer of maxDuration goes with its stream', async (t) => {
  const app = await createApp(t, { maxDuration: 60_000, keepAlive: false, writeTimeout: false })
  app.get('/', (_, reply) => reply.sse(idleSource().source))
  const port = await listen(app)
  const clock = ownClock(t)
  const clients = await open(t, app, port, 10)
  t.equal(clock.countTimers(), 10)
  for (const client of clients) client.destroy()
  await until(() => app.sse.stats().open === 0)
  t.equal(clock.countTimers(), 0)
})

t.test('retry comes first, also before an event of the same turn', async (t) => {
  const app = await createApp(t, { retry: 0 })
  app.get('/', (_, reply) => reply.sse([{ data: 1 }]))
  app.get('/route', { sse: { retry: 20 } }, (_, reply) => reply.sse([{ data: 1 }]))
  app.get('/call', { sse: { retry: 20 } }, (_, reply) => reply.sse([{ retry: 40, data: 1 }], { retry: 30 }))
  const port = await listen(app)
  for (const [path, body] of [
    ['/', 'retry: 0\n\ndata: 1\n\n'],
    ['/route', 'retry: 20\n\ndata: 1\n\n'],
    ['/call', 'retry: 30\n\nretry: 40\ndata: 1\n\n']
  ] as const) {
    const client = connect(t, port).get(path)
    await client.until('0\r\n\r\n')
    t.equal(client.body, body)
  }
})

t.test('retry goes out with the head, though the source is idle', async (t) => {
  const app = await createApp(t, { retry: 500 })
  app.get('/', (_, reply) => reply.sse(idleSource().source))
  const client = connect(t, await listen(app)).get('/')
  await client.until('retry: 500\n\n')
  t.equal(client.body, 'retry: 500\n\n')
})

t.test('retry as a range: each connection draws its own, from min to max', async (t) => {
  const app = await createApp(t, { retry: { min: 1_000, max: 2_000 } })
  app.get('/', (_, reply) => reply.sse([]))
  const port = await listen(app)
  const { random } = Math
  t.after(() => { Math.random = random })
  const draws = [0, 0.5, 1 - Number.EPSILON]
  Math.random = () => draws.shift() ?? random()
  for (const ms of [1_000, 1_500, 2_000]) {
    const client = connect(t, port).get('/')
    await client.until('0\r\n\r\n')
    t.equal(client.body, `retry: ${ms}\n\n`)
  }
})
