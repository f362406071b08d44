/** What readers and publishers are told when Redis, or the way to it, fails: all of it, once, in order; or a gap, or an error. */
import { Redis } from 'ioredis'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import http from 'node:http'
import { setTimeout as wait } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { createHub, redisBroker, type GapEvent, type ReceivedEvent, type RedisBroker, type SseChannel } from '../index.ts'
import type { Connection } from '../lib/brokers/redis/client.ts'
import { recall } from '../lib/brokers/redis/recall.ts'
import { eventually } from '../lib/testing/law.ts'
import { connect, createApp, listen, readOn, until, turns } from './helpers.ts'
import { adminOf, brokerOf, noRedis, Published, startRedis, Witness, type RedisServer } from './redis-server.ts'
import { startProxy, type Proxy, type Way } from './tcp-proxy.ts'

const AWAY = 'FST_SSE_BROKER_UNAVAILABLE'
const UNKNOWN = 'FST_SSE_OUTCOME_UNKNOWN'

/** `always`: what was answered is on disk, whenever the process is killed. */
const DURABLE = ['--appendonly', 'yes', '--appendfsync', 'always']

const LOG = 'sse:{0}:log:a'
const STATE = 'sse:{0}:state:a'
const NEWS = 'sse:{0}:news'

const HISTORY = { events: 1_000_000, bytes: 1_000_000_000, age: false } as const

// Most of the time is that of waiting.
t.jobs = 4
t.setTimeout(120_000)

/** What a busy machine may be late by, in ms: less than a lease of any run here. */
const LATE = 500

function test (name: string, check: (t: Test) => Promise<void>): void {
  t.test(name, { skip: noRedis, buffered: true, timeout: 60_000 }, check)
}

function channelOf (t: Test, broker: RedisBroker, name = 'a'): SseChannel<any> {
  const hub = createHub({ broker, onError () {} })
  t.after(() => hub.close())
  return hub.channel(name, { history: HISTORY, onLag: 'gap' })
}

/** A Redis, the way to it, and who publishes by that. */
async function startBehindProxy (t: Test) {
  const server = await startRedis(t)
  const proxy = await startProxy(t, server)
  return { server, proxy, admin: adminOf(t, server), published: new Published(channelOf(t, brokerOf(t, proxy))) }
}

/** Reads a channel by `for await`. */
function readBy (t: Test, broker: RedisBroker, after?: string, name = 'a'): Witness {
  const channel = channelOf(t, broker, name)
  const witness = new Witness(after)
  witness.read((after) => channel.subscribe({ after }))
  return witness
}

/** Reads over HTTP as an EventSource does. */
async function readOver (t: Test, broker: RedisBroker): Promise<Witness> {
  const app = await createApp(t, { broker })
  const channel = app.sse.channel('a', { history: HISTORY, onLag: 'gap' })
  app.get('/', (_, reply) => reply.sse(channel))
  const port = await listen(app)
  const witness = new Witness()
  let gone = false
  t.after(() => { gone = true })
  const visit = () => {
    const headers = { 'last-event-id': witness.after, accept: 'text/event-stream' }
    const request = http.get({ port, host: '127.0.0.1', agent: false, headers })
    t.after(() => { request.destroy() })
    request.on('error', () => {}).on('close', () => { if (!gone) setTimeout(visit, 20) }).on('response', (response) => {
      let text = ''
      response.on('error', () => {}).setEncoding('utf8').on('data', (chunk: string) => {
        const blocks = (text + chunk).split('\n\n')
        text = blocks.pop()!
        for (const block of blocks) takeBlock(witness, block)
      })
    })
  }
  visit()
  return witness
}

function takeBlock (witness: Witness, block: string): void {
  const field = (name: string) => new RegExp(`^${name}: (.*)$`, 'm').exec(block)?.[1]
  const [id, data, event] = [field('id'), field('data'), field('event')]
  if (data === undefined) witness.after = id ?? witness.after
  else witness.take({ event, data: JSON.parse(data), id } as ReceivedEvent | GapEvent)
}

/** Waits until they have the last event, as far as they ever will. */
async function untilAll (last: number, published: Published, ...witnesses: Witness[]): Promise<void> {
  await until(() => witnesses.every((witness) => witness.has(last) || witness.gaps > 50), () => {
    return `all readers to have ${last}: ${witnesses.map(({ told, errors }) => {
      return `${told.length} told, ${JSON.stringify(told.slice(-3))}, ${errors.at(-1)}`
    }).join('; ')}; rejected ${JSON.stringify([...published.codes].slice(-3))}`
  })
}

function judge (t: Test, published: Published, witnesses: Record<string, Witness>, gaps?: 0): void {
  for (const [who, witness] of Object.entries(witnesses)) {
    t.same(witness.faults(published), [], who)
    if (gaps !== undefined) t.equal(witness.gaps, gaps, `${who} was told of no gap`)
  }
}

for (const [how, options] of [['without persistence', []], ['with an append-only file', DURABLE]] as const) {
  test(`Redis killed in the middle of publishing, ${how}: everything once and in order, or a gap is told`, async (t) => {
    const server = await startRedis(t, ...options)
    const published = new Published(channelOf(t, brokerOf(t, server, { timeout: 1_000 })))
    const byIterating = readBy(t, brokerOf(t, server, { timeout: 1_000 }))
    const overHttp = await readOver(t, brokerOf(t, server, { timeout: 1_000 }))
    let over = false
    const publishing = published.until(() => over)
    for (const restart of ['at once', 'late', 'at once']) {
      const { size } = published.ids
      await until(() => published.ids.size > size + 200)
      await server.kill()
      const { size: before } = published.codes
      if (restart === 'late') await until(() => published.codes.size > before + 3)
      await server.start()
    }
    const { size } = published.ids
    await until(() => published.ids.size > size + 100)
    over = true
    await publishing
    await untilAll(await published.last(), published, byIterating, overHttp)
    judge(t, published, { byIterating, overHttp }, how.startsWith('with an') ? 0 : undefined)
    t.ok(published.codes.size > 0, 'some were rejected')
    if (how === 'without persistence') t.ok(byIterating.gaps > 0 && overHttp.gaps > 0)
  })
}

