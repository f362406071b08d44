/**
 * The wall clock steps, as it does when a machine asks another for the time, or is moved: what lasts an hour lasts an hour.
 * IDs alone are made of it. Whatever else asks for the time asks `performance.now()`, which knows of no steps.
 */
import FakeTimers from '@sinonjs/fake-timers'
import t, { type Test } from 'tap'
import { createHub, memoryBroker, type Broker, type SseHub } from '../index.ts'
import { compareEntryIds } from '../lib/entry-id.ts'
import { brokerWith, collect, connect, createApp, dataOf, given, idleSource, listen, ownClock, readAll, readOn, until } from './helpers.ts'
import { adminOf, brokerOf, noRedis, Published, startRedis, Witness } from './redis-server.ts'
import { startProxy } from './tcp-proxy.ts'

const HOUR = 3_600_000
const STEPS = [1, -1]

/** A clock of the test's own, whose wall clock is stepped by hours while nothing else moves. */
function clockWithSteps (t: Test) {
  const clock = ownClock(t)
  // Away from 1970, before which no clock is.
  clock.setSystemTime(Date.UTC(2030, 0, 1))
  return { clock, step: (hours: number) => clock.setSystemTime(Date.now() + hours * HOUR) }
}

function hubOn (t: Test, broker: Broker, onError = (_: unknown, __: string) => {}) {
  const hub = createHub({ broker, onError })
  t.after(() => hub.close())
  return hub
}

const at = (id: string) => `id: ${id}\n\n`
const event = (id: string, data: number) => `id: ${id}\ndata: ${data}\n\n`
const gap = (requested: string, earliest: string) => `event: gap\ndata: ${JSON.stringify({ requested, earliest })}\n\n`

