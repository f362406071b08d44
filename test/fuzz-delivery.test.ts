/**
 * The delivery law, whatever happens: any number of events are published to channels with any history, while readers come,
 * go, are cut off, stall and come back in any order. Nothing is lost without a word, nothing comes twice or out of order.
 */
import type { Clock as OwnClock } from '@sinonjs/fake-timers'
import fc from 'fast-check'
import type { FastifyInstance } from 'fastify'
import assert from 'node:assert/strict'
import type { Server } from 'node:http'
import t, { type Test } from 'tap'
import { createHub, memoryBroker, type Broker, type History, type SseChannel, type SseHub, type SseSubscription } from '../index.ts'
import type { OnLag } from '../lib/channels/cursor.ts'
import { sizeOf } from '../lib/broker.ts'
import { faultsOf, Truth, type Rules } from './fuzz/law.ts'
import { HttpReader, Iterating, type AnyReader, type Clock } from './fuzz/readers.ts'
import { runs } from './fuzz/runs.ts'
import { createApp, listen, ownClock, turns, until } from './helpers.ts'
import { brokerOf, noRedis, startRedis } from './redis-server.ts'

const KEEP_ALIVE = 200

/** What is the same for a whole run. */
interface Setting {
  histories: History[]
  onLag: OnLag
  readers: { how: 'http' | 'for await', reads: 'a' | 'b' | 'both', filters: boolean }[]
}

type Command =
  | { do: 'publish', to: number, count: number, text: number }
  | { do: 'close', to: number }
  | { do: 'open', who: number, from: 'last' | 'earliest' | 'now' }
  | { do: 'cut', who: number, bytes: number }
  | { do: 'drop' | 'stall' | 'readOn', who: number }
  | { do: 'tick', ms: number }

const channel = fc.nat({ max: 1 })
const who = fc.nat({ max: 3 })
const history = (age: fc.Arbitrary<number | false>): fc.Arbitrary<History> => fc.record({
  events: fc.oneof(fc.integer({ min: 1, max: 8 }), fc.constant(1_000)),
  bytes: fc.oneof({ weight: 2, arbitrary: fc.constant(100_000) }, { weight: 1, arbitrary: fc.integer({ min: 1, max: 400 }) }),
  age
})
const setting = (age: fc.Arbitrary<number | false>): fc.Arbitrary<Setting> => fc.record({
  histories: fc.tuple(history(age), history(age)),
  onLag: fc.constantFrom('disconnect', 'gap', 'latest'),
  readers: fc.array(fc.record({
    how: fc.constantFrom('http', 'for await'),
    reads: fc.constantFrom('a', 'a', 'b', 'both'),
    filters: fc.boolean()
  }), { minLength: 1, maxLength: 4 })
})
const command: fc.Arbitrary<Command> = fc.oneof(
  { weight: 24, arbitrary: fc.record({ do: fc.constant('publish'), to: channel, count: fc.integer({ min: 1, max: 4 }), text: fc.nat({ max: 60 }) }) },
  { weight: 10, arbitrary: fc.record({ do: fc.constant('publish'), to: channel, count: fc.integer({ min: 5, max: 30 }), text: fc.nat({ max: 600 }) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('close'), to: channel }) },
  { weight: 20, arbitrary: fc.record({ do: fc.constant('open'), who, from: fc.constantFrom('last', 'last', 'last', 'earliest', 'now') }) },
  { weight: 8, arbitrary: fc.record({ do: fc.constant('cut'), who, bytes: fc.nat({ max: 1_500 }) }) },
  { weight: 27, arbitrary: fc.record({ do: fc.constantFrom('drop', 'stall', 'stall', 'stall', 'readOn', 'readOn'), who }) },
  { weight: 10, arbitrary: fc.record({ do: fc.constant('tick'), ms: fc.nat({ max: 700 }) }) }
) as fc.Arbitrary<Command>
/** Each with the turns of the event loop after it. */
const commands = fc.array(fc.tuple(command, fc.nat({ max: 6 })), { maxLength: 60, size: 'max' })

/** Some keys are seldom published. */
const keyOf = (n: number) => n % 5 === 0 ? n % 3 : 'usual'

/** What readers with a filter want. */
const isWanted = (n: number) => n % 4 !== 1

/** Everything that one run has to do with. */
class World {
  readonly readers: AnyReader[]
  readonly #setting: Setting
  readonly #clock: OwnClock | undefined
  readonly #names: string[]
  readonly #truths: Truth[]
  readonly #published: Promise<unknown>[] = []
  readonly #hubs: SseHub[]
  readonly #options: object[]

