/**
 * What the Redis broker costs, beside bare Redis commands: `npm run build && node bench/redis.js`. Needs redis-server. Each
 * figure is the median of some rounds, in which both have their turn; ratios are what counts.
 */
import { Redis } from 'ioredis'
import { setTimeout } from 'node:timers/promises'
import { redisBroker } from '../dist/index.js'
import { median, startRedis } from './common.js'

const ROUNDS = 5
const APPENDS = 20_000
const SINGLE = 200
const HISTORY = { events: 1_000, bytes: 4_194_304, age: 3_600_000 }

/** 127 bytes, as those of the other measurements. */
const data = JSON.stringify({ symbol: 'AAPL', text: 'x'.repeat(96) })
const message = { event: 'price', data }

const server = await startRedis()
const redis = new Redis({ port: server.port })
const broker = redisBroker(redis)

/** Microseconds of work, of this process and of Redis. */
async function workOf (task) {
  const used = async () => {
    const info = await redis.info('cpu')
    const seconds = ['user', 'sys'].map((kind) => Number(new RegExp(`used_cpu_${kind}:([\\d.]+)`).exec(info)[1]))
    const { user, system } = process.cpuUsage()
    return { redis: (seconds[0] + seconds[1]) * 1e6, node: user + system, wall: performance.now() * 1_000 }
  }
  const before = await used()
  await task()
  const after = await used()
  return Object.fromEntries(Object.keys(after).map((name) => [name, after[name] - before[name]]))
}

async function compare (title, unit, count, tasks) {
  const works = Object.fromEntries(Object.keys(tasks).map((name) => [name, []]))
  for (let round = 0; round < ROUNDS; round++) {
    for (const [name, task] of Object.entries(tasks)) works[name].push(await workOf(task))
  }
  console.log(`\n${title}: microseconds ${unit}`)
  console.table(Object.fromEntries(Object.entries(works).map(([name, all]) => [name, Object.fromEntries(
    ['redis', 'node', 'wall'].map((kind) => [kind, Number((median(all.map((work) => work[kind])) / count).toFixed(1))]))])))
}

async function inFlight (count, task) {
  for (let done = 0; done < count; done += 500) await Promise.all(Array.from({ length: 500 }, task))
}

function bareXadd (key) {
  return redis.call('XADD', key, 'MAXLEN', '~', 1_000, '*', 'd', data)
}

await compare('Append, 500 in flight', 'for each', APPENDS, {
  'XADD MAXLEN ~': () => inFlight(APPENDS, () => bareXadd('bare')),
  'broker.append': () => inFlight(APPENDS, () => broker.append('channel', message, HISTORY))
})

const perEntry = async (key) => await redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 0) / await redis.xlen(key)
console.log('\nMemory in Redis, bytes for an entry of', data.length)
console.table({
  'XADD MAXLEN ~': { entry: Math.round(await perEntry('bare')) },
  'broker.append': {
    entry: Math.round(await perEntry('sse:{0}:log:channel')),
    channel: await redis.call('MEMORY', 'USAGE', 'sse:{0}:state:channel'),
    news: await redis.call('MEMORY', 'USAGE', 'sse:{0}:news')
  }
})

/** One reader of many channels by XREAD over all of their streams, as is often done. */
class Naive {
  #redis = new Redis({ port: server.port })
  #keys
  #positions
  onEntry = () => {}

  constructor (count) {
    this.#keys = Array.from({ length: count }, (_, index) => `naive:${index}`)
    this.#positions = this.#keys.map(() => '0-0')
    this.#read()
  }

  async #read () {
    for (;;) {
      const streams = await this.#redis.xread('BLOCK', 1_000, 'STREAMS', ...this.#keys, ...this.#positions).catch(() => undefined)
      if (streams === undefined) return
      for (const [key, entries] of streams ?? []) {
        this.#positions[Number(key.split(':')[1])] = entries.at(-1)[0]
        this.onEntry()
      }
    }
  }

  end () {
    this.#redis.disconnect()
  }
}

/** Events that come singly, each on another channel, as notifications of users do. */
async function singly (listener, append) {
  for (let n = 0; n < SINGLE; n++) {
    const given = new Promise((resolve) => { listener.onEntry = resolve })
    append(n)
    await given
    await setTimeout(12)
  }
}

for (const channels of [10, 1_000, 10_000]) {
  const naive = new Naive(channels)
  const listener = { onEntry () {} }
  const listenings = await Promise.all(Array.from({ length: channels }, (_, index) => broker.listen(`many:${index}`, {
    entry: () => listener.onEntry(), closed () {}, failed () {}, lost () {}
  })))
  await compare(`One process reads ${channels} channels, events come singly`, 'for each', SINGLE, {
    'XREAD over all streams': () => singly(naive, (n) => bareXadd(`naive:${n * 7_919 % channels}`)),
    'broker.listen': () => singly(listener, (n) => broker.append(`many:${n * 7_919 % channels}`, message, HISTORY))
  })
  naive.end()
  for (const listening of listenings) listening.stop()
}

/** Many processes that read the same channel, each by a broker of its own; 1,000 events a second. */
const readers = Array.from({ length: 16 }, () => redisBroker(redis))
const given = { count: 0 }
await Promise.all(readers.map((reader) => reader.listen('shared', {
  entry () { given.count++ }, closed () {}, failed () {}, lost () {}
})))
await compare('16 processes read one channel, 1,000 events a second', 'for each event', 1_000, {
  'broker.listen': async () => {
    const start = performance.now()
    given.count = 0
    for (let n = 0; n < 1_000; n++) {
      broker.append('shared', message, HISTORY)
      while (performance.now() - start < n) await setTimeout(1)
    }
    while (given.count < 16_000) await setTimeout(1)
  }
})

await Promise.all([broker, ...readers].map((each) => each.end()))
redis.disconnect()
server.end()