test('Redis comes back as it was some time ago: what a reader has not had, and never will, is told as a gap', async (t) => {
  const server = await startRedis(t)
  const admin = adminOf(t, server)
  const proxy = await startProxy(t, server)
  const published = new Published(channelOf(t, brokerOf(t, server, { timeout: 1_000 })))
  await published.some(5)
  await admin.save()
  const witness = readBy(t, brokerOf(t, proxy, { timeout: 1_000 }))
  await published.some(5)
  await until(() => witness.has(9))
  proxy.pass = () => {}
  await published.some(5)
  await server.kill()
  await server.start()
  proxy.pass = (way, to, bytes) => { way[to].write(bytes) }
  proxy.cutAll()
  const { count } = proxy
  await until(() => proxy.count >= count + 2)
  await until(() => witness.gaps > 0).catch(() => {})
  await untilAll(await published.last(), published, witness)
  t.same(witness.numbers.filter((n) => n > 9 && n < 15), [])
  const told = witness.told.slice(10)
  t.ok(told.some((each) => each.is === 'gap' && each.requested === published.ids.get(9)), `10 to 14 are gone: ${JSON.stringify(told)}`)
})

/** Cuts each connection after any number of bytes, in either direction. */
function cutAnywhere (proxy: Proxy, mean: number): { cuts: number } {
  const counted = { cuts: 0 }
  const budgets = new WeakMap<Way, { client: number, server: number }>()
  const draw = () => Math.floor(-Math.log(1 - Math.random()) * mean)
  proxy.pass = (way, to, bytes) => {
    let left = budgets.get(way)
    if (left === undefined) budgets.set(way, left = { client: draw(), server: draw() })
    way[to].write(bytes.subarray(0, left[to]))
    left[to] -= bytes.length
    if (left[to] >= 0) return
    counted.cuts++
    way.client.destroy()
    if (Math.random() < 0.5) way.server.destroy()
    else way.server.end()
  }
  return counted
}

test('a connection that is cut anywhere, dozens of times, while Redis lives: everything once and in order, nothing rejected',
  async (t) => {
    const server = await startRedis(t)
    const proxies = await Promise.all([startProxy(t, server), startProxy(t, server), startProxy(t, server)])
    const [toPublish, toRead, toServe] = proxies as [Proxy, Proxy, Proxy]
    const published = new Published(channelOf(t, brokerOf(t, toPublish)), 'x'.repeat(200))
    const byIterating = readBy(t, brokerOf(t, toRead))
    const overHttp = await readOver(t, brokerOf(t, toServe))
    const counts = proxies.map((proxy) => cutAnywhere(proxy, 50_000))
    await published.until(() => counts.every(({ cuts }) => cuts >= 15))
    // What is left may be more than any of these connections takes.
    for (const proxy of proxies) proxy.pass = (way, to, bytes) => { way[to].write(bytes) }
    for (const proxy of proxies) proxy.cutAll()
    await untilAll(await published.last(), published, byIterating, overHttp)
    judge(t, published, { byIterating, overHttp }, 0)
    t.same([...published.codes], [], 'nothing was rejected')
    t.comment(`${counts.map(({ cuts }) => cuts)} cuts, ${published.count} events`)
  })

/** Calls back once with the bytes in which a script is asked for, and the one it comes by: those it does not pass on itself. */
function onceAsked (proxy: Proxy, command: string, take: (way: Way, bytes: Buffer) => void): void {
  const { pass } = proxy
  proxy.pass = (way, to, bytes) => {
    if (to === 'client' || !bytes.includes(command)) return pass(way, to, bytes)
    proxy.pass = pass
    take(way, bytes)
  }
}

test('what was on its way when the connection broke, and arrives after it was asked for again, is not stored twice', async (t) => {
  const { proxy, admin, published } = await startBehindProxy(t)
  await published.one()
  let late: (() => void) | undefined
  onceAsked(proxy, 'EVALSHA', (way, bytes) => {
    late = () => way.server.write(bytes)
    way.lingers = true
    way.client.destroy()
  })
  await published.one()
  const { numcommands } = await statsOf(admin, 'evalsha')
  late!()
  // It is let in, or its connection is gone.
  const isIn = async () => (await statsOf(admin, 'evalsha')).numcommands > numcommands
  for (let look = 0; look < 100 && !await isIn(); look++) await wait(5)
  await published.one()
  const log = await numbersIn(admin)
  t.same(log, [0, 1, 2])
  t.equal(published.codes.size, 0)
})

async function statsOf (admin: Redis, command: string): Promise<{ numcommands: number }> {
  const line = new RegExp(`^cmdstat_${command}:calls=(\\d+)`, 'm').exec(await admin.info('commandstats'))
  return { numcommands: Number(line?.[1] ?? 0) }
}

/** The numbers of the events that Redis has. */
async function numbersIn (admin: Redis, log = LOG): Promise<number[]> {
  const entries = await admin.xrange(log, '-', '+')
  return entries.map(([, fields]) => JSON.parse(fields[fields.indexOf('t') + 1]!).n)
}

