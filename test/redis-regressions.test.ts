/** What was wrong with the Redis broker, and is mended. */
import fastify from 'fastify'
import { Redis } from 'ioredis'
import { Cluster } from 'ioredis5'
import { setTimeout as wait } from 'node:timers/promises'
import t, { type Test } from 'tap'
import sse, { createHub, memoryBroker, redisBroker, type Broker, type RedisClient } from '../index.ts'
import { brokerWith, deferred, idleSource, readOn, until } from './helpers.ts'
import { adminOf, brokerOf, noRedis, Published, startRedis } from './redis-server.ts'

function test (name: string, check: (t: Test) => Promise<unknown>): void {
  t.test(name, { skip: noRedis }, check)
}

function hubOn (t: Test, broker: Broker, onError = (_: unknown) => {}) {
  const hub = createHub({ broker, onError })
  t.after(() => hub.close())
  return hub
}

test('after an outage longer than the timeout publishing goes on, though there was always somebody waiting', async (t) => {
  const server = await startRedis(t)
  const hub = hubOn(t, brokerOf(t, server, { timeout: 300 }))
  const published = new Published(hub.channel('a'))
  let over = false
  const publishing = (async () => {
    for (const all = []; ; await wait(5)) {
      all.push(published.one())
      if (over) return Promise.all(all)
    }
  })()
  await until(() => published.ids.size > 10)
  await server.kill()
  await until(() => published.codes.size > 50)
  await server.start()
  const { size } = published.ids
  await until(() => published.ids.size > size + 100)
  over = true
  await publishing
})

test('what waits when a connection breaks is asked for again in its order, however much it is', async (t) => {
  const server = await startRedis(t)
  const hub = hubOn(t, brokerOf(t, server))
  const channel = hub.channel('a', { history: { events: 100_000 } })
  await channel.publish({ data: 0 })
  const admin = adminOf(t, server)
  const ids = Promise.all(Array.from({ length: 20_000 }, (_, n) => channel.publish({ data: n })))
  await admin.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
  t.equal(new Set(await ids).size, 20_000)
  const entries = await admin.xrange('sse:{0}:log:a', '-', '+')
  t.same(entries.slice(1).map(([, fields]) => Number(fields[7])), Array.from({ length: 20_000 }, (_, n) => n))
})

test('a run whose Redis has forgotten it, and which another process has started anew, does not write into that', async (t) => {
  const server = await startRedis(t)
  const errors: any[] = []
  const here = hubOn(t, brokerOf(t, server), (error) => errors.push(error))
  const there = hubOn(t, brokerOf(t, server))
  const { source } = idleSource({ data: 'here' })
  const first = here.run('key', source, { onEnd: () => ({ data: 'here, at the end' }), lease: 600 })
  for await (const { data } of first.subscribe()) if (data === 'here') break
  // Redis is away for the first one, as it is for who cannot reach it; the other one begins before it is back.
  await adminOf(t, server).flushall()
  const goOn = deferred()
  const second = there.run('key', async function * () {
    yield { data: 'there' }
    await goOn.promise
    yield { data: 'there, at the end' }
  })
  const ended = await Promise.race([first.ended, second.ended.then(() => undefined)])
  goOn.resolve()
  if (ended === undefined) return t.same(await second.ended, { state: 'elsewhere' }, 'the first one was faster')
  t.match(ended, { state: 'failed', error: { code: 'FST_SSE_RUN_LOST' } })
  t.match(errors, [{ code: 'FST_SSE_RUN_LOST' }])
  t.same(await second.ended, { state: 'done' })
  const seen: unknown[] = []
  for await (const { data } of second.subscribe()) seen.push(data)
  t.same(seen, ['there', 'there, at the end'])
})

t.test('a run that was ended as it could not renew its lease is told so', async (t) => {
  const inner = memoryBroker()
  let opened = 0
  const broker = brokerWith(inner, {
    async open (...args) {
      if (++opened > 1) throw new Error('away')
      return inner.open(...args)
    }
  })
  const hub = hubOn(t, broker)
  const { state, source } = idleSource({ data: 1 })
  const run = hub.run('key', source, { lease: 100, will: { data: 'will' }, onEnd: () => ({ data: 'not recorded' }) })
  // Nothing else keeps the process.
  await until(() => state.finished)
  t.match(await run.ended, { state: 'failed', error: { code: 'FST_SSE_RUN_LOST' } })
  const seen: unknown[] = []
  for await (const { data } of hub.run.attach('key').subscribe()) seen.push(data)
  t.same(seen, [1, 'will'])
})

test('a run of which it is not known whether it was started can be started again', async (t) => {
  const server = await startRedis(t)
  const hub = hubOn(t, brokerOf(t, server, { timeout: 300 }))
  await hub.channel('a').publish({ data: 0 })
  server.stop()
  t.match(await hub.run('key', [{ data: 1 }]).ended, { state: 'failed', error: { code: 'FST_SSE_OUTCOME_UNKNOWN' } })
  server.goOn()
  for (;;) {
    const { state, error } = await hub.run('key', [{ data: 1 }]).ended as { state: string, error?: any }
    if (state === 'done') break
    if (!/UNAVAILABLE|UNKNOWN/.test(error?.code)) return t.fail(`it has ended as ${state}: ${error}`)
  }
  const seen: unknown[] = []
  for await (const { data } of hub.run.attach('key').subscribe()) seen.push(data)
  t.same(seen, [1])
})

