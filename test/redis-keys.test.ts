/** What the Redis broker leaves in Redis, for how long, and what it costs: keys, entries, connections. */
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { createHub, redisBroker, type Broker, type RedisBrokerOptions } from '../index.ts'
import { brokerLaws } from '../lib/testing/index.ts'
import { eventually } from '../lib/testing/law.ts'
import { readOn, until } from './helpers.ts'
import { adminOf, brokerOf, noRedis, Published, startRedis, Witness, type RedisServer } from './redis-server.ts'
import { startProxy } from './tcp-proxy.ts'

t.jobs = 3
t.setTimeout(120_000)

const LOG = 'sse:{0}:log:a'
const STATE = 'sse:{0}:state:a'
const ENDLESS = { events: 1_000_000, bytes: 1_000_000_000, age: false } as const

function test (name: string, check: (t: Test) => Promise<void>): void {
  t.test(name, { skip: noRedis, buffered: true, timeout: 60_000 }, check)
}

async function keysIn (admin: Redis): Promise<string[]> {
  return (await admin.keys('*')).sort()
}

function publish (broker: Broker, text: string, history: { events: number, bytes: number, age: number | false } = ENDLESS, name = 'a') {
  return broker.append(name, { event: '', raw: text }, history)
}

test('keys begin with the prefix of the client and that of the broker, and all of a shard have one hash tag', async (t) => {
  const server = await startRedis(t)
  const admin = adminOf(t, server)
  const cases: [string, RedisBrokerOptions, string][] = [
    ['', {}, 'sse:{0}:'], ['', { prefix: 'mine-' }, 'mine-{0}:'], ['app:', {}, 'app:sse:{0}:'], ['app:', { prefix: '' }, 'app:{0}:']
  ]
  for (const [keyPrefix, options, start] of cases) {
    const broker = redisBroker(new Redis({ port: server.port, lazyConnect: true, keyPrefix }), { onError () {}, ...options })
    t.after(() => broker.end())
    await publish(broker, 'x')
    const reader = readOn(createHub({ broker }).channel('a').subscribe({ after: '0-0' }))
    await until(() => reader.seen.length === 1)
    t.same(await keysIn(admin), [`${start}log:a`, `${start}news`, `${start}state:a`], start)
    await broker.end()
    await reader.ended.catch(() => {})
    await admin.flushall()
  }
})

test('brokers with other prefixes have nothing in common', async (t) => {
  const server = await startRedis(t)
  const [one, other] = [brokerOf(t, server, { prefix: 'one:' }), brokerOf(t, server, { prefix: 'other:' })]
  const told: unknown[] = []
  await other.listen('a', { entry: (entry) => told.push(entry), closed () {}, failed () {}, lost () {} })
  await publish(one, 'x')
  await publish(other, 'y')
  await until(() => told.length > 0)
  t.match(told, [{ message: { raw: 'y' } }])
  t.equal(told.length, 1)
})

test('with four shards channels are spread over four hash tags, and the broker keeps every law', async (t) => {
  const server = await startRedis(t)
  const admin = adminOf(t, server)
  const [one, other] = [brokerOf(t, server, { shards: 4 }), brokerOf(t, server, { shards: 4 })]
  for (const { name, check } of brokerLaws) await t.resolves(check({ one, other }), name)
  await admin.flushall()

  const names = Array.from({ length: 100 }, (_, index) => `channel ${index}`)
  const hub = createHub({ broker: other })
  t.after(() => hub.close())
  const readers = names.map((name) => readOn(hub.channel(name).subscribe({ after: '0-0' })))
  await Promise.all(names.map((name) => publish(one, 'x', ENDLESS, name)))
  await until(() => readers.every(({ seen }) => seen.length === 1))
  const keys = await keysIn(admin)
  for (const shard of [0, 1, 2, 3]) {
    const channels = keys.filter((key) => key.startsWith(`sse:{${shard}}:log:`))
    t.ok(channels.length > 5, `shard ${shard} has ${channels.length} channels`)
    t.ok(keys.includes(`sse:{${shard}}:news`))
  }
  t.equal(keys.length, 100 + 100 + 4)
  await Promise.all([one.end(), other.end()])
  await Promise.allSettled(readers.map(({ ended }) => ended))
})