test('what is asked for again is not stored twice, though the scripts are gone too', async (t) => {
  const { proxy, admin, published } = await startBehindProxy(t)
  await published.one()
  onceAsked(proxy, 'EVALSHA', (way, bytes) => {
    way.server.write(bytes)
    admin.xlen(LOG).then(async function stored (length): Promise<void> {
      if (length < 2) return stored(await admin.xlen(LOG))
      onceAsked(proxy, 'EVALSHA', (again, bytes) => {
        admin.script('FLUSH').then(() => again.server.write(bytes))
      })
      proxy.cut(way)
    })
    way.server.removeAllListeners('data')
  })
  await published.one()
  await published.one()
  t.same(await numbersIn(admin), [0, 1, 2])
  t.equal(published.codes.size, 0)
})

test('a publish whose answer is lost, and whose event has been trimmed when it is asked for again, is not stored twice',
  async (t) => {
    const server = await startRedis(t)
    const proxy = await startProxy(t, server)
    const admin = adminOf(t, server)
    const history = { events: 1_000, bytes: 1, age: false } as const
    const publisher = createHub({ broker: brokerOf(t, proxy) }).channel('a', { history })
    const other = createHub({ broker: brokerOf(t, server) }).channel('a', { history })
    const reader = readOn(channelOf(t, brokerOf(t, server)).subscribe({ after: '0-0' }))
    await publisher.publish({ data: 'first' })
    onceAsked(proxy, 'EVALSHA', (way, bytes) => {
      way.server.write(bytes)
      way.server.removeAllListeners('data')
      until(() => reader.seen.length === 2).then(async () => {
        await other.publish({ data: 'other' })
        proxy.cut(way)
      })
    })
    const code = await publisher.publish({ data: 'once' }).then(() => 'stored', (error: any) => error.code)
    // A history of one: the next event would take its place before the reader has come to it.
    await until(() => reader.seen.some(({ data }) => data === 'other'))
    await other.publish({ data: 'last' })
    await until(() => reader.seen.at(-1)?.data === 'last')
    t.same(reader.seen.filter(({ event }) => event !== 'gap').map(({ data }) => data), ['first', 'once', 'other', 'last'])
    t.ok(['stored', UNKNOWN].includes(code), code)
    t.equal(await admin.xlen(LOG), 1, 'the history has room for one')
  })

test('Redis answers nobody for longer than the timeout: publishing fails in time, streams stay open, then all goes on', async (t) => {
  const server = await startRedis(t)
  const timeout = 500
  const published = new Published(channelOf(t, brokerOf(t, server, { timeout })))
  const byIterating = readBy(t, brokerOf(t, server, { timeout }))
  const app = await createApp(t, { broker: brokerOf(t, server, { timeout }), keepAlive: 50 })
  const channel = app.sse.channel('a', { history: HISTORY })
  app.get('/', (_, reply) => reply.sse(channel))
  const client = connect(t, await listen(app)).get('/', 'Last-Event-ID: 0-0')
  await published.some(20)
  await client.until('"n":19,')
  await until(() => byIterating.has(19))

  server.stop()
  const before = client.received.length
  for (const round of [1, 2, 3]) {
    const started = performance.now()
    await published.some(5)
    const took = performance.now() - started
    t.ok(took < timeout + 300, `round ${round} was rejected after ${took} ms`)
  }
  t.equal(published.ids.size, 20)
  await until(() => client.received.slice(before).split('\n:\n').length > 5, () => 'keep-alives')
  t.equal(client.closed, false)
  t.equal(app.sse.stats().open, 1)
  server.goOn()

  await published.last()
  await published.some(20)
  const last = await published.last()
  await untilAll(last, published, byIterating)
  await client.until(`"n":${last},`)
  const overHttp = new Witness()
  for (const block of client.body.split('\n\n')) takeBlock(overHttp, block)
  judge(t, published, { byIterating, overHttp }, 0)
  t.equal(client.closed, false)
})

test('a connection that was made and is answered by nobody is given up', async (t) => {
  const server = await startRedis(t)
  const proxy = await startProxy(t, server)
  const published = new Published(channelOf(t, brokerOf(t, proxy, { timeout: 300 })))
  await published.one()
  const silent = new Set<Way>()
  proxy.pass = (way) => { silent.add(way) }
  proxy.cutAll()
  await until(() => silent.size > 0)
  proxy.pass = (way, to, bytes) => { if (!silent.has(way)) way[to].write(bytes) }
  await t.resolves(published.last(), 'another one was made')
})

test('a connection that falls silent while its scripts are loaded again is given up, which is told', async (t) => {
  const server = await startRedis(t)
  const proxy = await startProxy(t, server)
  const errors: unknown[] = []
  const published = new Published(channelOf(t, brokerOf(t, proxy, { timeout: 300, onError: (error) => errors.push(error) })))
  await published.one()
  await adminOf(t, server).script('FLUSH')
  const [old] = proxy.ways
  proxy.pass = (way, to, bytes) => {
    if (way !== old) way[to].write(bytes)
    else if (to === 'client') old.client.write(bytes)
    else if (bytes.includes('EVALSHA')) old.server.write(bytes)
  }
  await published.last()
  t.match(errors, [{ code: AWAY }])
})

test('however much has no answer when the connection breaks, the log is looked through once', async (t) => {
  const { proxy, admin, published } = await startBehindProxy(t)
  await published.one()
  const { numcommands } = await statsOf(admin, 'xrevrange')
  const { pass } = proxy
  proxy.pass = (way, to, bytes) => { if (to === 'server') way.server.write(bytes) }
  const stored = published.some(500)
  await eventually(async () => await admin.xlen(LOG) === 501, 'the first half is stored')
  proxy.pass = () => {}
  const lost = published.some(500)
  await turns()
  proxy.pass = pass
  proxy.cutAll()
  await Promise.all([stored, lost])
  t.same(await numbersIn(admin), Array.from({ length: 1_001 }, (_, n) => n), 'once, and in order')
  t.same([...published.codes], [])
  const looks = (await statsOf(admin, 'xrevrange')).numcommands - numcommands
  t.ok(looks > 0 && looks <= 12, `${looks} times 100 entries`)
})