test('a channel of which Redis has nonsense does not hold up others when the connection is made anew', async (t) => {
  const server = await startRedis(t)
  const admin = adminOf(t, server)
  const hub = hubOn(t, brokerOf(t, server))
  const [bad, good] = [hub.channel('bad'), hub.channel('good')]
  await bad.publish({ data: 0 })
  const seen: unknown[] = []
  const { result } = readOn(bad.subscribe())
  const reading = (async () => {
    for await (const { data } of good.subscribe()) {
      seen.push(data)
      if (data === 2) return
    }
  })()
  await good.publish({ data: 1 })
  await until(() => seen.length === 1)
  await admin.del('sse:{0}:state:bad')
  await admin.set('sse:{0}:state:bad', 'nonsense')
  await admin.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
  await good.publish({ data: 2 })
  await reading
  await until(() => result.done)
  t.equal(result.error?.code, 'FST_SSE_BROKER_UNAVAILABLE', 'who reads that is told')
})

test('who may not read is told why, once', async (t) => {
  const server = await startRedis(t)
  await adminOf(t, server).call('ACL', 'SETUSER', 'default', '-xread')
  const errors: string[] = []
  const broker = brokerOf(t, server, { onError: (error) => errors.push(String(error)) })
  const hub = hubOn(t, broker)
  readOn(hub.channel('a').subscribe())
  await until(() => errors.length > 0)
  await wait(500)
  t.equal(errors.length, 1)
  t.match(errors[0], /NOPERM/)
})

t.test('an onError that throws harms nobody', { skip: noRedis }, async (t) => {
  const server = await startRedis(t)
  const hub = hubOn(t, brokerOf(t, server, { onError () { throw new Error('onError') } }))
  await hub.channel('a').publish({ data: 1 })
  await server.kill()
  await server.start()
  await hub.channel('a').publish({ data: 2 })
})

t.test('connections to the nodes of a cluster have the password of the client, and send nothing twice, with ioredis 5, too', async (t) => {
  const client = new Cluster([{ port: 1, host: '127.0.0.1' }], {
    lazyConnect: true, redisOptions: { password: 'secret' }, clusterNodeRetryStrategy: () => 50
  })
  let options: any
  const duplicate = client.duplicate.bind(client)
  const spy: RedisClient = {
    isCluster: true,
    options: client.options,
    duplicate (...args) {
      const copy: any = duplicate(...args)
      options = copy.options
      return copy
    }
  }
  const broker = redisBroker(spy, { onError () {}, timeout: 100 })
  await t.rejects(broker.close('a', false), { code: 'FST_SSE_BROKER_UNAVAILABLE' })
  await broker.end()
  t.equal(options.redisOptions.password, 'secret')
  // Or a node that comes back by itself is sent again what may have been carried out.
  t.match(options, { clusterNodeRetryStrategy: undefined, redisOptions: { autoResendUnfulfilledCommands: false } })
})

test('what others have put in the place of the news holds up nobody who begins to listen, and makes way for the next event', async (t) => {
  const server = await startRedis(t)
  const hub = hubOn(t, brokerOf(t, server))
  await adminOf(t, server).set('sse:{0}:news', 'nonsense')
  const { seen } = readOn(hub.channel('a').subscribe({ after: 'earliest' }))
  await hub.channel('a').publish({ data: 1 })
  await until(() => seen.length === 1)
})

test("numbers as strings, which a client may ask for (stringNumbers), are not what the broker's own connections give", async (t) => {
  const { port } = await startRedis(t)
  const broker = redisBroker(new Redis({ port, lazyConnect: true, stringNumbers: true }))
  t.after(() => broker.end())
  const hub = hubOn(t, broker)
  const channel = hub.channel('a')
  const first = await channel.publish({ data: 1 })
  await channel.publish({ data: 2 })
  await channel.close()
  const { seen, ended } = readOn(channel.subscribe({ after: first }))
  await ended
  t.match(seen, [{ data: 2 }], 'no gap')
  t.same(await hub.run('key', [{ data: 1 }]).ended, { state: 'done' })
})

t.test('publish and close may be given to others, who call them with arguments of their own', async (t) => {
  const hub = hubOn(t, memoryBroker())
  const channel = hub.channel('a')
  const [publish, close]: ((...args: any[]) => Promise<any>)[] = [channel.publish.bind(channel), channel.close.bind(channel)]
  await publish!({ data: 1 }, 'of an emitter')
  await close!(hub)
  const { seen, ended } = readOn(channel.subscribe({ after: 'earliest' }))
  await ended
  t.match(seen, [{ data: 1 }])
})

t.test('a broker in the place of options, and a client of another package, are refused', async (t) => {
  const broker = memoryBroker()
  t.throws(() => createHub(broker as object), { code: 'FST_SSE_INVALID_OPTION', message: /createHub takes options, such as \{ broker \}/ })
  const app = fastify()
  await t.rejects(async () => app.register(sse, broker as object), { code: 'FST_SSE_INVALID_OPTION' })
  const foreign = { duplicate () {}, options: {} }
  t.throws(() => redisBroker(foreign as any), { code: 'FST_SSE_INVALID_OPTION', message: /needs a client of the package 'ioredis'/ })
  t.throws(() => redisBroker(undefined as any), { code: 'FST_SSE_INVALID_OPTION' })
})

test('an outage is told once, by however many connections it is noticed', async (t) => {
  const server = await startRedis(t)
  const errors: string[] = []
  const broker = brokerOf(t, server, { onError: (_, message) => errors.push(message) })
  const hub = hubOn(t, broker)
  const { seen } = readOn(hub.channel('a', { onLag: 'gap' }).subscribe())
  for (let outage = 1; outage <= 2; outage++) {
    await hub.channel('a').publish({ data: outage })
    await until(() => seen.length >= outage)
    await server.kill()
    await until(() => errors.length >= outage)
    await server.start()
  }
  await hub.channel('a').publish({ data: 3 })
  t.same(errors, Array(2).fill('Redis is out of reach, which is tried again'))
})
