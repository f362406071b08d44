/** `metrics`: the counters in a registry of prom-client, as Prometheus has them. */
import fastify, { type FastifyInstance } from 'fastify'
import { spawnSync } from 'node:child_process'
import t from 'tap'
import { Counter, Gauge, register, Registry } from 'prom-client'
import sse, { type SseOptions } from '../index.ts'
import { createStats } from '../lib/stats.ts'
import { untilBehind, untilLagging } from './behind.ts'
import { connect, createApp, idleSource, listen, ownClock, turns, until } from './helpers.ts'
import { compile } from './program.ts'

/** Each metric: its type, its help. */
const METRICS: Record<string, [type: string, help: string]> = {
  sse_streams_open: ['gauge', 'Event streams that are open now.'],
  sse_streams_behind: ['gauge', 'Open event streams whose client leaves so much unread that their source has been paused.'],
  sse_streams_opened_total: ['counter', 'Event streams that were opened.'],
  sse_streams_closed_total: ['counter', 'Event streams that have ended, by reason.'],
  sse_streams_refused_total: ['counter', 'Requests for an event stream that were sent away, by reason.'],
  sse_events_sent_total: ['counter', 'Events written to event streams.'],
  sse_sent_bytes_total: ['counter', 'Bytes written to event streams.'],
  sse_events_dropped_total: ['counter', 'Invalid events that were left out.'],
  sse_replays_total: ['counter', 'Readers of channels that went on from their last event ID and have missed nothing.'],
  sse_gaps_total: ['counter', 'Gaps that readers of channels were told of.'],
  sse_lags_total: ['counter', 'Times that readers of channels fell behind and went on.'],
  sse_stream_duration_seconds: ['histogram', 'How long event streams were open.']
}

const NAMES = Object.keys(METRICS)

/** The samples of a text in the format of Prometheus. */
async function samples (registry: { metrics (): Promise<string> }): Promise<Record<string, number>> {
  const lines = (await registry.metrics()).split('\n').filter((line) => line !== '' && !line.startsWith('#'))
  return Object.fromEntries(lines.map((line) => {
    const [, name, value] = /^(\w+(?:\{[^}]*\})?) (\S+)$/.exec(line)!
    return [name, Number(value)]
  }))
}

/** What the counters have to say of these statistics. */
function expected (app: FastifyInstance): Record<string, number> {
  const { open, opened, closed, refused, events, bytes, dropped, replays, gaps, lags } = app.sse.stats()
  return {
    sse_streams_open: open,
    sse_streams_opened_total: opened,
    ...Object.fromEntries(Object.entries(closed).map(([reason, count]) => [`sse_streams_closed_total{reason="${reason}"}`, count])),
    ...Object.fromEntries(Object.entries(refused).map(([reason, count]) => [`sse_streams_refused_total{reason="${reason}"}`, count])),
    sse_events_sent_total: events,
    sse_sent_bytes_total: bytes,
    sse_events_dropped_total: dropped,
    sse_replays_total: replays,
    sse_gaps_total: gaps,
    sse_lags_total: lags
  }
}

const isDuration = ([name]: [string, number]) => name.startsWith('sse_stream_duration_seconds')
const counters = (all: Record<string, number>) => {
  const { sse_streams_behind: behind, ...rest } = Object.fromEntries(Object.entries(all).filter((sample) => !isDuration(sample)))
  return rest
}

/** The count of each bucket, by its upper end. */
const buckets = (all: Record<string, number>) => Object.fromEntries(Object.entries(all).flatMap(([name, count]) => {
  const le = /^sse_stream_duration_seconds_bucket\{le="(.*)"\}$/.exec(name)?.[1]
  return le === undefined ? [] : [[le, count]]
}))

const NONE = { 1: 0, 5: 0, 15: 0, 60: 0, 300: 0, 900: 0, 3600: 0, 14400: 0, 86400: 0, '+Inf': 0 }