test('the IDs of events are those of the entries in the stream, in its order', async (t) => {
  const server = await startRedis(t)
  const admin = adminOf(t, server)
  const hub = createHub({ broker: brokerOf(t, server) })
  const channel = hub.channel('a')
  const reader = readOn(channel.subscribe({ after: '0-0' }))
  const ids = await Promise.all(Array.from({ length: 50 }, (_, n) => channel.publish({ data: n })))
  await until(() => reader.seen.length === 50)
  t.same(reader.seen.map(({ id }) => id), ids)
  t.same((await admin.xrange(LOG, '-', '+')).map(([id]) => id), ids)
  await hub.close()
})

for (const [what, history, count, most] of [
  ['count', { ...ENDLESS, events: 50 }, 3_000, 50 + 200],
  ['bytes', { ...ENDLESS, bytes: 1_000 }, 3_000, 100],
  ['one event', { ...ENDLESS, events: 1 }, 1_000, 200],
  ['the bytes of one event', { ...ENDLESS, bytes: 1 }, 1_000, 1]
] as const) {
  test(`a log is trimmed by ${what}, in Redis too`, async (t) => {
    const server = await startRedis(t)
    const admin = adminOf(t, server)
    const broker = brokerOf(t, server)
    let longest = 0
    for (let n = 0; n < count; n += 100) {
      await Promise.all(Array.from({ length: 100 }, (_, index) => publish(broker, String(n + index).padEnd(10, '.'), history)))
      longest = Math.max(longest, await admin.xlen(LOG))
    }
    t.ok(longest <= most, `${longest} entries at the most`)
    const least = Math.min(history.events, Math.ceil(history.bytes / 10))
    const { entries } = await broker.read('a', undefined, { entries: 10_000, bytes: 1_000_000 })
    t.ok(entries.length >= Math.max(1, least), `${entries.length} entries are there, of ${least}`)
    t.equal(entries.at(-1)!.message.raw, String(count - 1).padEnd(10, '.'))
  })
}

test('a log is trimmed by age while it is published to', async (t) => {
  const server = await startRedis(t)
  const admin = adminOf(t, server)
  const broker = brokerOf(t, server)
  const history = { ...ENDLESS, age: 200 }
  const old = await Promise.all(Array.from({ length: 500 }, (_, n) => publish(broker, String(n), history)))
  t.equal(await admin.xlen(LOG), 500)
  const until300 = performance.now() + 300
  while (performance.now() < until300) await publish(broker, 'x', history)
  const ids = (await admin.xrange(LOG, '-', '+')).map(([id]) => id)
  t.equal(ids.filter((id) => old.includes(id)).length, 0, `none of the old ones is there, of ${ids.length}`)
  t.ok(ids.length > 0)
})

test('a channel that is published to no more is gone from Redis, its position last', async (t) => {
  const server = await startRedis(t)
  const admin = adminOf(t, server)
  const broker = brokerOf(t, server)
  await publish(broker, 'x', { ...ENDLESS, age: 300 })
  const [ofLog, ofState] = [await admin.pttl(LOG), await admin.pttl(STATE)]
  t.ok(ofLog > 0 && ofLog <= 300, `the log has ${ofLog} ms`)
  t.ok(ofState > 0 && ofState <= 300 + 600_000, `the state has ${ofState} ms`)
  await eventually(async () => await admin.exists(LOG) === 0, 'the log is gone')
  const { entries, complete } = await broker.read('a', '0-0', { entries: 1, bytes: 1 })
  t.same([entries, complete], [[], false], 'that there was something is remembered')
})

test('events that do not grow old are kept without end, until others are published that do', async (t) => {
  const server = await startRedis(t)
  const admin = adminOf(t, server)
  const broker = brokerOf(t, server)
  await publish(broker, 'x', { ...ENDLESS, age: 1_000 })
  await publish(broker, 'x')
  t.same([await admin.pttl(LOG), await admin.pttl(STATE)], [-1, -1])
  await publish(broker, 'x', { ...ENDLESS, age: 100_000 })
  t.ok(await admin.pttl(LOG) > 0)
  t.ok(await admin.pttl(STATE) > 0)
})

test('the largest limits that there can be are taken', async (t) => {
  const server = await startRedis(t)
  const admin = adminOf(t, server)
  const broker = brokerOf(t, server)
  const most = Number.MAX_SAFE_INTEGER
  await publish(broker, 'x', { events: most, bytes: most, age: most })
  await publish(broker, 'y', { events: most, bytes: most, age: most })
  t.equal(await admin.xlen(LOG), 2)
})