for (const hours of STEPS) {
  for (const isRead of [false, true]) {
    t.test(`a channel that ${isRead ? 'somebody' : 'nobody'} reads: events grow old in their time, by ${hours} h or not`, async (t) => {
      const { clock, step } = clockWithSteps(t)
      const inner = memoryBroker()
      let reads = 0
      const app = await createApp(t, {
        broker: brokerWith(inner, { read (...args) { reads++; return inner.read(...args) } }), keepAlive: false
      })
      const channel = app.sse.channel('a', { history: { age: HOUR } })
      app.get('/', (_, reply) => reply.sse(channel))
      const port = await listen(app)
      const first = connect(t, port).get('/')
      const start = /id: (.*)\n\n/.exec(await first.until('\n\n'))![1]!
      if (!isRead) {
        first.destroy()
        await until(() => app.sse.stats().open === 0)
      }
      const back = (after: string) => connect(t, port).get('/', `Last-Event-ID: ${after}`)

      const one = await channel.publish({ data: 1 })
      await clock.tickAsync(HOUR / 2)
      step(hours)
      const two = await channel.publish({ data: 2 })
      await clock.tickAsync(HOUR / 2 - 1)
      const early = back(start)
      await given(t, early, at(start) + event(one, 1) + event(two, 2), 'neither is an hour old')
      if (isRead) t.equal(reads, 0, 'this process has them, and need not ask')
      early.destroy()
      await until(() => app.sse.stats().open === Number(isRead))
      await clock.tickAsync(1)
      await given(t, back(start), at(start) + gap(start, two) + at(one) + event(two, 2), 'the first one is')
    })
  }

  t.test(`a channel that nobody holds is kept until the age of its history has passed, by ${hours} h or not`, async (t) => {
    const { clock, step } = clockWithSteps(t)
    const hub = hubOn(t, memoryBroker())
    await hub.channel('a', { history: { age: HOUR / 2 } }).publish({ data: 1 })
    // There is a channel with this option, or a new one of this name takes any.
    const isKept = (hub: SseHub) => {
      try {
        hub.channel('a', { history: { age: 1 } })
        return false
      } catch {
        return true
      }
    }
    await clock.tickAsync(60_000)
    step(hours)
    await clock.tickAsync(60_000)
    await collect()
    t.equal(isKept(hub), true)
    await clock.tickAsync(HOUR / 2)
    await collect()
    t.equal(isKept(hub), false)
  })

  t.test(`a run that has ended is forgotten after forgetAfter, by ${hours} h or not`, async (t) => {
    const { clock, step } = clockWithSteps(t)
    const hub = hubOn(t, memoryBroker())
    await hub.run('a', [{ data: 1 }], { forgetAfter: 1_000 }).ended
    step(hours)
    await clock.tickAsync(999)
    t.same(dataOf(await readAll(hub.run.attach('a').subscribe())), [1])
    await clock.tickAsync(1)
    await t.rejects(readAll(hub.run.attach('a').subscribe()), { code: 'FST_SSE_UNKNOWN_RUN' })
  })

  t.test(`a run with a short lease goes on, and is stopped by whoever stops it, by ${hours} h or not`, async (t) => {
    const { clock, step } = clockWithSteps(t)
    const broker = memoryBroker()
    const [here, there] = [hubOn(t, broker), hubOn(t, broker)]
    const { state, source } = idleSource({ data: 1 })
    const run = here.run('a', source, { lease: 300 })
    for (let n = 0; n < 10; n++) {
      step(n % 3 === 0 ? -hours : hours)
      await clock.tickAsync(200)
    }
    t.equal(state.finished, false)
    step(hours)
    await there.run.attach('a').stop()
    t.same(await run.ended, { state: 'stopped' })
  })

  t.test(`a run that could not renew its lease is told that it is lost, by ${hours} h or not`, async (t) => {
    const { clock, step } = clockWithSteps(t)
    const inner = memoryBroker()
    let opened = 0
    const open: Broker['open'] = async (...args) => {
      if (++opened > 1) throw new Error('away')
      return inner.open(...args)
    }
    const run = hubOn(t, brokerWith(inner, { open })).run('a', idleSource({ data: 1 }).source, { lease: 300 })
    await clock.tickAsync(150)
    step(hours)
    await clock.tickAsync(150)
    t.match(await run.ended, { state: 'failed', error: { code: 'FST_SSE_RUN_LOST' } })
  })

  t.test(`a run is tried to be closed for as long as its lease lasts, by ${hours} h or not`, async (t) => {
    const { clock, step } = clockWithSteps(t)
    const inner = memoryBroker()
    const closing: string[] = []
    const close: Broker['close'] = async (channel, ...args) => {
      closing.push(channel)
      if (channel.endsWith('again') && closing.length > 1) return inner.close(channel, ...args)
      step(hours)
      if (!channel.endsWith('again')) clock.tick(300)
      throw new Error('away')
    }
    const messages: string[] = []
    const hub = hubOn(t, brokerWith(inner, { close }), (_, message) => messages.push(message))
    const again = hub.run('again', [{ data: 1 }], { lease: 15_000 })
    // The wait before it is tried again keeps no process, and is by another clock: that of `node:timers/promises`.
    await until(() => closing.length === 2, () => 'it to be tried again')
    t.same(await again.ended, { state: 'done' })
    t.same(messages, [])
    closing.length = 0
    t.same(await hub.run('late', [{ data: 1 }], { lease: 300 }).ended, { state: 'done' })
    t.same(messages, ["run 'late' could not be closed"])
    t.equal(closing.length, 1, 'the lease has run out: by then the engine has closed it')
  })
}

const LOG = 'sse:{0}:log:a'
const STATE = 'sse:{0}:state:a'