test('an append that is refused while a later one is stored is rejected, not stored after it', async (t) => {
  const server = await startRedis(t)
  const proxy = await startProxy(t, server)
  const admin = adminOf(t, server)
  const { pass } = proxy
  const published = new Published(channelOf(t, brokerOf(t, proxy)))
  const other = new Published(channelOf(t, brokerOf(t, proxy), 'b'))
  await Promise.all([published.one(), other.one()])
  const refusals: [what: string, begin: () => Promise<unknown>, end: () => Promise<unknown>, isCut: boolean][] = [
    ['its script is gone, and loaded by others', () => admin.script('FLUSH'), loadScripts, false],
    ['it is a replica', () => admin.replicaof('127.0.0.1', 1), () => admin.replicaof('NO', 'ONE'), false],
    ['its memory is full', () => admin.config('SET', 'maxmemory', '1'), () => admin.config('SET', 'maxmemory', '0'), true]
  ]
  async function loadScripts (): Promise<void> {
    const broker = brokerOf(t, server)
    await broker.read('c', undefined, { entries: 1, bytes: 1 })
  }
  for (const [what, begin, end, isCut] of refusals) {
    const answers: [Way, Buffer][] = []
    proxy.pass = (way, to, bytes) => { if (to === 'server') way.server.write(bytes); else answers.push([way, bytes]) }
    await begin()
    const refused = published.one()
    await until(() => answers.length > 0)
    await end()
    const stored = published.one()
    await eventually(async () => (await numbersIn(admin)).at(-1) === published.count - 1, 'the later one is stored')
    proxy.pass = pass
    if (isCut) proxy.cutAll()
    else for (const [way, bytes] of answers) way.client.write(bytes)
    await Promise.all([refused, stored])
    t.equal(published.codes.get(published.count - 2), AWAY, what)
    t.ok(published.ids.has(published.count - 1), what)
    await Promise.all([published.one(), other.one()])
  }
  t.same(await numbersIn(admin), [...published.ids.keys()], 'in their order')
  t.same([...other.codes], [])
})

/** Loses the answer of the next append with its connection, and lets nobody connect until what is given has been done. */
async function loseAnswer (proxy: Proxy, published: Published, admin: Redis, meanwhile: () => Promise<unknown>): Promise<void> {
  const { pass } = proxy
  const length = await admin.xlen(LOG)
  proxy.pass = (way, to, bytes) => { if (to === 'server') way.server.write(bytes) }
  const publishing = published.one()
  await eventually(async () => await admin.xlen(LOG) > length, 'it is stored')
  proxy.pass = () => {}
  proxy.cutAll()
  await meanwhile()
  proxy.pass = pass
  proxy.cutAll()
  await publishing
}

test('a publish whose answer is lost, and whose channel is closed and forgotten meanwhile, does not begin it anew', async (t) => {
  const { server, proxy, admin, published } = await startBehindProxy(t)
  const other = brokerOf(t, server)
  await published.one()
  await loseAnswer(proxy, published, admin, async () => {
    await other.close('a', 1)
    await eventually(async () => await admin.exists(STATE) === 0, 'it is forgotten')
  })
  t.same([...published.codes], [[1, UNKNOWN]])
  t.equal(await admin.exists(LOG), 0)
})

test('a log that is spoiled while an append to it has no answer holds up no other channel', async (t) => {
  const server = await startRedis(t)
  const proxy = await startProxy(t, server)
  const admin = adminOf(t, server)
  const broker = brokerOf(t, proxy)
  const published = new Published(channelOf(t, broker))
  const other = new Published(channelOf(t, broker, 'b'))
  await Promise.all([published.one(), other.one()])
  await loseAnswer(proxy, published, admin, () => admin.set(LOG, 'nonsense'))
  t.same([...published.codes], [[1, UNKNOWN]])
  const { count } = proxy
  await other.one()
  t.equal(other.ids.size, 2)
  t.equal(proxy.count, count, 'no connection is made for it')
})

t.test('however many appends have no answer, no call has more than ten thousand of them', async (t) => {
  const calls: number[] = []
  const connection = {
    async call (command: string, ...args: (string | number)[]) {
      const headers = args.slice(8)
      calls.push(headers.length)
      return ['0-0', ...headers.map((header, index) => index === 0 ? `1-${header}` : null)]
    }
  }
  const lost = Array.from({ length: 25_000 }, (_, n) => ({ trace: { channel: 'a', keys: ['l', 's', 'n'], header: String(n) }, since: 1 }))
  const outcomes = await recall(connection as unknown as Connection, lost)
  t.same(calls, [10_000, 10_000, 5_000])
  t.equal(outcomes.size, 25_000)
  t.same(lost.filter((each) => outcomes.get(each) !== undefined).map(({ trace }) => trace.header), ['0', '10000', '20000'])
})

test('what is published while Redis is away is rejected after the timeout and never stored; or stored, if it is back before', async (t) => {
  const server = await startRedis(t, ...DURABLE)
  const admin = adminOf(t, server)
  const errors: unknown[] = []
  const timeout = 600
  const broker = brokerOf(t, server, { timeout, onError: (error) => errors.push(error) })
  const published = new Published(channelOf(t, broker))
  await published.one()

  await server.kill()
  await until(() => errors.length === 1)
  const started = performance.now()
  await published.some(10)
  const took = performance.now() - started
  t.ok(took >= timeout - 5 && took < timeout + 300, `rejected after ${took} ms`)
  t.same(new Set(published.codes.values()), new Set([AWAY]))

  await server.start()
  await published.last()
  const { size } = published.codes
  await server.kill()
  await until(() => errors.length === 2)
  const late = published.some(10)
  await server.start()
  await late
  t.equal(published.codes.size, size, 'nothing more was rejected')
  t.same(await numbersIn(admin), [...published.ids.keys()])
  t.ok(errors.every((error) => error instanceof Error), 'of the connection')
})