test('a channel that nobody has published to is forgotten, whether it was read, listened to or read back', async (t) => {
  const server = await startRedis(t)
  const admin = adminOf(t, server)
  const broker = brokerOf(t, server)
  await broker.read('a', '1-1', { entries: 1, bytes: 1 })
  const { stop } = await broker.listen('a', { entry () {}, closed () {}, failed () {}, lost () {} })
  t.same(await keysIn(admin), [STATE])
  const ttl = await admin.pttl(STATE)
  t.ok(ttl > 0 && ttl <= 600_000, `${ttl} ms`)
  stop()
})

for (const published of [0, 1]) {
  test(`a closed channel with ${published} events is forgotten when its time has come`, async (t) => {
    const server = await startRedis(t)
    const admin = adminOf(t, server)
    const broker = brokerOf(t, server)
    if (published > 0) await publish(broker, 'x')
    await broker.close('a', 300)
    for (const key of [LOG, STATE]) {
      const ttl = await admin.pttl(key)
      t.ok(ttl > 0 && ttl <= 2_000, `${key} has ${ttl} ms`)
    }
    await eventually(async () => await admin.exists(LOG, STATE) === 0, 'both keys are gone')
    await broker.close('a', false)
    t.same([await admin.pttl(LOG), await admin.pttl(STATE)], [-1, -1], 'one that is to be kept is kept')
  })
}

test('a channel that is held is kept until others have had the time to end it, though its history is older', async (t) => {
  const server = await startRedis(t)
  const admin = adminOf(t, server)
  const broker = brokerOf(t, server)
  await broker.open('a', { owner: 'owner', lease: 10_000, will: undefined, forgetAfter: 20_000 })
  await publish(broker, 'x', { ...ENDLESS, age: 100 })
  for (const key of [LOG, STATE]) {
    const ttl = await admin.pttl(key)
    t.ok(ttl > 30_000 && ttl <= 10_000 * 4 + 20_000 + 600_000, `${key} has ${ttl} ms`)
  }
})

test('the news of a shard are bounded, however much is published', async (t) => {
  const server = await startRedis(t)
  const admin = adminOf(t, server)
  const broker = brokerOf(t, server)
  for (let n = 0; n < 15; n++) {
    await Promise.all(Array.from({ length: 1_000 }, (_, index) => publish(broker, 'x', { ...ENDLESS, events: 10 }, `${index}`)))
  }
  const length = await admin.xlen('sse:{0}:news')
  t.ok(length <= 10_200, `${length} entries`)
})

/** The connections of others than the admin, by their last command. */
async function connectionsOf (admin: Redis): Promise<string[]> {
  const list = await admin.client('LIST') as string
  const own = await admin.client('ID')
  return list.split('\n').filter((line) => line !== '' && !line.startsWith(`id=${own} `)).map((line) => / cmd=(\S+)/.exec(line)![1]!)
}

/** How often anybody has asked for what comes. */
async function readsOf (admin: Redis): Promise<number> {
  return Number(/^cmdstat_xread:calls=(\d+)/m.exec(await admin.info('commandstats'))![1])
}

test('a process that reads 500 channels, by 1,000 readers, has one connection that waits, and one to write', async (t) => {
  const server = await startRedis(t)
  const admin = adminOf(t, server)
  const broker = brokerOf(t, server)
  const hub = createHub({ broker })
  const channels = Array.from({ length: 500 }, (_, index) => hub.channel(`channel ${index}`))
  const readers = channels.flatMap((channel) => [readOn(channel.subscribe({ after: '0-0' })), readOn(channel.subscribe({ after: '0-0' }))])
  await Promise.all(channels.map((channel) => channel.publish({ data: 1 })))
  await until(() => readers.every(({ seen }) => seen.length === 1))
  // Between two reads it may ask for something else.
  let commands: string[] = []
  await eventually(async () => {
    commands = await connectionsOf(admin)
    return commands.includes('xread')
  }, 'it waits')
  t.equal(commands.length, 2)
  t.equal(commands.filter((command) => command === 'xread').length, 1)
  // It has read what is left of the news first.
  await eventually(async () => {
    const before = await readsOf(admin)
    await new Promise((resolve) => setTimeout(resolve, 300))
    return await readsOf(admin) - before <= 1
  }, 'it waits, and does not ask again and again')
  await hub.close()
})

