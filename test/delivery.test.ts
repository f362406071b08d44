/**
 * The delivery law over real sockets: wherever a connection is cut, nothing is lost, nothing comes twice, nothing comes
 * out of order, unless the client is told of a gap; and then exactly what it is told of is missing.
 */
import { EventSource } from 'eventsource'
import type { FastifyInstance } from 'fastify'
import http, { type IncomingMessage } from 'node:http'
import net, { type AddressInfo, type Socket } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { readVector, tagsOf } from '../lib/channels/vector.ts'
import { compareEntryIds } from '../lib/entry-id.ts'
import type { SseChannel } from '../index.ts'
import { createApp, listen, until } from './helpers.ts'
import { below, createRandom, textOf, type Random } from './processes/random.ts'

/**
 * The cuts of every run, and others in each: a failure names the seed, and `SEED=…` brings its cuts back alone, as far as
 * sockets let it.
 */
const SEEDS = process.env.SEED === undefined ? [1, Date.now() % 1_000_000] : [Number(process.env.SEED)]

const CLIENTS = 24
const EVENTS = 2_000

// Most of the time is that of waiting for clients to come back.
t.jobs = SEEDS.length

function test (name: string, check: (t: Test, seed: number) => Promise<void>): void {
  for (const seed of SEEDS) t.test(`${name}, SEED=${seed}`, { buffered: true }, (t) => check(t, seed))
}

/**
 * Passes bytes on to the server and back, and cuts each connection: when it is made, before the head, inside the head, or
 * after any number of bytes. Some cuts are clean, some are not.
 */