t.test('every metric is there from the start, with its type, its help, and 0 for each reason', async (t) => {
  const metrics = new Registry()
  const app = await createApp(t, { metrics })
  const found = await metrics.getMetricsAsJSON()
  t.same(Object.fromEntries(found.map(({ name, type, help }) => [name, [type, help]])), METRICS)
  const all = await samples(metrics)
  t.same(counters(all), expected(app))
  t.same(Object.values(counters(all)).filter((value) => value !== 0), [])
  const { closed, refused } = createStats()
  for (const [name, reasons] of [['closed', closed], ['refused', refused]] as const) {
    t.same(Object.keys(all).filter((key) => key.startsWith(`sse_streams_${name}_total`)),
      Object.keys(reasons).map((reason) => `sse_streams_${name}_total{reason="${reason}"}`))
  }
  t.equal(all.sse_streams_behind, 0)
  t.same(buckets(all), NONE)
  t.same([all.sse_stream_duration_seconds_sum, all.sse_stream_duration_seconds_count], [0, 0])
})

t.test('names and texts are as Prometheus wants them', async (t) => {
  const metrics = new Registry()
  const app = await createApp(t, { metrics })
  app.get('/', (_, reply) => reply.sse([{ data: 1 }]))
  await connect(t, await listen(app)).get('/').until('0\r\n\r\n')
  await until(() => app.sse.stats().open === 0)
  await turns()
  for (const { name, type, help } of await metrics.getMetricsAsJSON()) {
    t.match(name, /^sse(_[a-z]+)+$/, 'a prefix, words in small letters')
    t.match(help, /^[A-Z].*\.$/)
    t.equal(/_total$/.test(name), String(type) === 'counter', `${name}: _total for counters, and for them alone`)
    t.notMatch(name, /_(count|sum|bucket|info|gauge|counter|histogram|ms|milliseconds|minutes|kilobytes|kb)(_|$)/, 'no suffix of others, base units')
    if (String(type) === 'histogram') t.match(name, /_seconds$/)
    if (name.includes('bytes')) t.match(name, /_bytes_total$/, 'the unit right before _total')
  }
  const lines = (await metrics.metrics()).split('\n')
  const forms = [
    /^# HELP sse_[a-z_]+ \S.*$/, /^# TYPE sse_[a-z_]+ (counter|gauge|histogram)$/, /^$/,
    /^sse_[a-z_]+(\{(reason="[a-z-]+"|le="(\d+|\+Inf)")\})? \d+(\.\d+)?$/
  ]
  t.same(lines.filter((line) => !forms.some((form) => form.test(line))), [])
  for (const name of NAMES) {
    t.equal(lines.filter((line) => line.startsWith(`# HELP ${name} `)).length, 1)
    t.equal(lines.filter((line) => line.startsWith(`# TYPE ${name} `)).length, 1)
  }
  const keys = lines.filter((line) => line !== '' && !line.startsWith('#')).map((line) => line.slice(0, line.lastIndexOf(' ')))
  t.equal(new Set(keys).size, keys.length, 'no sample is there twice')
})