/** With Redis the clock of Redis counts. There only the wall clock is the test's, as sockets are waited for. */
t.test('the wall clock of a process steps: of its Redis it publishes and reads everything once and in order', { skip: noRedis }, async (t) => {
  const clock = FakeTimers.install({ toFake: ['Date'], now: Date.now() })
  t.after(() => clock.uninstall())
  const server = await startRedis(t)
  const proxy = await startProxy(t, server)
  const options = { history: { events: 10_000, age: HOUR }, onLag: 'gap' } as const
  const [writing, reading] = [brokerOf(t, proxy), brokerOf(t, server)]
  const app = await createApp(t, { broker: reading, keepAlive: false })
  const channel = app.sse.channel('a', options)
  app.get('/', (_, reply) => reply.sse(channel))
  const port = await listen(app)
  const overHttp = connect(t, port).get('/')
  const start = /id: (.*)\n\n/.exec(await overHttp.until('\n\n'))![1]!
  const witness = new Witness()
  witness.read((after) => channel.subscribe({ after }))
  const run = hubOn(t, writing).run('a', idleSource({ data: 1 }).source, { lease: 2_000 })
  const published = new Published(hubOn(t, writing).channel('a', options))

  await published.one()
  for (const hours of [5, -10, 3, -30, 50]) {
    clock.setSystemTime(Date.now() + hours * HOUR)
    await published.some(5)
    // What Redis has stored, and its answer is lost, is known again when it is asked for anew.
    proxy.pass = (way, to, bytes) => {
      if (to === 'server') way.server.write(bytes)
      else proxy.cut(way)
    }
    const some = published.some(5)
    const { count } = proxy
    await until(() => proxy.count > count, () => 'the connection to be cut')
    proxy.pass = (way, to, bytes) => { way[to].write(bytes) }
    await some
    const last = await published.last()
    await until(() => witness.has(last), () => `event ${last}`)
  }
  t.same([...published.codes], [], 'everything is stored')
  t.same(witness.faults(published), [])
  t.equal(witness.gaps, 0)
  const ids = [...published.ids].sort(([a], [b]) => a - b).map(([, id]) => id)
  t.same(ids.toSorted(compareEntryIds), ids, 'IDs grow')
  const all = ids.map((id, n) => `id: ${id}\ndata: ${JSON.stringify({ n, text: '' })}\n\n`)
  await given(t, overHttp, at(start) + all.join(''))
  for (const n of [0, 7, ids.length - 1]) {
    const back = connect(t, port).get('/', `Last-Event-ID: ${ids[n]}`)
    await given(t, back, at(ids[n]!) + all.slice(n + 1).join(''), `who comes back after ${n} gets the rest`)
    back.destroy()
  }
  t.equal(await Promise.race([run.ended, 'it goes on']), 'it goes on', 'and a run is still held')
})

for (const whose of ['its own', "others'", "others', and deleted"] as const) {
  t.test(`a stream in Redis whose last entry is of the future (${whose}) takes events, read in order`, { skip: noRedis }, async (t) => {
    const server = await startRedis(t)
    const admin = adminOf(t, server)
    const channelOf = () => hubOn(t, brokerOf(t, server)).channel('a', { history: { age: HOUR }, onLag: 'gap' })
    const [writer, another] = [channelOf(), channelOf()]
    const ids = [await writer.publish({ data: 0 })]
    const live = readOn(another.subscribe({ after: ids[0] }))
    ids.push(await writer.publish({ data: 1 }))
    await until(() => live.seen.length === 1)

    const future = `${Date.now() + 10 * HOUR}-7`
    if (whose === 'its own') {
      // As Redis has it when another machine takes over from one whose clock was ahead.
      const [[, fields]] = await admin.xrevrange(LOG, '+', '-', 'COUNT', 1) as [[string, string[]]]
      const [bytes, header] = [String(2 * Number(fields[3])), fields[5]!.replace('"', '"x')]
      await admin.multi().xadd(LOG, future, 'p', ids[1]!, 'b', bytes, 'h', header, 't', '2')
        .hset(STATE, 'last', future, 'bytes', bytes).exec()
      ids.push(future)
    } else {
      await admin.xadd(LOG, future, 'x', 'y')
      // Redis remembers its ID all the same.
      if (whose === "others', and deleted") await admin.xdel(LOG, future)
    }
    const before = ids.length
    for (let n = before; n < before + 6; n++) ids.push(await [writer, another][n % 2]!.publish({ data: n }))
    t.same(ids.toSorted(compareEntryIds), ids, 'IDs grow')
    t.ok(compareEntryIds(ids[before]!, future) > 0, 'from that one on')
    const entries = (from: number) => ids.slice(from).map((id, n) => ({ id, data: from + n }))
    const read = (events: { id?: string | undefined, data?: unknown }[]) => events.map(({ id, data }) => ({ id, data }))
    await until(() => live.seen.length >= ids.length - 1, () => `all but the first: ${JSON.stringify(live.seen)}`)
    t.same(read(live.seen), entries(1), 'who was there gets all')
    for (let n = 0; n < ids.length - 1; n++) {
      const back = readOn(channelOf().subscribe({ after: ids[n] }))
      await until(() => back.seen.length >= ids.length - 1 - n, () => `those after ${n}: ${JSON.stringify(back.seen)}`)
      t.same(read(back.seen), entries(n + 1), `who comes back after ${n} gets the rest`)
    }
    // The end is an entry too: it has to find its place after the newest as well.
    if (whose === "others'") await admin.xadd(LOG, `${Date.now() + 20 * HOUR}-7`, 'x', 'y')
    await another.close()
    await live.ended
    t.equal(live.seen.length, ids.length - 1, 'and then the end')
  })
}