test('while Redis is away an EventSource is told to come back, others get 503, and what is in memory can be resumed', async (t) => {
  const server = await startRedis(t)
  const errors: unknown[] = []
  // Longer than it takes to connect anew.
  const broker = brokerOf(t, server, { timeout: 2_500, onError: (error) => errors.push(error) })
  const app = await createApp(t, { broker })
  app.get<{ Params: { name: string } }>('/:name', ({ params }, reply) => reply.sse(app.sse.channel(params.name, { onLag: 'gap' })))
  const port = await listen(app)
  const reader = connect(t, port).get('/a')
  await reader.until('id: ')
  const channel = app.sse.channel('a')
  const ids: string[] = []
  for (const n of [0, 1, 2]) ids.push(await channel.publish({ data: { n } }))
  await reader.until('"n":2')

  await server.kill()
  await until(() => errors.length > 0)
  const [source, other, resumed, joined] = [
    connect(t, port).get('/b', 'Accept: text/event-stream'),
    connect(t, port).get('/b'),
    connect(t, port).get('/a', 'Accept: text/event-stream', `Last-Event-ID: ${ids[0]}`),
    connect(t, port).get('/a', 'Accept: text/event-stream')
  ]
  await source.until(/retry: \d+\n/)
  t.match(source.head, /^HTTP\/1.1 200 /)
  t.match(source.head, /^content-length: \d+\r?$/m, 'it ends there')
  t.match(source.body, /^retry: \d+\n$/)
  await other.until('FST_SSE_BROKER_UNAVAILABLE')
  t.match(other.head, /^HTTP\/1.1 503 /)
  t.match(other.head, /^retry-after: \d+\r?$/m)
  await resumed.until('"n":2')
  t.same(resumed.body.match(/"n":\d/g), ['"n":1', '"n":2'])
  await joined.until(`id: ${ids[2]}`)

  await server.start()
  const published = new Published(channel)
  const last = await published.last()
  for (const client of [reader, resumed, joined]) {
    await client.until(`id: ${published.ids.get(last)}`)
    t.equal(client.closed, false)
  }
})

type Change = (fields: string[], entry: { id: string }) => string[]

/** The entry at an index as others have changed it. */
async function rewrite (admin: Redis, at: number, change: Change): Promise<void> {
  const entries = await admin.xrange(LOG, '-', '+')
  const all = admin.multi().del(LOG)
  entries.forEach(([id, fields], index) => { all.xadd(LOG, id, ...(index === at ? change(fields, { id }) : fields)) })
  await all.exec()
}

/** The header of an entry with one of its values changed. */
function withHeader (fields: string[], at: number, value: unknown): string {
  const header: unknown[] = JSON.parse(fields[5]!)
  header[at] = value
  return JSON.stringify(header)
}

interface Damage {
  make (admin: Redis): Promise<unknown>
  /** Redis does not know any more that there was anything before. */
  forgets?: true
  /** Undone after some events more were published. */
  undo? (admin: Redis): Promise<unknown>
}

const DAMAGES: Record<string, Damage> = {
  'an entry of others': { make: (admin) => admin.xadd(LOG, '*', 'x', 'y') },
  'many entries of others': {
    async make (admin) { for (let n = 0; n < 100; n++) await admin.xadd(LOG, '*', 'x', 'y') }
  },
  "an entry of others with an 'end'": { make: (admin) => admin.xadd(LOG, '*', 'x', 'y', 'end', '1') },
  'an entry of others that begins as ours do': { make: (admin) => admin.xadd(LOG, '*', 'p', 'nonsense') },
  'an entry with a damaged header': { make: (admin) => rewrite(admin, 4, (fields) => fields.with(5, '["')) },
  'an entry with a header of another shape': { make: (admin) => rewrite(admin, 4, (fields) => fields.with(5, '{}')) },
  'an entry with an event type that none can have': {
    make: (admin) => rewrite(admin, 4, (fields) => fields.with(5, withHeader(fields, 2, 'a\nid: 1')))
  },
  'an entry with a retry that none can have': {
    make: (admin) => rewrite(admin, 4, (fields) => fields.with(5, withHeader(fields, 3, '1\ndata: {}')))
  },
  'an entry with damaged data': { make: (admin) => rewrite(admin, 4, (fields) => fields.with(7, '{"n":')) },
  'an entry with fields missing': { make: (admin) => rewrite(admin, 4, (fields) => fields.slice(0, 4)) },
  'the first entry damaged': { make: (admin) => rewrite(admin, 0, (fields) => fields.with(7, '{')) },
  'the newest entry damaged': { make: (admin) => rewrite(admin, 9, (fields) => fields.with(7, '{')) },
  'an entry with another before it': { make: (admin) => rewrite(admin, 4, (fields) => fields.with(1, '1-1')) },
  'a damaged entry that comes live': {
    async make (admin) {
      const [last] = await admin.hmget(STATE, 'last')
      const [ms, seq] = last!.split('-')
      const id = `${ms}-${Number(seq) + 1}`
      await admin.multi().xadd(LOG, id, 'p', last!, 'b', '1000', 'h', '{', 't', '{').hset(STATE, 'last', id)
        .xadd(NEWS, '*', 'c', 'a', 'i', id).exec()
    }
  },
  'an entry deleted in the middle': {
    make: async (admin) => admin.xdel(LOG, (await admin.xrange(LOG, '-', '+'))[4]![0])
  },
  'the log deleted': { make: (admin) => admin.del(LOG) },
  'the state deleted': { forgets: true, make: (admin) => admin.del(STATE) },
  'the news deleted': { make: (admin) => admin.del(NEWS) },
  'everything deleted': { forgets: true, make: (admin) => admin.flushall() },
  'a log of another type': { make: (admin) => admin.set(LOG, 'x'), undo: (admin) => admin.del(LOG) },
  'a state of another type': {
    forgets: true, make: (admin) => admin.set(STATE, 'x'), undo: (admin) => admin.del(STATE)
  },
  'news of another type': { make: (admin) => admin.set(NEWS, 'x'), undo: (admin) => admin.del(NEWS) },
  'damaged news': {
    make: (admin) => admin.multi().xadd(NEWS, '*', 'c', 'a').xadd(NEWS, '*', 'x', 'y').xadd(NEWS, '*', 'c', 'a', 'i', 'x').exec()
  },
  'a damaged state': {
    forgets: true,
    make: (admin) => admin.hset(STATE, 'last', 'nonsense', 'bytes', 'many'),
    undo: (admin) => admin.del(STATE)
  }
}