async function cuttingProxy (
  t: Test, port: number, random: Random, mean: number, first: number
): Promise<{ port: number, cuts: number }> {
  const sockets = new Set<Socket>()
  const proxy = { port: 0, cuts: 0 }
  let made = 0
  const server = net.createServer((client) => {
    // A client of which nothing is known yet would take its own reconnection time, which is long.
    const least = made++ === 0 ? first : 0
    // Some connections live long enough for the largest event.
    const usual = mean * (random() < 0.2 ? 10 : 1)
    let left = least + (random() < 0.1 ? below(random, 300) : Math.floor(-Math.log(1 - random()) * usual))
    sockets.add(client)
    client.on('error', () => {})
    client.on('close', () => sockets.delete(client))
    if (least === 0 && random() < 0.05) {
      proxy.cuts++
      client.resetAndDestroy()
      return
    }
    const upstream = net.connect(port, '127.0.0.1')
    upstream.on('error', () => {})
    upstream.on('close', () => client.end())
    client.on('close', () => upstream.destroy())
    client.pipe(upstream)
    upstream.on('data', (bytes) => {
      if (bytes.length <= left) {
        left -= bytes.length
        client.write(bytes)
        return
      }
      proxy.cuts++
      upstream.destroy()
      const how = random()
      client.write(bytes.subarray(0, left))
      if (how < 0.4) client.end()
      else if (how < 0.8) client.destroy()
      else client.resetAndDestroy()
    })
  })
  t.after(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  proxy.port = (server.address() as AddressInfo).port
  return proxy
}

/** The server's part in it: it destroys a socket, or ends a stream, whichever it is. */
function cutOne (app: FastifyInstance, random: Random): void {
  const open = [...app.sse.connections]
  const connection = open[below(random, open.length)]
  if (random() < 0.5) connection?.request.raw.socket.destroy()
  else connection?.end()
}

/** Publishes in bursts and singly, while streams are cut. */
async function publishAll (
  app: FastifyInstance, random: Random, publish: (n: number) => Promise<unknown>, onTurn: (n: number) => void = () => {}
): Promise<void> {
  for (let n = 0; n < EVENTS;) {
    const burst: Promise<unknown>[] = []
    const size = random() < 0.5 ? 1 : 1 + below(random, 40)
    while (burst.length < size && n < EVENTS) burst.push(publish(n++))
    await Promise.all(burst)
    if (random() < 0.2) cutOne(app, random)
    onTurn(n)
    // Time for clients to come back meanwhile; what they then find is checked whatever it is.
    if (random() < 0.7) await pause(below(random, 12))
  }
}

/** What a client got, against what it should have got. */
function compare (received: readonly number[], from: number): { lost: number, doubled: number, disordered: number } {
  const seen = new Set(received)
  let lost = 0
  for (let n = from; n < EVENTS; n++) if (!seen.has(n)) lost++
  const disordered = received.filter((n, index) => index > 0 && n <= received[index - 1]!).length
  return { lost, doubled: received.length - seen.size, disordered }
}

test('clients of the package eventsource, cut anywhere, get everything once and in order', async (t, seed) => {
  const random = createRandom(seed)
  const app = await createApp(t, { retry: 2 })
  const channel = app.sse.channel('c', { history: { events: 1e6, bytes: 1e9 } })
  app.get('/', (_, reply) => reply.sse(channel))
  const port = await listen(app)
  const published: string[] = []
  const clients: { received: number[], spoiled: number, gaps: number }[] = []
  const proxies: { cuts: number }[] = []
  const first = await channel.publish({ data: 'from here on' })

  async function open (): Promise<void> {
    const client = { received: [] as number[], spoiled: 0, gaps: 0 }
    clients.push(client)
    const proxy = await cuttingProxy(t, port, random, 60_000, 1_000)
    proxies.push(proxy)
    // This client forgets an ID that comes without an event (the standard says otherwise), so it begins with one.
    const source = new EventSource(`http://127.0.0.1:${proxy.port}/?lastEventId=${first}`)
    t.after(() => source.close())
    const listener = ({ data }: MessageEvent) => {
      const { n } = JSON.parse(data)
      client.received.push(n)
      if (published[n] !== data) client.spoiled++
    }
    source.addEventListener('message', listener)
    source.addEventListener('tick', listener)
    source.addEventListener('gap', () => client.gaps++)
  }

  const publish = (n: number) => {
    const data = { n, text: textOf(random) }
    published.push(JSON.stringify(data))
    return channel.publish(random() < 0.5 ? { data } : { event: 'tick', data })
  }
  // The last of them come when most is over, and begin with a long replay.
  await publishAll(app, random, publish, (n) => { while (clients.length < CLIENTS * n / EVENTS) open() })
  const isThere = ({ received }: { received: number[] }) => received.includes(EVENTS - 1)
  await until(() => clients.every(isThere), () => `the last event to reach all clients (SEED=${seed})`)
  for (const [index, client] of clients.entries()) {
    const got = { ...compare(client.received, 0), spoiled: client.spoiled, gaps: client.gaps }
    t.same(got, { lost: 0, doubled: 0, disordered: 0, spoiled: 0, gaps: 0 }, `client ${index} (SEED=${seed})`)
  }
  t.equal(clients.length, CLIENTS)
  const cuts = proxies.reduce((sum, proxy) => sum + proxy.cuts, 0)
  t.ok(cuts > CLIENTS, `${cuts} connections were cut (SEED=${seed})`)
})

/** What a client saw, and how much had been published to each channel by then. */
interface Item {
  /** The last event ID after it. */
  id: string
  /** Undefined: an ID alone. */
  event: { type: string, data: string } | undefined
  published: Record<string, number>
}

interface Visit {
  /** The Last-Event-ID of the request; `''`: none. */
  sent: string
  items: Item[]
}

/** A client that keeps to the standard: it remembers an ID that comes alone, and drops a block that was cut. */
class SpecClient {
  readonly visits: Visit[] = []
  done = false
  readonly #port: number
  readonly #path: string
  readonly #published: () => Record<string, number>
  readonly #isLast: (client: SpecClient) => boolean
  #lastEventId = ''
  #request: http.ClientRequest | undefined

  /** @param isLast whether it has all that it came for */
  constructor (port: number, path: string, published: () => Record<string, number>, isLast: (client: SpecClient) => boolean) {
    this.#port = port
    this.#path = path
    this.#published = published
    this.#isLast = isLast
  }

  /** Comes back until it is done. */
  async run (random: Random): Promise<void> {
    while (!this.done) {
      await this.#visit()
      if (!this.done) await pause(random() < 0.6 ? below(random, 10) : below(random, 150))
    }
  }

  stop (): void {
    this.done = true
    this.#request?.destroy()
  }

  #visit (): Promise<void> {
    const visit: Visit = { sent: this.#lastEventId, items: [] }
    this.visits.push(visit)
    const headers = visit.sent === '' ? {} : { 'last-event-id': visit.sent }
    return new Promise((resolve) => {
      this.#request = http.get({ port: this.#port, host: '127.0.0.1', path: this.#path, agent: false, headers })
      this.#request.on('error', () => {}).on('close', resolve)
      this.#request.on('response', (response) => this.#read(response, visit))
    })
  }

  #read (response: IncomingMessage, visit: Visit): void {
    let text = ''
    response.on('error', () => {})
    response.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk
      for (let end = text.indexOf('\n\n'); end !== -1 && !this.done; end = text.indexOf('\n\n')) {
        this.#take(text.slice(0, end), visit)
        text = text.slice(end + 2)
      }
    })
  }

  #take (block: string, { items }: Visit): void {
    const field = (name: string) => new RegExp(`^${name}: (.*)$`, 'm').exec(block)?.[1]
    const id = field('id')
    const data = field('data')
    if (id !== undefined) this.#lastEventId = id
    if (id === undefined && data === undefined) return
    const event = data === undefined ? undefined : { type: field('event') ?? 'message', data }
    items.push({ id: this.#lastEventId, event, published: this.#published() })
    if (this.#isLast(this)) this.stop()
  }
}

interface Law {
  /** The IDs of all that was published, by channel. */
  published: Record<string, string[]>
  /** Events that a channel retains. */
  history: number
  /** The position in each channel that a last event ID stands for. */
  positionsOf: (id: string) => Record<string, string>
}

interface Told {
  faults: string[]
  events: number
  gaps: number
  /** Events that were missed, by gaps. */
  missed: number
  /** Visits that went on without a gap. */
  resumed: number
}

/** Holds what a client was given against the law. */
function judge (visits: Visit[], { published, history, positionsOf }: Law): Told {
  const told: Told = { faults: [], events: 0, gaps: 0, missed: 0, resumed: 0 }
  const indexes = Object.fromEntries(Object.entries(published).map(([channel, ids]) => {
    return [channel, new Map(ids.map((id, index) => [id, index]))]
  }))
  /** What must come next of each channel; not known before the first position. */
  const next: Record<string, number> = {}

  function indexAfter (channel: string, position: string): number {
    const index = indexes[channel]!.get(position)
    if (index !== undefined) return index + 1
    const after = published[channel]!.findIndex((id) => compareEntryIds(id, position) > 0)
    return after === -1 ? published[channel]!.length : after
  }

  visits.forEach(({ sent, items }, visit) => {
    let lastEventId = sent
    const gapsBefore = told.gaps
    /** Where channels go on of which a gap was told. */
    const skipped: Record<string, number> = {}
    const fault = (text: string) => told.faults.push(`visit ${visit}, sent '${sent}': ${text}`)

    function takeGap (text: string, before: Record<string, number>, isFirst: boolean): void {
      const { channel = 'a', requested, earliest } = JSON.parse(text)
      const to = indexes[channel]!.get(earliest)
      told.gaps++
      // With 'disconnect' a client is told when it comes, or while it is given what it had missed.
      if (isFirst && requested !== positionsOf(sent)[channel]) fault(`a gap for ${requested}`)
      if (requested !== positionsOf(lastEventId)[channel]) fault(`a gap for ${requested} after ${lastEventId}`)
      if (to === undefined) {
        fault(`a gap up to ${earliest}, which is no event`)
        return
      }
      if (to <= next[channel]!) fault(`a gap of nothing, up to event ${to} of ${channel}`)
      if (to > before[channel]! - history) fault(`a gap up to event ${to} of ${channel}, when only ${before[channel]} were published`)
      told.missed += to - next[channel]!
      skipped[channel] = to
    }

    function takePosition (id: string): void {
      lastEventId = id
      for (const [channel, position] of Object.entries(positionsOf(id))) {
        const at = indexAfter(channel, position)
        if (at === skipped[channel]) {
          next[channel] = at
          delete skipped[channel]
        }
        next[channel] ??= at
        if (at !== next[channel]) fault(`position ${id} is before event ${at} of ${channel}, where ${next[channel]} should be next`)
      }
    }

    items.forEach(({ id, event, published: before }, index) => {
      if (event?.type === 'gap') {
        const isFirst = items.slice(0, index).every(({ event }) => event === undefined || event.type === 'gap')
        return takeGap(event.data, before, isFirst && sent !== '')
      }
      if (event !== undefined) {
        const { channel, n } = JSON.parse(event.data)
        told.events++
        if (n !== next[channel]) fault(`event ${n} of ${channel}, where ${next[channel]} should be next`)
        next[channel] = n + 1
      }
      takePosition(id)
    })
    if (sent !== '' && items.some(({ event }) => event !== undefined) && told.gaps === gapsBefore) told.resumed++
  })
  for (const [channel, ids] of Object.entries(published)) {
    if (next[channel] !== ids.length) told.faults.push(`the end is at event ${next[channel]} of ${channel}, not at ${ids.length}`)
  }
  return told
}

/**
 * Publishes to some channels, with clients that are cut and come back; holds all of them against the law.
 * @param mean bytes between two cuts
 */
async function holdAgainstLaw (
  t: Test, app: FastifyInstance, names: string[], history: number, mean: number, seed: number
): Promise<Told> {
  const random = createRandom(seed)
  const published: Record<string, string[]> = Object.fromEntries(names.map((name) => [name, []]))
  const counts: Record<string, number> = Object.fromEntries(names.map((name) => [name, 0]))
  const channels = names.map((name) => app.sse.channel(name, { history: { events: history, bytes: 1e9 } }))
  app.get('/one', (_, reply) => reply.sse(channels[0] as SseChannel<{ data: unknown }>))
  app.get('/all', (_, reply) => reply.sse(app.sse.subscribe(channels)))
  const port = await listen(app)
  const tags = tagsOf(names)
  const positionsOf = names.length === 1
    ? (id: string) => ({ [names[0]!]: id })
    : (id: string) => {
        const positions = readVector(id, tags) ?? []
        return Object.fromEntries(names.map((name, index) => [name, positions[index]!]))
      }
  let over = false
  const clients: SpecClient[] = []
  const running: Promise<void>[] = []
  const has = (client: SpecClient) => {
    if (!over) return false
    const positions = positionsOf(client.visits.at(-1)!.items.at(-1)!.id)
    return names.every((name) => positions[name] === published[name]!.at(-1))
  }

  async function open (): Promise<void> {
    const proxy = await cuttingProxy(t, port, random, mean, 0)
    const client = new SpecClient(proxy.port, names.length === 1 ? '/one' : '/all', () => ({ ...counts }), has)
    clients.push(client)
    t.after(() => client.stop())
    running.push(client.run(random))
  }

  async function publish (): Promise<void> {
    const at = below(random, channels.length)
    const name = names[at]!
    const data = { channel: name, n: counts[name]!++, text: textOf(random) }
    published[name]!.push(await channels[at]!.publish({ data }))
  }

  for (let client = 0; client < CLIENTS; client++) await open()
  await publishAll(app, random, publish)
  over = true
  // One more for each, for those who were there already.
  for (const [at, name] of names.entries()) {
    published[name]!.push(await channels[at]!.publish({ data: { channel: name, n: counts[name]!++ } }))
  }
  await until(() => clients.every(({ done }) => done), () => `the last events to reach all clients (SEED=${seed})`)
  await Promise.all(running)
  const all: Told = { faults: [], events: 0, gaps: 0, missed: 0, resumed: 0 }
  clients.forEach(({ visits }, index) => {
    const told = judge(visits, { published, history, positionsOf })
    t.same(told.faults, [], `client ${index}, in ${visits.length} visits (SEED=${seed})`)
    for (const count of ['events', 'gaps', 'missed', 'resumed'] as const) all[count] += told[count]
  })
  t.ok(all.resumed > 5, `${all.resumed} visits went on where the client was (SEED=${seed})`)
  return all
}

test('with a short history, a client gets everything once and in order, but for the gaps that it is told of', async (t, seed) => {
  const app = await createApp(t)
  const { gaps, missed } = await holdAgainstLaw(t, app, ['a'], 100, 10_000, seed)
  t.ok(gaps > CLIENTS, `${gaps} gaps, in which ${missed} events were (SEED=${seed})`)
  t.ok(app.sse.stats().gaps >= gaps, 'and they were counted')
})

test('several channels read as one keep the law for each of them', async (t, seed) => {
  const app = await createApp(t)
  const { gaps, events } = await holdAgainstLaw(t, app, ['a', 'b', 'c'], 1e6, 100_000, seed)
  t.equal(gaps, 0)
  t.ok(events >= CLIENTS * EVENTS / 2)
})

test('several channels read as one, with short histories: the gaps of each channel are told', async (t, seed) => {
  const app = await createApp(t)
  const { gaps, missed } = await holdAgainstLaw(t, app, ['a', 'b', 'c'], 40, 10_000, seed)
  t.ok(gaps > CLIENTS, `${gaps} gaps, in which ${missed} events were (SEED=${seed})`)
})
