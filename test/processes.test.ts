/**
 * The delivery law across processes: Fastify processes and a worker on one Redis, clients that come back to another process
 * each time, and whatever can be killed, killed.
 */
import { EventSource } from 'eventsource'
import { Redis } from 'ioredis'
import { setTimeout as pause } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { historyOf, stateKeyOf, type Kind } from './processes/channels.ts'
import { Processes, type Child } from './processes/child.ts'
import { Client, switchingFetch, type Visit } from './processes/client.ts'
import { judge, positionsIn, seenOf, Truth, xrange, type Verdict } from './processes/law.ts'
import { below, createRandom, type Random } from './processes/random.ts'
import { noRedis, startRedis } from './redis-server.ts'

/**
 * The cuts of every run, and others in each: a failure names the seed, and `SEED=…` brings its cuts back alone, as far as
 * sockets let it.
 */
const { SEED } = process.env
const SEEDS = SEED === undefined ? [1, Date.now() % 1_000_000] : [Number(SEED)]
const COURSES = SEED === undefined ? [[SEEDS[0]!, 2], [SEEDS[1]!, 4]] : [[SEEDS[0]!, 2], [SEEDS[0]!, 4]]

const LEASE = 1_000

/** Turns until the condition holds, which leave the processor to others; fails with what was waited for after 30 s. */
async function until (condition: () => unknown, what: string | (() => string)): Promise<void> {
  for (const deadline = performance.now() + 30_000; !await condition();) {
    if (performance.now() > deadline) throw new Error(`waited 30 s for ${typeof what === 'string' ? what : what()}`)
    await pause(5)
  }
}

function connectRedis (t: Test, { port }: { port: number }): Redis {
  const redis = new Redis({ port, retryStrategy: () => 20, maxRetriesPerRequest: null })
  redis.on('error', () => {})
  t.after(() => redis.disconnect())
  return redis
}

/** Those who read some channels, and what they were given. */
class Audience {
  readonly names: readonly string[]
  readonly clients: { client: Client, next: Record<string, number> }[] = []
  readonly sources: { source: EventSource, visits: Visit[], next: Record<string, number> }[] = []
  cutSources = 0
  readonly #t: Test
  readonly #ports: () => readonly number[]
  readonly #random: Random
  readonly #running: Promise<void>[] = []

  constructor (t: Test, names: readonly string[], ports: () => readonly number[], seed: number) {
    this.#t = t
    this.names = names
    this.#ports = ports
    this.#random = createRandom(seed)
    t.after(() => this.stop())
  }

  get path (): string {
    return `/channels/${this.names.join(',')}`
  }

  get cuts (): number {
    return this.visits.flat().filter(({ cut }) => cut !== undefined).length + this.cutSources
  }

  /** All that was seen, by client. */
  get visits (): Visit[][] {
    return [...this.clients.map(({ client }) => client.visits), ...this.sources.map(({ visits }) => visits)]
  }

  /** @param fromStart whether it wants all that is retained; else it begins with what is published from now on */
  open (mean: number | false, fromStart: boolean, ports = this.#ports): Client {
    const client = new Client({
      ports, mean, random: this.#ownRandom(), path: fromStart ? `${this.path}?lastEventId=earliest` : this.path
    })
    const isWhole = fromStart && this.names.every((name) => historyOf(name) > 1_000)
    this.clients.push({ client, next: isWhole ? Object.fromEntries(this.names.map((name) => [name, 0])) : {} })
    this.#running.push(client.run())
    return client
  }