/** What an entry says, without its place. */
function contentOf (fields: string[]): string {
  return JSON.stringify(fields.slice(4))
}

for (const [what, { make, undo, forgets }] of Object.entries(DAMAGES)) {
  test(`${what}: readers get all that is there, are told of a gap where something is not, and nothing is invented`, async (t) => {
    const server = await startRedis(t)
    const admin = adminOf(t, server)
    const published = new Published(channelOf(t, brokerOf(t, server, { timeout: 2_000 })))
    const other = new Published(channelOf(t, brokerOf(t, server), 'other'))
    const ofOther = brokerOf(t, server)
    const live = readBy(t, ofOther)
    const beside = readBy(t, ofOther, '0-0', 'other')
    await published.some(10)
    await other.some(10)
    await until(() => live.has(9) && beside.has(9))

    const before = new Map((await admin.xrange(LOG, '-', '+')).map(([id, fields]) => [id, contentOf(fields)]))
    await make(admin)
    await published.some(5)
    if (what !== 'news of another type') {
      await untilAll(await other.last(), other, beside)
      judge(t, other, { 'a reader of another channel': beside })
    }
    await undo?.(admin)
    await published.some(5)
    const last = await published.last()
    const froms = [0, 2, 4, 5]
    // The first one from the beginning.
    const newcomers = froms.map((from) => readBy(t, brokerOf(t, server), published.ids.get(from - 1)))
    await untilAll(last, published, live, ...newcomers)
    judge(t, published, { 'who was there': live })
    const there = new Map((await admin.xrange(LOG, '-', '+')).map(([id, fields]) => [id, fields]))
    const isIntact = (id: string) => there.has(id) && (before.get(id) ?? contentOf(there.get(id)!)) === contentOf(there.get(id)!)
    froms.forEach((from, index) => {
      const witness = newcomers[index]!
      const faults = witness.faults(published, ({ n, id }) => n >= from && (there.has(id) || from > 0 || !forgets))
      t.same(faults, [], `who comes from before event ${from}`)
      const missing = [...published.ids].filter(([n, id]) => n >= from && isIntact(id) && !witness.has(n))
      t.same(missing, [], `who comes from before event ${from} gets all that is there`)
      const invented = [...published.ids].filter(([n, id]) => there.has(id) && !isIntact(id) && witness.has(n))
      t.same(invented, [], `who comes from before event ${from} is given nothing that is damaged`)
    })
  })
}

for (const what of ['the log deleted', 'the state deleted', 'everything deleted', 'an entry deleted']) {
  test(`${what}, which a reader is still to be given: a gap is told`, async (t) => {
    const server = await startRedis(t)
    const admin = adminOf(t, server)
    const proxy = await startProxy(t, server)
    const published = new Published(channelOf(t, brokerOf(t, server)))
    const witness = readBy(t, brokerOf(t, proxy))
    await published.some(10)
    await until(() => witness.has(9))
    const { pass } = proxy
    const held: (() => void)[] = []
    proxy.pass = (way, to, bytes) => {
      if (to === 'server') held.push(() => pass(way, to, bytes))
      else pass(way, to, bytes)
    }
    // It may be given what it has asked for already, but no more.
    await published.one()
    await until(() => held.length > 0)
    await published.some(5)
    if (what === 'an entry deleted') await admin.xdel(LOG, published.ids.get(13)!)
    else await DAMAGES[what]!.make(admin)
    await published.some(5)
    proxy.pass = pass
    for (const write of held) write()
    await untilAll(await published.last(), published, witness)
    judge(t, published, { witness })
    t.ok(witness.gaps > 0)
    if (what === 'an entry deleted') t.equal(published.count - witness.numbers.length, 1, 'it has all others')
  })
}