  constructor (run: number, setting: Setting, { app, hub, clock }: Place) {
    this.#setting = setting
    this.#clock = clock
    this.#names = [`${run}/a`, `${run}/b`]
    this.#truths = setting.histories.map((history) => new Truth(history))
    this.#hubs = [app.sse, hub]
    const { onLag } = setting
    this.#options = setting.histories.map((history) => {
      return { history, onLag, ...onLag === 'latest' && { key: ({ data }: { data: { n: number } }) => keyOf(data.n) } }
    })
    this.readers = setting.readers.map(({ how, reads, filters }, index) => {
      const noting = [reads === 'both' ? [0, 1] : [reads === 'a' ? 0 : 1], filters ? isWanted : () => true, this.#time] as const
      return how === 'http'
        ? new HttpReader(app.server as Server, `/${index}`, ...noting)
        : new Iterating((after) => this.subscribe(index, after, hub), ...noting)
    })
  }

  get #time (): Clock {
    return {
      moment: () => ({ begun: this.#truths.map(({ facts }) => facts.length), now: performance.now() }),
      settled: () => this.#truths.map(({ facts }) => facts.filter(({ id }) => id !== undefined).length)
    }
  }

  #channel (index: number, hub = this.#hubs[0]!): SseChannel<any> {
    return hub.channel(this.#names[index]!, this.#options[index]!) as SseChannel<any>
  }

  /** What a reader reads. */
  subscribe (index: number, after: string | undefined, hub: SseHub): SseSubscription<any> {
    const { reads, filters } = this.#setting.readers[index]!
    const options = { after, filter: filters ? ({ data }: any) => isWanted(data.n) : undefined }
    if (reads === 'both') return hub.subscribe([this.#channel(0, hub), this.#channel(1, hub)], options as object)
    return this.#channel(reads === 'a' ? 0 : 1, hub).subscribe(options as object)
  }

  do (command: Command): void {
    switch (command.do) {
      case 'publish':
        for (let count = 0; count < command.count; count++) this.#publish(command.to, 'x'.repeat(command.text))
        break
      case 'close':
        // What is closed is forgotten when it has grown old.
        if (this.#setting.histories[command.to]!.age === false) this.#close(command.to)
        break
      case 'tick':
        this.#clock?.tick(command.ms)
        break
      default:
        this.#doTo(this.readers[command.who % this.readers.length]!, command)
    }
  }

  #doTo (reader: AnyReader, command: Command): void {
    if (command.do === 'open') reader.open(command.from)
    else if (command.do === 'cut') reader.cut(command.bytes)
    else reader[command.do as 'drop' | 'stall' | 'readOn']()
  }

  #publish (to: number, text: string): void {
    const truth = this.#truths[to]!
    const channel = this.#channel(to)
    if (truth.closed) {
      this.#published.push(assert.rejects(channel.publish({ data: 1 }), { code: 'FST_SSE_CHANNEL_CLOSED' }))
      return
    }
    const data = { channel: to, n: truth.facts.length, text }
    const size = sizeOf({ event: '', data: JSON.stringify(data) })
    const fact: Truth['facts'][number] = { id: undefined, size, at: performance.now() }
    truth.facts.push(fact)
    this.#published.push(channel.publish({ data }).then((id) => { fact.id = id }))
  }

  #close (index: number): void {
    this.#truths[index]!.closed = true
    this.#published.push(this.#channel(index).close())
  }

  /** Everybody comes back, and gets the rest. */
  async finish (): Promise<void> {
    for (const reader of this.readers) reader.readOn()
    await Promise.all(this.#published)
    for (const index of [0, 1]) {
      if (this.#truths[index]!.closed) continue
      this.#publish(index, 'the last')
      this.#close(index)
    }
    await Promise.all(this.#published)
    await until(() => {
      for (const reader of this.readers) {
        reader.open('last')
        reader.readOn()
      }
      return this.readers.every(({ isDone }) => isDone)
    }, () => `all to have everything: ${JSON.stringify(this.readers.map(({ visits }) => visits), undefined, 1)}`)
  }

  get faults (): string[] {
    const { onLag, histories } = this.#setting
    const forgets = histories[0]!.age !== false
    const rules: Rules = { onLag, keyOf, names: this.#names, forgets, isFar: this.#clock === undefined }
    return this.readers.flatMap((reader, index) => {
      return faultsOf(reader, this.#truths, rules).map((fault) => `reader ${index}, ${fault}`)
    })
  }
}

/** Where worlds are. */
interface Place {
  app: FastifyInstance
  hub: SseHub
  clock: OwnClock | undefined
}

async function hold (
  t: Test, brokers: [Broker, Broker], age: fc.Arbitrary<number | false>, count: number, clock?: OwnClock
): Promise<void> {
  const app = await createApp(t, { broker: brokers[0], writeTimeout: false, keepAlive: KEEP_ALIVE })
  const hub = createHub({ broker: brokers[1] })
  t.after(() => hub.close())
  const told = { visits: 0, events: 0, gaps: 0, lags: 0 }
  let world: World
  let run = 0
  app.get('/:reader', (request, reply) => {
    return reply.sse(world.subscribe(Number((request.params as { reader: string }).reader), undefined, app.sse))
  })
  await listen(app)
  await fc.assert(fc.asyncProperty(setting(age), commands, async (setting, commands) => {
    world = new World(++run, setting, { app, hub, clock })
    for (const [command, pause] of commands) {
      world.do(command)
      await turns(pause)
    }
    await world.finish()
    const faults = world.faults
    if (faults.length > 0) throw new Error(faults.join('\n'))
    for (const { visits } of world.readers) {
      told.visits += visits.length
      for (const { items, ended } of visits) {
        told.events += items.filter((item) => item.is === 'event').length
        told.gaps += items.filter((item) => item.is === 'gap').length
        if (ended === 'lagged') told.lags++
      }
    }
    await until(() => app.sse.stats().open === 0)
  }), runs(count))
  const { lags, ...others } = told
  for (const [what, count] of Object.entries(others)) t.ok(count > 0, `${count} ${what} in ${run} runs`)
  t.ok(lags > 0 || run < 300, `${lags} readers were cut off, as they had fallen behind`)
}

t.test('channels in memory keep the law', async (t) => {
  const broker = memoryBroker()
  const clock = ownClock(t)
  await hold(t, [broker, broker], fc.constantFrom<number | false>(false, 1_000), 300, clock)
})

t.test('channels in Redis keep the law', { skip: noRedis }, async (t) => {
  const server = await startRedis(t)
  await hold(t, [brokerOf(t, server), brokerOf(t, server)], fc.constant(false), 60)
})