test('a process that only publishes has one connection; its client itself is not used', async (t) => {
  const server = await startRedis(t)
  const admin = adminOf(t, server)
  const client = new Redis({ port: server.port, lazyConnect: true })
  const broker = redisBroker(client, { shards: 4 })
  t.after(() => broker.end())
  await Promise.all(Array.from({ length: 100 }, (_, index) => publish(broker, 'x', ENDLESS, `channel ${index}`)))
  t.equal((await connectionsOf(admin)).length, 1)
  t.equal(client.status, 'wait')
  await broker.end()
  await eventually(async () => (await connectionsOf(admin)).length === 0, 'none once it was ended')
})

test('who publishes to one channel and reads another is not held up by what is blocked', async (t) => {
  const server = await startRedis(t)
  const broker = brokerOf(t, server)
  const hub = createHub({ broker })
  const reader = readOn(hub.channel('quiet').subscribe())
  await hub.channel('quiet').publish({ data: 1 })
  const started = performance.now()
  for (let n = 0; n < 50; n++) await hub.channel('a').publish({ data: n })
  t.ok(performance.now() - started < 2_000)
  await hub.close()
  await reader.ended
})

test('channels that are added and dropped while the reader waits lose nothing, and are told from what is published next', async (t) => {
  const server = await startRedis(t)
  const writer = createHub({ broker: brokerOf(t, server) })
  const readers = createHub({ broker: brokerOf(t, server) })
  t.after(() => readers.close())
  const all: [Witness, Published, number][] = []
  readOn(readers.channel('always there').subscribe())
  for (let round = 0; round < 60; round++) {
    const name = `channel ${round % 7}`
    const published = new Published(writer.channel(`${name} ${round}`, { history: ENDLESS }))
    const witness = new Witness()
    const publishing = published.some(10)
    const channel = readers.channel(`${name} ${round}`, { history: ENDLESS, onLag: 'gap' })
    if (round % 3 === 0) {
      const early = channel.subscribe()[Symbol.asyncIterator]()
      early.next()
      await new Promise((resolve) => setImmediate(resolve))
      early.return!()
    }
    witness.read((after) => channel.subscribe({ after }))
    await publishing
    await published.some(10)
    all.push([witness, published, await published.last()])
    if (round % 5 === 0) await until(() => witness.has(20))
  }
  await until(() => all.every(([witness, , last]) => witness.has(last)), () => 'everything')
  for (const [witness, published] of all) {
    t.same(witness.faults(published), [])
    t.equal(witness.gaps, 0)
  }
})

/** A server, and a broker through a proxy that keeps what goes one way, until it is let go. */
async function heldBroker (t: Test, server: RedisServer) {
  const proxy = await startProxy(t, server)
  const pass = proxy.pass
  let kept: (() => void)[] = []
  return {
    broker: brokerOf(t, proxy),
    held: () => kept.length,
    hold (held: 'client' | 'server') {
      proxy.pass = (way, to, bytes) => {
        if (to === held) kept.push(() => pass(way, to, bytes))
        else pass(way, to, bytes)
      }
    },
    letGo () {
      proxy.pass = pass
      for (const write of kept) write()
      kept = []
    }
  }
}

test('a channel that is dropped while much of it is on its way costs nothing more', async (t) => {
  const server = await startRedis(t)
  const { broker, hold, held, letGo } = await heldBroker(t, server)
  const admin = adminOf(t, server)
  const other = brokerOf(t, server)
  let entries = 0
  const listener = { entry () { entries++ }, closed () {}, failed () {}, lost () {} }
  await broker.listen('b', listener)
  const { stop } = await broker.listen('a', listener)
  await publish(other, 'x')
  await until(() => entries === 1)
  await eventually(async () => (await connectionsOf(admin)).includes('xread'), 'it waits')
  hold('server')
  await publish(other, 'x')
  await until(() => entries === 2 && held() > 0)
  for (let n = 0; n < 20; n++) await Promise.all(Array.from({ length: 100 }, () => publish(other, 'x')))
  letGo()
  hold('client')
  await until(() => held() > 0)
  stop()
  letGo()
  await publish(other, 'x', ENDLESS, 'b')
  await until(() => entries === 3)
  const before = await readsOf(admin)
  await new Promise((resolve) => setTimeout(resolve, 300))
  const reads = await readsOf(admin) - before
  t.ok(reads <= 1, `${reads} reads while nothing comes`)
})