test('scripts that are gone, again and again, in the middle of publishing: everything once, in the order of the calls', async (t) => {
  const server = await startRedis(t)
  const admin = adminOf(t, server)
  const proxy = await startProxy(t, server)
  const published = new Published(channelOf(t, brokerOf(t, proxy)))
  const witness = readBy(t, brokerOf(t, server))
  // Answers come in pieces.
  const queues = new WeakMap<Way, Promise<void>>()
  proxy.pass = (way, to, bytes) => {
    if (to === 'server') return way.server.write(bytes)
    const passed = (queues.get(way) ?? Promise.resolve()).then(async () => {
      for (let at = 0; at < bytes.length; at += 50) {
        way.client.write(bytes.subarray(at, at + 50))
        await turns(1)
      }
    })
    queues.set(way, passed)
  }
  const all: Promise<void>[] = []
  for (let round = 0; round < 30; round++) {
    await admin.script('FLUSH')
    for (let turn = 0; turn < 10; turn++) {
      all.push(published.some(3))
      await turns(2)
    }
    await Promise.all(all.splice(0))
  }
  await untilAll(await published.last(), published, witness)
  judge(t, published, { witness }, 0)
  t.same([...published.codes], [])
})

test('all connections killed, again and again, in the middle of publishing: everything once and in order', async (t) => {
  const server = await startRedis(t)
  const admin = adminOf(t, server)
  const published = new Published(channelOf(t, brokerOf(t, server)))
  const witness = readBy(t, brokerOf(t, server))
  let over = false
  const publishing = published.until(() => over)
  for (let kills = 0; kills < 20; kills++) {
    const { size } = published.ids
    await until(() => published.ids.size > size + 20)
    await admin.call('CLIENT', 'KILL', 'TYPE', 'normal')
  }
  over = true
  await publishing
  await untilAll(await published.last(), published, witness)
  judge(t, published, { witness }, 0)
  t.same([...published.codes], [])
})

test('with a wrong password publishing and reading fail in time, with the reason', async (t) => {
  const server = await startRedis(t, '--requirepass', 'secret')
  const timeout = 400
  for (const [password, works] of [['wrong', false], [undefined, false], ['secret', true]] as const) {
    const client = new Redis({ port: server.port, lazyConnect: true, ...(password && { password }) })
    const broker = redisBroker(client, { timeout, onError () {} })
    t.after(() => broker.end())
    const channel = channelOf(t, broker)
    const started = performance.now()
    if (works) {
      await channel.publish({ data: 1 })
    } else {
      const reader = readOn(channel.subscribe())
      await t.rejects(channel.publish({ data: 1 }), { code: AWAY, message: /WRONGPASS|NOAUTH/ })
      await t.rejects(reader.ended, { code: AWAY })
      t.ok(performance.now() - started < timeout + 300)
    }
  }
})

test('while Redis has no memory left publishing is rejected, nothing is stored, and readers live', async (t) => {
  const server = await startRedis(t)
  const admin = adminOf(t, server)
  const published = new Published(channelOf(t, brokerOf(t, server)))
  const witness = readBy(t, brokerOf(t, server))
  await published.some(10)
  await until(() => witness.has(9))
  await admin.config('SET', 'maxmemory-policy', 'noeviction', 'maxmemory', '1')
  await published.some(10)
  t.same([...published.codes.values()], Array(10).fill(AWAY))
  const newcomer = readBy(t, brokerOf(t, server))
  await until(() => newcomer.has(9), () => `all that is there to be read: ${newcomer.errors}`)
  const elsewhere = readOn(channelOf(t, brokerOf(t, server), 'b').subscribe())
  await published.some(1)
  await admin.config('SET', 'maxmemory', '0')
  await published.some(10)
  await untilAll(await published.last(), published, witness, newcomer)
  judge(t, published, { witness, newcomer }, 0)
  t.same(await numbersIn(admin), [...published.ids.keys()])
  t.ok(elsewhere.result.error === undefined || elsewhere.result.error.code === AWAY)
})

const WILL = { event: 'died', data: 'the process has died' }

/** Starts a run that goes on for ever, which a reader elsewhere has seen the beginning of. */
async function startRun (t: Test, server: RedisServer, lease: number, will?: object) {
  const broker = brokerOf(t, server)
  const hub = createHub({ broker, onError () {} })
  t.after(() => hub.close())
  const state = { next: () => {} }
  hub.run('key', async function * () {
    for (let n = 0; ; n++) {
      yield { data: { n } }
      await new Promise<void>((resolve) => { state.next = resolve })
    }
  }, { lease, ...(will && { will: will as any }) })
  return { broker, state }
}

async function attach (t: Test, server: { port: number }) {
  const hub = createHub({ broker: brokerOf(t, server), onError () {} })
  t.after(() => hub.close())
  // Nobody may know of the run yet.
  for (;;) {
    const reader = readOn(hub.run.attach('key').subscribe())
    await until(() => reader.result.done || reader.seen.length > 0)
    if (!reader.result.done) return reader
  }
}

for (const will of [WILL, undefined]) {
  test(`a run whose broker is ended is ended for its readers, ${will ? 'with its will' : 'without a will'}, within two leases`, async (t) => {
    const server = await startRedis(t)
    const lease = 900
    const { broker } = await startRun(t, server, lease, will)
    const readers = await Promise.all([attach(t, server), attach(t, server)])
    await broker.end()
    const started = performance.now()
    await until(() => readers.every(({ result }) => result.done))
    const took = performance.now() - started
    t.ok(took <= 2 * lease + LATE, `after ${took} ms`)
    t.ok(took >= lease * 0.6, `not before: after ${took} ms`)
    for (const { seen, result } of readers) {
      t.equal(result.error, undefined)
      t.match(seen, [{ data: { n: 0 } }, ...(will ? [will] : [])])
      t.equal(seen.length, will ? 2 : 1)
    }
  })
}

