/** The laws hold at a distance, and the delivery law holds for channels whose broker is far away and loses its way. */
import http from 'node:http'
import t, { type Test } from 'tap'
import { createHub, type GapEvent, type ReceivedEvent } from '../index.ts'
import { readVector, tagsOf } from '../lib/channels/vector.ts'
import { brokerLaws } from '../lib/testing/index.ts'
import { FarBroker, type Distance } from './far-broker.ts'
import { createApp, listen, turns, until } from './helpers.ts'
import { below, createRandom, type Random } from './processes/random.ts'

/** Other seeds, other distances; `SEED=…` brings those of a run back. */
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000)

const EVENTS = 600
const READERS = 8

t.test('a memory broker at a distance keeps every law', async (t) => {
  await Promise.all([1, 2, 3].map(async (n) => {
    const one = new FarBroker(SEED + n, { turns: n })
    for (const { name, check } of brokerLaws) {
      await t.resolves(check({ one, other: one }), `${name} (SEED=${SEED})`)
    }
    t.equal(one.listeners, 0)
  }))
})

/** What one reader was given, held against what was published: each event must be the next that it wants. */
class Witness {
  readonly faults: string[] = []
  gaps = 0
  events = 0
  readonly #broker: FarBroker
  readonly #wants: (n: number) => boolean
  /** By channel: the number of the event before which it has had everything. */
  readonly #next: Record<string, number>

  constructor (broker: FarBroker, channels: readonly string[], wants: (n: number) => boolean = () => true) {
    this.#broker = broker
    this.#wants = wants
    this.#next = Object.fromEntries(channels.map((channel) => [channel, 0]))
  }

  event ({ channel, n }: { channel: string, n: number }): void {
    this.events++
    const next = this.#nextWanted(channel)
    if (n !== next) this.faults.push(`event ${n} of ${channel}, where ${next} should be next`)
    this.#next[channel] = n + 1
  }