t.test('the values are those of app.sse.stats(), whatever has happened, and however often they are read', async (t) => {
  const metrics = new Registry()
  const app = await createApp(t, { metrics, maxConnections: 2, onInvalidEvent: 'drop' })
  const channel = app.sse.channel('c', { history: { events: 2 } })
  app.get('/idle', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  app.get('/done', (_, reply) => reply.sse([{ data: 1 }, { retry: -1 }, { data: 2 }]))
  app.get('/throws', (_, reply) => reply.sse(function * () {
    yield { data: 1 }
    throw new Error('no')
  }))
  app.get('/channel', (_, reply) => reply.sse(channel))
  app.get('/superseded', async (_, reply) => {
    reply.sse(idleSource().source)
    throw new Error('no')
  })
  const port = await listen(app)
  const settled = () => until(() => app.sse.stats().open === 0)
  const same = async (message: string) => {
    await turns()
    t.same(counters(await samples(metrics)), expected(app), message)
    t.same(counters(await samples(metrics)), expected(app), `${message}, read again`)
  }
  const ids = []
  for (let n = 0; n < 4; n++) ids.push(await channel.publish({ data: n }))
  await connect(t, port).get('/done').until('0\r\n\r\n')
  await connect(t, port).get('/throws').until('0\r\n\r\n')
  await connect(t, port).get('/superseded').until('}')
  await settled()
  await same('some have ended')
  for (const id of [ids[0], ids[2], ids[3]]) {
    const client = connect(t, port).get('/channel', `Last-Event-ID: ${id}`)
    await client.until(`id: ${ids[3]}`)
    client.destroy()
    await settled()
  }
  await same('a gap and replays')
  const idle = [connect(t, port).get('/idle'), connect(t, port).get('/idle')]
  for (const client of idle) await client.until('data: 1\n\n')
  await same('two are open')
  await connect(t, port).get('/idle').until('503')
  await connect(t, port).get('/idle', 'Accept: text/event-stream').until('retry: ')
  await same('two were refused')
  ;[...app.sse.connections][0]!.end()
  ;[...app.sse.connections][0]!.end('revoked')
  await settled()
  await same('all have ended')
  const all = await samples(metrics)
  t.match(all, {
    sse_streams_open: 0,
    sse_streams_opened_total: 8,
    'sse_streams_closed_total{reason="source-done"}': 1,
    'sse_streams_closed_total{reason="source-threw"}': 1,
    'sse_streams_closed_total{reason="superseded"}': 1,
    'sse_streams_closed_total{reason="client-gone"}': 3,
    'sse_streams_closed_total{reason="ended"}': 1,
    'sse_streams_closed_total{reason="revoked"}': 1,
    'sse_streams_refused_total{reason="max-connections"}': 2,
    sse_events_dropped_total: 1,
    sse_replays_total: 2,
    sse_gaps_total: 1,
    sse_lags_total: 0
  })
  t.ok(all.sse_events_sent_total! > 5 && all.sse_sent_bytes_total! > 50)
  t.equal(all.sse_stream_duration_seconds_count, 8, 'a duration for each stream')
})

t.test('lags are counted', async (t) => {
  const metrics = new Registry()
  const app = await createApp(t, { metrics, writeTimeout: false, keepAlive: false })
  const channel = app.sse.channel('c', { history: { events: 2, bytes: 100_000_000 }, onLag: 'gap' })
  app.get('/', (_, reply) => reply.sse(channel))
  const client = connect(t, await listen(app)).get('/')
  await client.until('id: ')
  client.socket.pause()
  await untilLagging(app.sse, channel)
  t.equal((await samples(metrics)).sse_streams_behind, 1)
  client.socket.resume()
  await until(() => app.sse.stats().lags === 1)
  t.match(await samples(metrics), { sse_lags_total: 1, sse_streams_open: 1 })
})

t.test('sse_streams_behind: open streams whose client does not keep up', async (t) => {
  const metrics = new Registry()
  const app = await createApp(t, { metrics, writeTimeout: false })
  app.get('/idle', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  app.get('/flood', (_, reply) => reply.sse(async function * () { for (;;) yield { raw: 'x'.repeat(65_536) } }))
  const port = await listen(app)
  const behind = async () => (await samples(metrics)).sse_streams_behind
  await connect(t, port).get('/idle').until('data: 1\n\n')
  t.equal(await behind(), 0)
  const clients = [connect(t, port).get('/flood'), connect(t, port).get('/flood')]
  for (const client of clients) client.socket.pause()
  await untilBehind(app.sse, undefined, 2)
  t.equal(await behind(), 2)
  const [, second] = app.sse.connections
  second!.end()
  t.equal(second!.behind, true, 'its client has not read the rest')
  t.equal(await behind(), 1, 'one that has ended is open no more')
  for (const client of clients) client.destroy()
  await until(() => app.sse.stats().open === 1)
  t.equal(await behind(), 0)
})

t.test('durations go into buckets of seconds, up to a day, when the response is gone', async (t) => {
  const metrics = new Registry()
  const app = await createApp(t, { metrics, keepAlive: false, writeTimeout: false })
  app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  const port = await listen(app)
  const clock = ownClock(t)
  let sum = 0
  let count = 0
  for (const ms of [250, 1_000, 1_001, 4_999, 15_000, 61_000, 86_400_000, 86_400_001]) {
    const client = connect(t, port).get('/')
    await client.until('data: 1\n\n')
    clock.tick(ms)
    t.equal((await samples(metrics)).sse_stream_duration_seconds_count, count, 'not while it is open')
    client.destroy()
    await until(() => app.sse.stats().open === 0)
    await turns()
    sum += ms / 1_000
    count++
    const { sse_stream_duration_seconds_sum: seconds, sse_stream_duration_seconds_count: counted } = await samples(metrics)
    t.equal(counted, count)
    t.ok(Math.abs(seconds! - sum) < 0.000_1, `${seconds} s`)
  }
  t.same(buckets(await samples(metrics)), { 1: 2, 5: 4, 15: 5, 60: 5, 300: 6, 900: 6, 3600: 6, 14400: 6, 86400: 7, '+Inf': 8 })
})

t.test('a registry has the counters of one app: a second one is refused at registration, and the first goes on', async (t) => {
  const metrics = new Registry()
  const app = await createApp(t, { metrics })
  app.get('/', (_, reply) => reply.sse([{ data: 1 }]))
  const second = fastify()
  await t.rejects(async () => { await second.register(sse, { metrics }) },
    { code: 'FST_SSE_INVALID_OPTION', message: /'metrics' has a metric 'sse_\w+' already: .*new Registry\(\)/ })
  await second.close()
  await connect(t, await listen(app)).get('/').until('0\r\n\r\n')
  await until(() => app.sse.stats().open === 0)
  t.match(await samples(metrics), { sse_streams_opened_total: 1 }, 'the close of the second took nothing from the first')
  t.same((await metrics.getMetricsAsJSON()).map(({ name }) => name).sort(), [...NAMES].sort())
})

t.test('two apps that are registered at once with one registry: one of them has it', async (t) => {
  const metrics = new Registry()
  const apps = [fastify(), fastify()]
  t.after(() => Promise.all(apps.map((app) => app.close())))
  const results = await Promise.allSettled(apps.map(async (app) => { await app.register(sse, { metrics }) }))
  t.same(results.map(({ status }) => status).sort(), ['fulfilled', 'rejected'])
  t.equal((await metrics.getMetricsAsJSON()).length, NAMES.length)
})

t.test('whatever name is taken, none of the others is left behind', async (t) => {
  for (const name of NAMES) {
    const metrics = new Registry()
    const Metric = name.endsWith('_total') ? Counter : Gauge
    const own = new Metric({ name, help: 'An own one.', registers: [metrics] })
    own.inc(7)
    const app = fastify()
    await t.rejects(async () => { await app.register(sse, { metrics }) }, { code: 'FST_SSE_INVALID_OPTION', message: new RegExp(`'${name}'`) })
    await app.close()
    t.same((await metrics.getMetricsAsJSON()).map((metric) => metric.name), [name])
    t.equal((await samples(metrics))[name], 7)
  }
})

t.test('after app.close() the names are free again, and others stay', async (t) => {
  const metrics = new Registry()
  new Gauge({ name: 'own', help: 'An own one.', registers: [metrics] }).set(7)
  for (let n = 0; n < 2; n++) {
    const app = fastify()
    await app.register(sse, { metrics })
    app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
    await connect(t, await listen(app)).get('/').until('data: 1\n\n')
    t.match(await samples(metrics), { sse_streams_opened_total: 1, own: 7 }, 'from 0 on')
    await app.close()
    t.same((await metrics.getMetricsAsJSON()).map(({ name }) => name), ['own'])
  }
})

t.test('an app that is closed before it was ever ready frees the names too', async (t) => {
  const metrics = new Registry()
  const app = fastify()
  await app.register(sse, { metrics })
  app.register(async () => { throw new Error('another plugin fails') })
  await t.rejects(async () => { await app.ready() })
  await app.close()
  t.same(await metrics.getMetricsAsJSON(), [])
})

t.test('the default registry, default labels and other metrics: all as ever', async (t) => {
  t.after(() => register.clear())
  register.setDefaultLabels({ app: 'a' })
  new Counter({ name: 'own_total', help: 'An own one.' }).inc()
  const app = await createApp(t, { metrics: register })
  const all = await samples(register)
  t.equal(all['sse_streams_open{app="a"}'], 0)
  t.equal(all['sse_streams_closed_total{reason="lagged",app="a"}'], 0)
  t.equal(all['own_total{app="a"}'], 1)
  t.match(register.contentType, /^text\/plain/)
  await app.close()
  t.same(Object.keys(await samples(register)), ['own_total{app="a"}'])
})

t.test('a registry of the OpenMetrics format has them too', async (t) => {
  const metrics = new Registry()
  metrics.setContentType(Registry.OPENMETRICS_CONTENT_TYPE as any)
  await createApp(t, { metrics })
  const text = await metrics.metrics()
  t.match(text, '# TYPE sse_streams_opened counter\n')
  t.match(text, 'sse_streams_opened_total 0\n')
  t.match(text, /# EOF\n$/)
})

t.test('what is no registry is refused at registration', async (t) => {
  const methods = { registerMetric () {}, getSingleMetric () {}, removeSingleMetric () {} }
  const wrong: unknown[] = [true, false, null, 1, 'prom-client', {}, [], Registry, new Map(), { ...methods, removeSingleMetric: 1 }]
  for (const metrics of wrong) {
    const app = fastify()
    t.after(() => app.close())
    await t.rejects(async () => { await app.register(sse, { metrics } as SseOptions) },
      { code: 'FST_SSE_INVALID_OPTION', message: /'metrics' of the plugin must be a registry of prom-client, such as new Registry\(\)/ })
  }
  await createApp(t, { metrics: undefined })
  const app = await createApp(t)
  t.throws(() => app.get('/', { sse: { metrics: new Registry() } as object }, (_, reply) => reply.sse([])), { code: 'FST_SSE_INVALID_OPTION' })
})

t.test('where prom-client is not installed the error says how to get it, and without metrics nobody misses it', async (t) => {
  const hooks = `export async function resolve (name, context, next) {
    if (name === 'prom-client') throw Object.assign(new Error("Cannot find package 'prom-client'"), { code: 'ERR_MODULE_NOT_FOUND' })
    return next(name, context)
  }`
  const folder = compile(t, `
    import { register } from 'node:module'
    register(${JSON.stringify(`data:text/javascript,${encodeURIComponent(hooks)}`)})
    const { default: fastify } = await import('fastify')
    const { default: sse } = await import('./index.js')
    const without = fastify()
    await without.register(sse)
    await without.close()
    const metrics = { registerMetric () {}, getSingleMetric () {}, removeSingleMetric () {} }
    try {
      await fastify().register(sse, { metrics })
      console.log(JSON.stringify({}))
    } catch ({ code, message, cause }) {
      console.log(JSON.stringify({ code, message, cause: cause.code }))
    }`)
  const { stdout, stderr } = spawnSync(process.execPath, ['program.js'], {
    cwd: folder, env: { PATH: process.env.PATH }, encoding: 'utf8'
  })
  t.match(JSON.parse(stdout || '{}'), {
    code: 'FST_SSE_INVALID_OPTION', message: /'metrics' needs the package prom-client.*npm install prom-client/, cause: 'ERR_MODULE_NOT_FOUND'
  }, stderr)
})