/** A process of its own. It is given `createHub`, `redisBroker` and a client. */
function startProcess (
  t: Test, { port }: { port: number }, code: string
): { child: ChildProcess, output: () => string, ended: Promise<unknown> } {
  const loader = process.execArgv.filter((option) => option.includes('typescript'))
  const child = spawn(process.execPath, [...loader, '--input-type=module', '-e', `
    import { Redis } from ${JSON.stringify(import.meta.resolve('ioredis'))}
    import { createHub, redisBroker } from ${JSON.stringify(import.meta.resolve('../index.ts'))}
    const brokerOf = (port) => redisBroker(new Redis({ port, lazyConnect: true }), { timeout: 500, onError () {} })
    const broker = brokerOf(${port})
    const hub = createHub({ broker, onError () {} })
    ${code}
  `], {
    cwd: fileURLToPath(new URL('..', import.meta.url)),
    env: { PATH: process.env.PATH, TS_NODE_TRANSPILE_ONLY: '1' },
    stdio: ['ignore', 'pipe', 'pipe']
  })
  t.after(() => { child.kill('SIGKILL') })
  let output = ''
  child.stdout!.on('data', (chunk) => { output += chunk })
  child.stderr!.on('data', (chunk) => { output += chunk })
  return { child, output: () => output, ended: once(child, 'exit') }
}

test('a run whose process is killed is ended for its readers, with its will', async (t) => {
  const server = await startRedis(t)
  const lease = 1_000
  const { child, output } = startProcess(t, server, `
    hub.run('key', async function * () {
      yield { data: { n: 0 } }
      console.log('recorded')
      await new Promise(() => setInterval(() => {}, 1_000))
    }, { lease: ${lease}, will: ${JSON.stringify(WILL)} })
  `)
  await once(child.stdout!, 'data')
  t.equal(output(), 'recorded\n')
  const reader = await attach(t, server)
  // It goes on as long as its process lives.
  await wait(lease * 2.5)
  t.equal(reader.result.done, false)
  child.kill('SIGKILL')
  const started = performance.now()
  await reader.ended
  const took = performance.now() - started
  t.ok(took <= 2 * lease + LATE, `after ${took} ms`)
  t.match(reader.seen, [{ data: { n: 0 } }, WILL])
  t.equal(reader.seen.length, 2)
})

test('a run that goes on is not ended where Redis is away for longer than its lease', async (t) => {
  const server = await startRedis(t, ...DURABLE)
  const lease = 2_500
  const { state } = await startRun(t, server, lease, WILL)
  const readers = await Promise.all(Array.from({ length: 8 }, () => attach(t, server)))
  await server.kill()
  await wait(lease * 1.5)
  await server.start()
  // Whoever takes it for dead does so now.
  await wait(lease * 1.5)
  state.next()
  await until(() => readers.every(({ seen, result }) => result.done || seen.length > 1))
  for (const { seen, result } of readers) {
    t.match(seen, [{ data: { n: 0 } }, { data: { n: 1 } }])
    t.equal(result.done, false)
  }
})

test('who has listened before anybody held the channel is told of the end, too', async (t) => {
  const server = await startRedis(t)
  const lease = 600
  const [one, other] = [brokerOf(t, server), brokerOf(t, server)]
  const told: string[] = []
  await other.listen('a', {
    entry: ({ message }) => told.push(message.raw!),
    closed: () => told.push('closed'),
    failed: () => told.push('failed'),
    lost: () => told.push('lost')
  })
  await one.open('a', { owner: 'owner', lease, will: { event: '', raw: 'will' }, forgetAfter: 60_000 })
  await one.end()
  const started = performance.now()
  await until(() => told.includes('closed'), () => `will and end; told ${told}`)
  t.same(told, ['will', 'closed'])
  t.ok(performance.now() - started <= 2 * lease + LATE)
})

test('a broker that is ended rejects what was asked for, tells its readers, and does nothing more', async (t) => {
  const server = await startRedis(t)
  const broker = brokerOf(t, server)
  const channel = channelOf(t, broker)
  const readers = ['a', 'b'].map((name) => readOn(channelOf(t, broker, name).subscribe({ after: '0-0' })))
  await channel.publish({ data: 1 })
  await until(() => readers[0]!.seen.length === 1)
  server.stop()
  const pending = Array.from({ length: 10 }, () => channel.publish({ data: 2 }))
  await turns()
  const settled = Promise.allSettled(pending)
  await broker.end()
  for (const { ended } of readers) await t.rejects(ended, { code: AWAY })
  for (const result of await settled) {
    t.match((result as PromiseRejectedResult).reason.code, /^FST_SSE_(BROKER_UNAVAILABLE|OUTCOME_UNKNOWN)$/)
  }
  server.goOn()
  await t.rejects(channel.publish({ data: 3 }), { code: AWAY })
  await t.rejects(readOn(channelOf(t, broker, 'c').subscribe()).ended, { code: AWAY })
  await broker.end()
})

for (const [what, code] of Object.entries({
  'has published and read, and has never reached another Redis,': `
    const channel = hub.channel('a')
    const reading = (async () => { for await (const { data } of channel.subscribe()) if (data === 9) return })()
    for (let n = 0; n < 10; n++) await channel.publish({ data: n })
    await reading
    const other = brokerOf(1)
    const error = await createHub({ broker: other }).channel('a').publish({ data: 1 }).catch((error) => error)
    await Promise.all([broker.end(), other.end()])
    console.log(error.code)`,
  'reads when it has ended its broker': `
    await hub.channel('a').publish({ data: 1 })
    await broker.end()
    try {
      for await (const event of hub.channel('a').subscribe());
    } catch (error) {
      console.log(error.code)
    }`
})) {
  test(`a process that ${what} exits by itself once its broker is ended`, async (t) => {
    const { child, output, ended } = startProcess(t, await startRedis(t), code)
    await once(child.stdout!, 'data')
    t.equal(output(), `${AWAY}\n`)
    const exited = await Promise.race([ended, wait(3_000, 'goes on', { ref: false })])
    t.same(exited, [0, null])
  })
}