  /**
   * Of the package `eventsource`, which forgets an ID that comes alone, so it has to begin with one.
   * @param from the ID of the first event of the one channel
   */
  openSource (mean: number, from: string): void {
    const visit: Visit = { port: 0, sent: from, status: undefined, items: [] }
    const fetch = switchingFetch({ ports: this.#ports, mean, random: this.#ownRandom() }, () => { this.cutSources++ })
    const source = new EventSource(`http://127.0.0.1${this.path}?lastEventId=${from}`, { fetch })
    let lastEventId = from
    for (const type of ['message', 'tick', 'gap']) {
      source.addEventListener(type, (event) => {
        lastEventId = event.lastEventId || lastEventId
        visit.items.push({ id: lastEventId, own: event.lastEventId !== '', event: { type, data: event.data }, at: Date.now() })
      })
    }
    this.sources.push({ source, visits: [visit], next: { [this.names[0]!]: 1 } })
  }

  hasCome (name: string, id: string): boolean {
    const isThere = (lastEventId: string | undefined) => {
      return lastEventId !== undefined && lastEventId !== '' && positionsIn(this.names)(lastEventId)[name] === id
    }
    return this.clients.every(({ client }) => isThere(client.lastEventId)) &&
      this.sources.every(({ visits }) => isThere(visits[0]!.items.at(-1)?.id))
  }

  async stop (): Promise<void> {
    for (const { client } of this.clients) client.stop()
    for (const { source } of this.sources) source.close()
    await Promise.all(this.#running)
  }

  /** Holds all of them against the law. */
  judge (truths: readonly Truth[], about: string): Verdict {
    const sum: Verdict = { faults: [], events: 0, gaps: 0, missed: 0, resumed: 0 }
    const add = (who: string, { faults, ...counts }: Verdict) => {
      this.#t.same(faults.slice(0, 5), [], `${who}, ${faults.length} faults (${about})`)
      for (const count of ['events', 'gaps', 'missed', 'resumed'] as const) sum[count] += counts[count]
    }
    this.clients.forEach(({ client, next }, index) => {
      add(`client ${index}, in ${client.visits.length} visits`, judge(client.visits, truths, next))
      this.#t.equal(client.timesRobbed, 0, `nobody took its ID from client ${index} (${about})`)
    })
    this.sources.forEach(({ source, visits, next }, index) => {
      add(`EventSource ${index}`, judge(visits, truths, next))
    })
    return sum
  }

  #ownRandom (): Random {
    return createRandom(below(this.#random, 1e9))
  }
}

/** What Redis has of channels at the end, and what it had. */
async function truthsOf (
  t: Test, redis: Redis, processes: Processes, audiences: readonly Audience[], about: string
): Promise<Map<string, Truth>> {
  const names = new Set(audiences.flatMap(({ names }) => names))
  const truths = new Map<string, Truth>()
  for (const name of names) {
    const seen = new Map(audiences.flatMap((audience) => audience.names.includes(name)
      ? [...seenOf(name, audience.names, audience.visits)]
      : []))
    const truth = new Truth(name, await xrange(redis, name), processes.toldOf([name]), seen)
    t.same(truth.faults.slice(0, 5), [], `${truth.facts.length} events in ${name} (${about})`)
    truths.set(name, truth)
  }
  return truths
}

/** Waits until everybody has everything, and holds them against the law. */
async function judgeAll (
  t: Test, redis: Redis, processes: Processes, audiences: readonly Audience[], about: string
): Promise<{ truths: Map<string, Truth>, verdicts: Verdict[] }> {
  for (const audience of audiences) {
    for (const name of audience.names) {
      const { id } = (await xrange(redis, name)).at(-1)!
      await until(() => audience.hasCome(name, id), `everybody to have all of ${name} (${about})`)
    }
  }
  await Promise.all(audiences.map((audience) => audience.stop()))
  const truths = await truthsOf(t, redis, processes, audiences, about)
  const verdicts = audiences.map((audience) => audience.judge(audience.names.map((name) => truths.get(name)!), about))
  return { truths, verdicts }
}

/** Group of tests on processes that they share. */
interface Shared {
  processes: Processes
  redis: Redis
}

let number = 0

/** A channel of this test alone. */
function newName (kind: Kind): string {
  return `${kind}.${number++}`
}

interface Course extends Shared {
  names: string[]
  ports: () => readonly number[]
  /** Those who publish. */
  publishers: Child[]
  events: number
  mean: number
  seed: number
}

/** Publishes from several processes, with clients that are cut and come back to others. */
async function followCourse (t: Test, course: Course, about: string): Promise<{ audience: Audience, verdict: Verdict }> {
  const { processes, redis, names, ports, publishers, events, mean, seed } = course
  const random = createRandom(seed)
  const audience = new Audience(t, names, ports, seed)
  const first = await processes.worker.call('publishOnce', names[0])
  const publishing = Promise.all(publishers.map((child, index) => child.call('publish', {
    names, by: `publisher ${index}`, seed: below(random, 1e9), events, pause: 120, cut: child !== processes.worker
  })))
  const total = events * publishers.length
  const published = () => processes.toldOf(names).length
  // The last of them come when most is over, and begin with a long replay.
  for (let client = 0; client < 10; client++) {
    await until(() => published() >= total * client / 12, `${total * client / 12} events (${about})`)
    audience.open(mean, client % 2 === 0)
    if (names.length === 1 && client < 3) audience.openSource(mean * 4, first)
  }
  await publishing
  const failed = processes.toldOf(names).filter(({ id }) => id === undefined)
  t.same(failed.slice(0, 3), [], `${failed.length} of ${total} events were not published (${about})`)
  const { truths, verdicts: [verdict] } = await judgeAll(t, redis, processes, [audience], about)
  for (const truth of truths.values()) {
    t.equal(truth.facts.filter(({ lost }) => lost).length, 0, `no event of ${truth.name} was let go of early (${about})`)
  }
  t.equal([...truths.values()].reduce((sum, { facts }) => sum + facts.length, 0), total + 1, about)
  t.ok(audience.cuts > 20, `${audience.cuts} cuts (${about})`)
  t.ok(verdict!.resumed > 5, `${verdict!.resumed} visits went on where the client was (${about})`)
  return { audience, verdict: verdict! }
}

t.test('clients that come back to another process each time', { skip: noRedis, jobs: 4 }, async (t) => {
  const server = await startRedis(t, '--stream-node-max-entries', '10')
  const redis = connectRedis(t, server)
  const processes = await Processes.start(t, server.port, 4)
  const wheres = new Set<string>()

  for (const [seed, count] of COURSES as [number, number][]) {
    for (const [kind, channels] of [['large', 1], ['large', 3], ['small', 1], ['small', 3]] as const) {
      const about = `${count} processes, SEED=${seed}`
      const what = kind === 'large' ? 'everything once and in order' : 'what is retained, and each gap'
      const of = channels === 1 ? 'a channel' : 'several channels'
      t.test(`are given ${what}, of ${of}; ${about}`, { buffered: true }, async (t) => {
        const apps = processes.apps.slice(0, count)
        const { audience, verdict } = await followCourse(t, {
          processes,
          redis,
          names: Array.from({ length: channels }, () => newName(kind)),
          ports: () => apps.map(({ port }) => port),
          publishers: [...apps.slice(0, 3), processes.worker],
          events: Math.floor(1_200 / (Math.min(count, 3) + 1)),
          mean: kind === 'large' ? 10_000 : 4_000,
          seed
        }, about)
        if (kind === 'large') t.equal(verdict.gaps, 0, about)
        else t.ok(verdict.gaps > 10, `${verdict.gaps} gaps, in which ${verdict.missed} events were (${about})`)
        const ports = new Set(audience.visits.flat().map(({ port }) => port).filter((port) => port !== 0))
        t.equal(ports.size, count, 'they have been everywhere')
        for (const { cut } of audience.visits.flat()) if (cut !== undefined) wheres.add(cut)
      })
    }
  }
  t.test('have been cut everywhere', { buffered: false }, async (t) => {
    t.same([...wheres].sort(), ['between', 'connecting', 'head', 'inside'])
  })
})

t.test('whatever breaks or is killed', { skip: noRedis, jobs: 2 }, async (t) => {
  // No seed brings a moment back.
  const seed = SEEDS.at(-1)!
  const about = `SEED=${seed}`

  t.test(`connections to Redis that break lose nothing, and double nothing; ${about}`, { buffered: true }, async (t) => {
    const server = await startRedis(t)
    const redis = connectRedis(t, server)
    const processes = await Processes.start(t, server.port, 2)
    const names = [newName('large'), newName('large')]
    const audiences = [names, names.slice(0, 1)].map((names, index) => {
      const audience = new Audience(t, names, () => processes.ports, seed + index)
      for (let client = 0; client < 3; client++) audience.open(20_000, true)
      audience.open(false, true)
      return audience
    })
    const publishing = processes.all.map((child, index) => child.call('publish', {
      names, by: `publisher ${index}`, seed: seed + index, pause: 60
    }))
    const random = createRandom(seed)
    for (let breaks = 0; breaks < 12; breaks++) {
      const before = processes.told.length
      await until(() => processes.told.length > before + below(random, 80), `more events (${about})`)
      await redis.call('CLIENT', 'KILL', 'TYPE', 'normal')
    }
    await Promise.all(processes.all.map((child) => child.call('stop')))
    await Promise.all(publishing)
    t.same(processes.told.filter(({ id }) => id === undefined).slice(0, 3), [], `all was published (${about})`)
    const { verdicts } = await judgeAll(t, redis, processes, audiences, about)
    t.equal(verdicts.reduce((sum, { gaps }) => sum + gaps, 0), 0, `no gap (${about})`)
    for (const { clients } of audiences) t.equal(clients.at(-1)!.client.visits.length, 1, `a stream stays open (${about})`)
  })

  t.test(`a Fastify process that is killed takes nothing with it; ${about}`, { buffered: true }, async (t) => {
    const server = await startRedis(t)
    const redis = connectRedis(t, server)
    const processes = await Processes.start(t, server.port, 3)
    const { ports } = processes
    const names = [newName('large'), newName('large'), newName('large')]
    const first = await processes.worker.call('publishOnce', names[0])
    const random = createRandom(seed)
    const audiences = [names, names.slice(0, 1)].map((names, index) => {
      const audience = new Audience(t, names, () => ports, seed + index)
      for (let client = 0; client < 6; client++) audience.open(30_000, client % 2 === 0)
      return audience
    })
    audiences[1]!.openSource(60_000, first)
    let publisher = 0
    const publish = (child: Child) => child.call('publish', {
      names, by: `publisher ${publisher++}`, seed: below(random, 1e9), pause: 250, cut: child !== processes.worker
    })
    const publishing = new Map(processes.all.map((child) => [child, publish(child)]))
    for (let kills = 0; kills < 5; kills++) {
      const victim = processes.apps[below(random, 3)]!
      const by = `publisher ${[...publishing.keys()].indexOf(victim)}`
      const much = 1 + below(random, 60)
      await until(() => processes.told.filter((told) => told.by === by).length > much, `${by} to publish (${about})`)
      const ended = publishing.get(victim)!.then(() => t.fail('it goes on publishing'), () => {})
      const replaced = processes.replace(victim)
      await ended
      const successor = await replaced
      publishing.set(successor, publish(successor))
    }
    await Promise.all(processes.all.map((child) => child.call('stop')))
    await Promise.all(processes.all.map((child) => publishing.get(child)))
    t.same(processes.told.filter(({ id }) => id === undefined).slice(0, 3), [], `nothing was refused (${about})`)
    const { verdicts } = await judgeAll(t, redis, processes, audiences, about)
    t.equal(verdicts.reduce((sum, { gaps }) => sum + gaps, 0), 0, `no gap (${about})`)
    const refused = audiences.flatMap(({ visits }) => visits.flat()).filter(({ status, cut, port }) => {
      return port !== 0 && status === undefined && cut === undefined
    })
    t.ok(refused.length > 0, `${refused.length} visits to a process that was not there (${about})`)
  })

  for (const [what, options] of [
    ['keeps all on disk', ['--appendonly', 'yes', '--appendfsync', 'always']],
    ['keeps nothing', []],
    ['has an older copy', []]
  ] as const) {
    t.test(`a Redis that is killed and ${what}; ${about}`, { buffered: true }, async (t) => {
      const server = await startRedis(t, ...options)
      const redis = connectRedis(t, server)
      const processes = await Processes.start(t, server.port, 2)
      const { apps } = processes
      // One that refuses clients while Redis is away.
      const impatient = await processes.startApp({ TIMEOUT: '200' })
      const names = [newName('lasting'), newName('lasting'), newName('lasting')]
      const random = createRandom(seed)
      const steady: Client[] = []
      const audiences = [names, names.slice(0, 1)].map((names, index) => {
        const audience = new Audience(t, names, () => processes.ports, seed + index)
        for (let client = 0; client < 4; client++) audience.open(30_000, client % 2 === 0)
        for (const app of apps.slice(0, 2)) steady.push(audience.open(false, true, () => [app.port]))
        return audience
      })
      const publishing = processes.all.map((child, index) => child.call('publish', {
        names, by: `publisher ${index}`, seed: below(random, 1e9), pause: 100
      }))
      const stored = () => processes.told.filter(({ id }) => id !== undefined).length
      const more = async (count: number) => {
        const before = stored()
        await until(() => stored() > before + count, `${count} more events (${about})`)
      }
      const refusals = async (): Promise<number> => (await impatient.call('stats')).refused['broker-away']
      const cutOne = () => {
        const clients = audiences.flatMap(({ clients }) => clients).filter(({ client }) => !steady.includes(client))
        clients[below(random, clients.length)]!.client.cut()
      }
      for (let kills = 0; kills < 2; kills++) {
        await more(100 + below(random, 200))
        if (what === 'has an older copy') {
          await redis.call('SAVE')
          await more(20 + below(random, 200))
        }
        await server.kill()
        const before = await refusals()
        await until(async () => {
          cutOne()
          return await refusals() >= before + 3
        }, `clients to be told to come back (${about})`)
        await server.start()
      }
      await more(300)
      await Promise.all(processes.all.map((child) => child.call('stop')))
      await Promise.all(publishing)
      const codes = new Set(processes.told.map(({ code }) => code))
      t.same([...codes].filter((code) => code !== undefined && !/^FST_SSE_(OUTCOME_UNKNOWN|BROKER_UNAVAILABLE)$/.test(code)), [])

      const { truths, verdicts } = await judgeAll(t, redis, processes, audiences, about)
      const lost = [...truths.values()].reduce((sum, { facts }) => sum + facts.filter(({ lost }) => lost).length, 0)
      const gaps = verdicts.reduce((sum, { gaps }) => sum + gaps, 0)
      if (what === 'keeps all on disk') {
        t.equal(lost, 0, `Redis has lost nothing (${about})`)
        t.equal(gaps, 0, `no gap (${about})`)
      } else {
        t.ok(lost > 10, `Redis has lost ${lost} events (${about})`)
        t.ok(gaps >= steady.length, `${gaps} gaps (${about})`)
      }
      for (const { visits } of steady) t.equal(visits.length, 1, `a stream stays open while Redis is away (${about})`)
    })
  }
})

/** Waits until a client has had the end, and was told not to come back. */
async function untilClosed (clients: readonly Client[], about: string): Promise<void> {
  await until(() => clients.every(({ closed }) => closed), `clients to be told not to come back (${about})`)
}

t.test('what processes share', { skip: noRedis, jobs: 2 }, async (t) => {
  const server = await startRedis(t, '--stream-node-max-entries', '10')
  const redis = connectRedis(t, server)
  const processes = await Processes.start(t, server.port, 4)
  const [one, two, three, four] = processes.apps as [Child, Child, Child, Child]

  function read (t: Test, path: string, ports: readonly number[], mean: number | false = false, seed = 1, from?: string): Client {
    const options = { ports: () => ports, path, random: createRandom(seed), mean }
    const client = new Client(from === undefined ? options : { ...options, from })
    t.after(() => client.stop())
    client.run()
    return client
  }

  const tokens = (count: number) => Array.from({ length: count }, (_, n) => n)

  t.test('a run is read in each process, early and late, from its start to its end', async (t) => {
    await one.call('run', { key: 'all', events: 200, pause: 40, lease: LEASE })
    const about = `SEED=${SEEDS.at(-1)}`
    const early = processes.apps.map(({ port }) => read(t, '/runs/all', [port]))
    const cut = SEEDS.flatMap((seed) => [0, 1].map((index) => read(t, '/runs/all', processes.ports, 800, seed + index)))
    await until(() => early.every(({ data }) => data.length > 60), `the run to be under way (${about})`)
    const late = processes.apps.map(({ port }) => read(t, '/runs/all', [port]))
    t.same(await one.call('endOf', 'all'), { state: 'done' })
    const afterwards = processes.apps.map(({ port }) => read(t, '/runs/all', [port]))
    await untilClosed([...early, ...cut, ...late, ...afterwards], about)
    for (const { data, visits, status, timesRobbed } of [...early, ...late, ...afterwards, ...cut]) {
      t.same(data, [...tokens(200), 'done'], about)
      t.same(visits.map(({ status }) => status).filter((status) => status !== undefined && status !== 200), [204])
      t.equal(status, 204)
      t.equal(timesRobbed, 0)
    }
    for (const { visits } of early) t.equal(visits.length, 2, 'one stream, and an answer that it was the last')
    t.ok(cut.flatMap(({ visits }) => visits).length > 4 * cut.length, `${cut.map(({ visits }) => visits.length)} visits (${about})`)
  })

  t.test('a run that is started elsewhere is not started again, and can be stopped from anywhere', async (t) => {
    await one.call('run', { key: 'stopped', events: 1e6, pause: 10, lease: LEASE })
    await until(async () => (await one.call('sourceOf', 'stopped')).started, 'the source to start')
    const readers = processes.apps.map(({ port }) => read(t, '/runs/stopped', [port]))
    await until(() => readers.every(({ data }) => data.length > 20), 'the run to be under way')
    await two.call('run', { key: 'stopped', events: 10, pause: 1, lease: LEASE })
    t.same(await two.call('endOf', 'stopped'), { state: 'elsewhere' })
    t.same(await two.call('sourceOf', 'stopped'), { started: false, aborted: false })
    t.same(await one.call('sourceOf', 'stopped'), { started: true, aborted: false }, 'it goes on')
    const joined = read(t, '/runs/stopped', [two.port])
    await until(() => joined.data.length > 20, 'the run that is there to be read')

    await three.call('stopRun', 'stopped')
    t.same(await one.call('endOf', 'stopped'), { state: 'stopped' })
    t.same(await one.call('sourceOf', 'stopped'), { started: true, aborted: true })
    await untilClosed([...readers, joined], 'of the run that was stopped')
    const all = readers[0]!.data
    for (const { data } of [...readers, joined]) t.same(data, all, 'everybody has had the same')
    t.same(all, tokens(all.length))
    t.equal((await xrange(redis, 'run:stopped')).length, all.length, 'and all that was recorded')
    await t.rejects(four.call('stopRun', 'nobody has started it'), { code: 'FST_SSE_UNKNOWN_RUN' })
  })

  t.test('channel.close() in one process ends the streams in all of them', async (t) => {
    const name = newName('large')
    const path = `/channels/${name}`
    const live = processes.apps.map(({ port }) => read(t, path, [port]))
    const cut = SEEDS.map((seed) => read(t, path, processes.ports, 2_000, seed))
    await until(() => [...live, ...cut].every(({ lastEventId }) => lastEventId !== ''), 'everybody to be there')
    const since = live[0]!.lastEventId
    await Promise.all(processes.all.map((child, index) => child.call('publish', {
      names: [name], by: `publisher ${index}`, seed: index, events: 50, pause: 20
    })))
    await three.call('close', name)
    for (const child of [one, three, processes.worker]) {
      await t.rejects(child.call('publishOrThrow', name), { code: 'FST_SSE_CHANNEL_CLOSED' })
    }
    const away = read(t, path, [two.port], false, 1, since)
    const without = read(t, path, [four.port])
    await untilClosed([...live, ...cut, away, without], `of ${name}`)
    const all = (await xrange(redis, name)).map(({ data }) => JSON.parse(data))
    t.equal(all.length, 250)
    for (const client of [...live, ...cut, away]) t.same(client.data, all)
    t.same(without.data, [], 'who comes afterwards gets what is published from then on')
    for (const { visits } of [...live, away, without]) t.same(visits.map(({ status }) => status), [200, 204])
  })

  for (const seed of SEEDS) {
    const about = `SEED=${seed}`

    t.test(`a snapshot and what follows it are the state, in each process; ${about}`, async (t) => {
      const name = newName('state')
      const random = createRandom(seed)
      const path = `/channels/${name}`
      const open = (mean: number | false) => read(t, path, processes.ports, mean, below(random, 1e9))
      const clients = [open(3_000), open(3_000), open(3_000), open(false)]
      const counting = Promise.all(processes.all.map((child, index) => {
        return child.call('count', name, `counter ${index}`, 5, 60, 150)
      }))
      const total = 5 * 5 * 60
      for (let newcomers = 0; newcomers < 10; newcomers++) {
        await until(() => processes.toldOf([name]).length > total * newcomers / 10, `more counts (${about})`)
        clients.push(open(newcomers % 2 === 0 ? 3_000 : false))
      }
      await counting
      const { id } = (await xrange(redis, name)).at(-1)!
      await until(() => clients.every(({ lastEventId }) => lastEventId === id), () => {
        return `everybody to have ${id}, not ${clients.map(({ lastEventId }) => lastEventId)} (${about})`
      })
      for (const client of clients) client.stop()

      const truth = new Truth(name, await xrange(redis, name), processes.toldOf([name]), new Map())
      t.same(truth.faults, [], about)
      t.equal(truth.facts.length, total, `all counts were published (${about})`)
      const stored = Object.entries(await redis.hgetall(stateKeyOf(name)))
      const state = Object.fromEntries(stored.map(([key, count]) => [key, Number(count)]))
      t.equal(Object.keys(state).length, 25)
      let gaps = 0
      let snapshots = 0
      for (const { visits, timesRobbed } of clients) {
        const model = countAll(visits, truth)
        t.same(model.faults.slice(0, 5), [], `${model.faults.length} faults (${about})`)
        t.same(Object.fromEntries(model.counts), state, `in ${visits.length} visits (${about})`)
        t.equal(timesRobbed, 0)
        gaps += model.gaps
        snapshots += model.snapshots
      }
      t.ok(gaps > 3, `${gaps} gaps, ${snapshots} snapshots (${about})`)
    })
  }
})

/** What a client of a channel with a snapshot makes of it: counts by key. */
function countAll (visits: readonly Visit[], truth: Truth) {
  const result = { counts: new Map<string, number>(), faults: [] as string[], gaps: 0, snapshots: 0 }
  /** What comes next; undefined until the first snapshot was had in full. */
  let next: number | undefined

  visits.forEach(({ sent, items }, number) => {
    const fault = (text: string) => result.faults.push(`visit ${number}, sent '${sent}': ${text}`)
    /** That which is being given, of who needs one. */
    let snapshot = sent === '' ? new Map<string, number>() : undefined
    let lastEventId = sent
    for (const { id, own, event, at } of items) {
      if (event?.type === 'gap') {
        const { requested } = JSON.parse(event.data)
        result.gaps++
        if (requested !== lastEventId) fault(`a gap for ${requested} after '${lastEventId}'`)
        if (next === undefined || !truth.isGone(next, at)) fault(`a gap, where event ${next} was there`)
        snapshot = new Map()
      } else if (event !== undefined && !own) {
        const { key, count } = JSON.parse(event.data)
        if (snapshot === undefined) fault(`an event of a snapshot without need: ${event.data}`)
        else if (snapshot.has(key)) fault(`${key} twice in a snapshot`)
        snapshot?.set(key, count)
      } else if (event === undefined) {
        // The ID that was asked for comes before a gap, and says nothing new.
        const index = truth.indexAfter(id)
        if (snapshot !== undefined) {
          result.snapshots++
          result.counts = snapshot
          for (const [key, count] of truth.countsBefore(index)) {
            if ((snapshot.get(key) ?? 0) < count) fault(`a snapshot with ${snapshot.get(key)} of ${key}, where ${count} were published`)
          }
          snapshot = undefined
          next = index
        } else if (index !== next) {
          fault(`position ${id} is before event ${index}, where ${next} should be next`)
        }
        lastEventId = id
      } else {
        const index = truth.indexOf(event.data)
        const { key, count } = JSON.parse(event.data)
        if (index === undefined || index !== next) fault(`event ${index}, where ${next} should be next`)
        next = (index ?? 0) + 1
        result.counts.set(key, count)
        lastEventId = id
      }
    }
  })
  return result
}

// Alone, as time counts.
t.test('the process that records a run is killed: its readers get the will, then the end', { skip: noRedis }, async (t) => {
  const server = await startRedis(t)
  const redis = connectRedis(t, server)
  const processes = await Processes.start(t, server.port, 3)
  const [owner, two, three] = processes.apps as [Child, Child, Child]
  const others = [two, three]
  const about = 'of the run whose process is dead'
  await owner.call('run', { key: 'orphan', events: 1e6, pause: 10, lease: LEASE, will: 'its process has died' })
  await until(async () => (await owner.call('sourceOf', 'orphan')).started, 'the source to start')

  function read (path: string, { port }: Child): Client {
    const client = new Client({ ports: () => [port], path, random: Math.random, mean: false })
    t.after(() => client.stop())
    client.run()
    return client
  }

  const readers = others.map((app) => read('/runs/orphan', app))
  // To Firefox the end is told by an event, as it forgets an ID alone; and so does this package.
  const source = new EventSource(`http://127.0.0.1:${two.port}/runs/orphan`, {
    fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, 'user-agent': 'Firefox/140.0' } })
  })
  t.after(() => source.close())
  const seen: unknown[] = []
  for (const type of ['token', 'will']) source.addEventListener(type, ({ data }) => seen.push(JSON.parse(data)))
  await until(() => seen.length > 20 && readers.every(({ data }) => data.length > 20), 'the run to be under way')
  await pause(LEASE)
  t.ok(readers.every(({ visits, closed }) => visits.length === 1 && !closed), 'a run whose process is alive goes on')

  const killed = performance.now()
  await owner.kill()
  await untilClosed(readers, about)
  const took = performance.now() - killed
  t.ok(took >= LEASE * 0.6 && took < LEASE * 2, `the end came after ${took} ms, with leases of ${LEASE} ms`)
  await until(() => source.readyState === source.CLOSED, 'the EventSource to be told not to come back')
  const late = others.map((app) => read('/runs/orphan', app))
  await untilClosed(late, about)
  const all = (await xrange(redis, 'run:orphan')).map(({ data }) => JSON.parse(data))
  t.same(all, [...Array.from({ length: all.length - 1 }, (_, n) => n), 'its process has died'])
  for (const { data, visits, items } of [...readers, ...late]) {
    t.same(data, all)
    t.equal(items.findLast(({ event }) => event !== undefined)!.event!.type, 'will')
    t.same(visits.map(({ status }) => status), [200, 204])
  }
  t.same(seen, all)
  await two.call('run', { key: 'orphan', events: 1, pause: 1, lease: LEASE })
  t.same(await two.call('endOf', 'orphan'), { state: 'elsewhere' }, 'it cannot be started again while it can be read')

  const unread = { key: 'nobody reads it', events: 1e6, pause: 10, lease: LEASE, will: 'its process has died' }
  await two.call('run', unread)
  await until(async () => (await xrange(redis, `run:${unread.key}`)).length > 5, 'a run that nobody reads')
  await two.kill()
  const died = performance.now()
  const [last] = [read(`/runs/${encodeURIComponent(unread.key)}`, three)]
  await untilClosed([last!], unread.key)
  t.ok(performance.now() - died < LEASE * 2, 'who comes only afterwards is told, too')
  t.equal(last!.data.at(-1), 'its process has died')
})
