/** A hub: the channels, subscriptions and runs of one process, on one broker. It needs no HTTP and no Fastify. */
import { randomUUID } from 'node:crypto'
import { memoryBroker } from '../brokers/memory.ts'
import type { Broker } from '../broker.ts'
import { checkNoBroker, checkOptions, isBroker, isFunction } from '../checks.ts'
import { describe } from '../describe.ts'
import { InvalidOption } from '../errors.ts'
import { quiet, warn, type OnError } from '../log.ts'
import { Channel, type HubParts } from './channel.ts'
import { Compiled, type SharedSchemas } from './compiled.ts'
import { Iterations } from './iteration.ts'
import { Merged } from './merged.ts'
import { checkName, checkSubscribeOptions, resolveChannelOptions, type ChannelOptions } from './options.ts'
import { checkSameOptions, Registry } from './registry.ts'
import { RUN_PREFIX, Runs } from './runs.ts'
import { Subscription, type SubscribeOptions } from './subscription.ts'

/** Options of `createHub`. A wrong one throws FST_SSE_INVALID_OPTION. */
export interface HubOptions {
  /** What keeps the channels. Default: `memoryBroker()`. Whoever has made it ends it. */
  broker?: Broker | undefined
  /** Told of what fails where nobody waits for it: a run, a `key` function. Default: `process.emitWarning`. */
  onError?: OnError | undefined
}

/** How long the broker may take to close the runs, in ms. */
const GRACE = 1_000

export class Hub {
  readonly runs: Runs
  readonly #registry = new Registry()
  readonly #parts: HubParts
  readonly #compiled: Compiled

  /**
   * @param schemas that the schemas of events may refer to
   * @throws {InvalidOption}
   */
  constructor (options: HubOptions, schemas: SharedSchemas = () => ({})) {
    checkNoBroker(options, 'createHub')
    checkOptions(options, { broker: isBroker, onError: isFunction }, 'createHub')
    const { broker = memoryBroker(), onError = warn } = options
    this.#parts = { id: randomUUID(), broker, onError: quiet(onError), iterations: new Iterations() }
    this.#compiled = new Compiled(schemas)
    this.runs = new Runs(this.#parts, this.#compiled)
  }

  /** Says whether channels that are made from now on are kept, though nobody may hold them: those of start-up. */
  keepChannels (keeping: boolean): void {
    this.#registry.keeping = keeping
  }

  /** @throws {InvalidOption | InvalidSchema} */
  channel (name: string, options: ChannelOptions = {}): Channel {
    checkName(name, 'the name of a channel')
    if (name.startsWith(RUN_PREFIX)) {
      throw new InvalidOption(`the name of a channel cannot begin with '${RUN_PREFIX}', as those of runs do; got '${name}'`)
    }
    const known = this.#registry.get(name)
    if (known !== undefined) {
      checkSameOptions(known, options)
      return known
    }
    const resolved = resolveChannelOptions(options, name)
    return this.#registry.add(new Channel(name, resolved, this.#compiled.for(name, resolved.events), this.#parts))
  }

  /** @throws {InvalidOption | InvalidLastEventId | TooManyChannels} */
  subscribe (channels: readonly Channel[], options: SubscribeOptions = {}): Subscription {
    const where = 'app.sse.subscribe'
    if (!Array.isArray(channels) || channels.length === 0) {
      throw new InvalidOption(`${where} needs an array of channels, got ${describe(channels)}`)
    }
    for (const channel of channels) {
      if (!(channel instanceof Channel)) throw new InvalidOption(`${where} takes channels of app.sse.channel, got ${describe(channel)}`)
    }
    checkSubscribeOptions(options, where)
    return new Subscription(new Merged(channels, this.#parts.iterations), options)
  }

  /** Ends the iterations, stops the runs, and starts no more of either. Always settles: a broker may not answer. */
  async close (): Promise<void> {
    this.#parts.iterations.end()
    let timer
    const grace = new Promise((resolve) => { timer = setTimeout(resolve, GRACE) })
    await Promise.race([this.runs.close(), grace])
    clearTimeout(timer)
  }
}