  gap ({ requested, earliest }: { requested: string, earliest: string | null }, channel: string): void {
    this.gaps++
    const ids = this.#broker.idsOf(channel)
    const from = requested === '0-0' ? 0 : ids.indexOf(requested) + 1
    const to = earliest === null ? ids.length : ids.indexOf(earliest)
    if (requested !== '0-0' && from === 0) this.faults.push(`a gap after ${requested}, which is no event of ${channel}`)
    if (to <= from) this.faults.push(`a gap of nothing: after event ${from - 1} of ${channel} comes ${to}`)
    if (to < this.#next[channel]!) this.faults.push(`a gap up to ${to} of ${channel}, which has had ${this.#next[channel]}`)
    this.#next[channel] = Math.max(to, this.#next[channel]!)
  }

  /** The client's position in a channel, told without an event. */
  position (channel: string, id: string): void {
    const at = id === '0-0' ? 0 : this.#broker.idsOf(channel).indexOf(id) + 1
    if (at === 0) return
    const next = this.#nextWanted(channel)
    if (at > next) this.faults.push(`position ${at} of ${channel} is after event ${next}, which was not given`)
  }

  hasAll (counts: Record<string, number>): boolean {
    return Object.entries(counts).every(([channel, count]) => this.#next[channel]! >= count || this.#nextWanted(channel) >= count)
  }

  #nextWanted (channel: string): number {
    let next = this.#next[channel]!
    while (!this.#wants(next)) next++
    return next
  }
}

interface Course {
  broker: FarBroker
  random: Random
  channels: readonly string[]
  /** Set before the last events are published: how many there will be, by channel. */
  counts?: Record<string, number>
}

/** Publishes in bursts and singly. */
async function publishAll (course: Course, publish: (channel: string, n: number) => Promise<unknown>): Promise<void> {
  const { random, channels } = course
  const counts: Record<string, number> = Object.fromEntries(channels.map((channel) => [channel, 0]))
  for (let left = EVENTS; left > 0;) {
    const size = Math.min(left, random() < 0.5 ? 1 : 1 + below(random, 60))
    left -= size
    const burst = Array.from({ length: size }, () => {
      const channel = channels[below(random, channels.length)]!
      return publish(channel, counts[channel]!++)
    })
    if (random() < 0.7) await Promise.all(burst)
    if (random() < 0.5) await turns(below(random, 40))
  }
  for (const channel of channels) while (counts[channel]! % 3 !== 0) await publish(channel, counts[channel]!++)
  // One more for each, that everybody wants: whoever has it has had all.
  course.counts = Object.fromEntries(channels.map((channel) => [channel, counts[channel]! + 1]))
  for (const channel of channels) await publish(channel, counts[channel]!)
}

/** Reads by `for await`, with pauses; after a failure, and now and then without one, it comes back to where it was. */
async function readOn (
  course: Course, witness: Witness, open: (after: string) => AsyncIterable<ReceivedEvent | GapEvent>
): Promise<void> {
  const { random, channels } = course
  let after = '0-0'
  while (course.counts === undefined || !witness.hasAll(course.counts)) {
    try {
      for await (const { event, data, id } of open(after)) {
        const received = data as any
        if (event === 'gap') witness.gap(received, received.channel ?? channels[0])
        else witness.event(received)
        after = id ?? after
        if (course.counts !== undefined && witness.hasAll(course.counts)) return
        if (random() < 0.03) await turns(below(random, 60))
        if (random() < 0.005) break
      }
    } catch (error: any) {
      if (error.code !== 'FST_SSE_LAGGED' && error.message !== 'away') {
        witness.faults.push(error.stack)
        return
      }
    }
  }
}

/** Reads over HTTP, as a client that keeps to the standard; it cuts its connections and comes back. */
class Client {
  #lastEventId = '0-0'
  readonly #course: Course
  readonly #witness: Witness
  readonly #url: string

  constructor (course: Course, witness: Witness, url: string) {
    this.#course = course
    this.#witness = witness
    this.#url = url
  }

  async run (): Promise<void> {
    while (!this.#isDone) {
      await this.#visit()
      await turns(below(this.#course.random, 30))
    }
  }

  get #isDone (): boolean {
    return this.#course.counts !== undefined && this.#witness.hasAll(this.#course.counts)
  }

  #visit (): Promise<void> {
    const { random } = this.#course
    let left = 100 + below(random, random() < 0.3 ? 60_000 : 6_000)
    return new Promise((resolve) => {
      const request = http.get(this.#url, { agent: false, headers: { 'last-event-id': this.#lastEventId } })
      request.on('error', () => {}).on('close', resolve).on('response', (response) => {
        let text = ''
        response.on('error', () => {}).setEncoding('utf8').on('data', (chunk: string) => {
          if (response.statusCode !== 200) return
          text += chunk
          for (let end = text.indexOf('\n\n'); end !== -1 && left > 0; end = text.indexOf('\n\n')) {
            this.#take(text.slice(0, end))
            text = text.slice(end + 2)
            left -= end
          }
          if (this.#isDone || left <= 0) request.destroy()
        })
      })
    })
  }

  #take (block: string): void {
    const field = (name: string) => new RegExp(`^${name}: (.*)$`, 'm').exec(block)?.[1]
    const { channels } = this.#course
    const [id, data, event] = [field('id'), field('data'), field('event')]
    if (id !== undefined) this.#lastEventId = id
    if (data === undefined) {
      if (id !== undefined) this.#takePosition(id)
      return
    }
    const received = JSON.parse(data)
    if (event === 'gap') this.#witness.gap(received, received.channel ?? channels[0])
    else this.#witness.event(received)
  }

  #takePosition (id: string): void {
    const { channels } = this.#course
    const positions = channels.length === 1 ? [id] : readVector(id, tagsOf(channels)) ?? []
    positions.forEach((position, index) => {
      if (position !== undefined) this.#witness.position(channels[index]!, position)
    })
  }
}

const COURSES: Record<string, { distance: Distance, history: number, onLag: 'disconnect' | 'gap', gaps: boolean }> = {
  'a large history': { distance: {}, history: 1e6, onLag: 'disconnect', gaps: false },
  'a large history, and a broker that loses its way': {
    distance: { lost: 0.03 }, history: 1e6, onLag: 'disconnect', gaps: false
  },
  'a small history': { distance: { turns: 2 }, history: 50, onLag: 'gap', gaps: true },
  'a small history, and a broker that loses its way': {
    distance: { lost: 0.03, missed: 40 }, history: 30, onLag: 'gap', gaps: true
  },
  'a small history, a broker that loses its way, and readers that are to come back': {
    distance: { lost: 0.03, missed: 40 }, history: 30, onLag: 'disconnect', gaps: true
  },
  'a broker that loses its way and is away at times': {
    distance: { lost: 0.02 }, history: 1e6, onLag: 'gap', gaps: false
  }
}

async function judge (
  t: Test, course: Course, witnesses: Witness[], reading: Promise<unknown>[], { gaps }: { gaps: boolean }
): Promise<void> {
  let over = false
  Promise.all(reading).then(() => { over = true })
  await until(() => over, () => `all readers to have everything (SEED=${SEED})`)
  for (const [index, { faults }] of witnesses.entries()) t.same(faults, [], `reader ${index} (SEED=${SEED})`)
  const told = witnesses.reduce((sum, witness) => sum + witness.gaps, 0)
  if (!gaps) t.equal(told, 0, 'nothing was missed')
  t.ok(witnesses.every(({ events }) => events > 0))
  await until(() => course.broker.listeners === 0, () => `${course.broker.listeners} listeners to be let go of`)
}

Object.entries(COURSES).forEach(([what, { distance, history, onLag, gaps }], at) => {
  for (const channels of [['a'], ['a', 'b', 'c']]) {
    const seed = SEED + at * 10 + channels.length
    const where = channels.length === 1 ? 'one channel' : 'several channels'

    const create = (): Course => {
      const random = createRandom(seed)
      const fails = () => what.includes('away') && random() < 0.01 ? new Error('away') : undefined
      const reject: Distance['reject'] = (method) => method === 'read' || method === 'listen' ? fails() : undefined
      return { random, channels, broker: new FarBroker(seed + 1, { ...distance, reject }) }
    }
    const options = { history: { events: history, bytes: 1e9 }, onLag }

    t.test(`${where} by for await, ${what}: everything once and in order, or a gap is told`, async (t) => {
      const course = create()
      const hub = createHub({ broker: course.broker })
      t.after(() => hub.close())
      const all = channels.map((name) => hub.channel(name, options))
      const witnesses = Array.from({ length: READERS }, (_, reader) => {
        return new Witness(course.broker, channels, reader % 2 === 0 ? undefined : (n) => n % 3 === 0)
      })
      const reading = witnesses.map(async (witness, reader) => {
        const filter = reader % 2 === 0 ? undefined : ({ data }: ReceivedEvent) => (data as { n: number }).n % 3 === 0
        if (reader >= 4) await turns(below(course.random, 300))
        return readOn(course, witness, (after) => {
          const some = { after, ...(filter && { filter }) }
          return channels.length === 1 ? all[0]!.subscribe(some) : hub.subscribe(all, some)
        })
      })
      await publishAll(course, (channel, n) => all[channels.indexOf(channel)]!.publish({ data: { channel, n } }))
      await judge(t, course, witnesses, reading, { gaps })
      if (distance.lost !== undefined) t.ok(course.broker.timesLost > 0, `lost its way ${course.broker.timesLost} times`)
    })

    t.test(`${where} over HTTP, ${what}: everything once and in order, or a gap is told`, async (t) => {
      const course = create()
      const app = await createApp(t, { broker: course.broker })
      const all = channels.map((name) => app.sse.channel(name, options))
      const filter = ({ data }: ReceivedEvent) => (data as { n: number }).n % 3 === 0
      const subscribe = (some: object) => channels.length === 1 ? all[0]!.subscribe(some) : app.sse.subscribe(all, some)
      app.get('/all', (_, reply) => reply.sse(subscribe({})))
      app.get('/some', (_, reply) => reply.sse(subscribe({ filter })))
      const port = await listen(app)
      const witnesses = Array.from({ length: READERS }, (_, reader) => {
        return new Witness(course.broker, channels, reader % 2 === 0 ? undefined : (n) => n % 3 === 0)
      })
      const reading = witnesses.map((witness, reader) => {
        return new Client(course, witness, `http://127.0.0.1:${port}/${reader % 2 === 0 ? 'all' : 'some'}`).run()
      })
      await publishAll(course, (channel, n) => all[channels.indexOf(channel)]!.publish({ data: { channel, n } }))
      await judge(t, course, witnesses, reading, { gaps })
      await until(() => app.sse.stats().open === 0, () => 'all streams to end')
    })
  }
})

for (const [what, distance, events] of [
  ['a large history', {}, 1e6], ['a broker that loses its way', { lost: 0.03 }, 1e6],
  ['a small history, and a broker that loses its way', { lost: 0.03 }, 30]
] as const) {
  t.test(`a run, ${what}: its readers get it from its start, once and in order, or are told of a gap`, async (t) => {
    const random = createRandom(SEED)
    const channels = ['run:key']
    const broker = new FarBroker(SEED, distance)
    const course: Course = { broker, random, channels }
    const app = await createApp(t, { broker })
    const run = app.sse.run('key', async function * () {
      for (let n = 0; n <= 300; n++) {
        if (random() < 0.1) await turns(below(random, 20))
        if (n === 300) course.counts = { 'run:key': 301 }
        yield { data: { channel: channels[0], n } }
      }
    }, { history: { events } })
    app.get('/', (_, reply) => reply.sse(app.sse.run.attach('key')))
    const port = await listen(app)
    const witnesses = Array.from({ length: READERS }, () => new Witness(broker, channels))
    const reading = witnesses.map((witness, reader) => {
      return reader % 2 === 0
        ? new Client(course, witness, `http://127.0.0.1:${port}/`).run()
        : readOn(course, witness, (after) => run.subscribe({ after }))
    })
    await judge(t, course, witnesses, reading, { gaps: events < 1e6 })
    t.same(await run.ended, { state: 'done' })
  })
}
