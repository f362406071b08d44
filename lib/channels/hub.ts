/** A hub: the channels, subscriptions and runs of one process, on one broker. It needs no HTTP and no Fastify. */
import { memoryBroker } from '../brokers/memory.ts'
import type { Broker } from '../broker.ts'
import { describe } from '../describe.ts'
import { InvalidOption, InvalidSchema, UnknownRun } from '../errors.ts'
import { checkOptions, isBroker, isFunction } from '../options.ts'
import type { Payloads } from '../payload.ts'
import { letGo } from '../source.ts'
import { Channel, type Shared } from './channel.ts'
import { Compiled, type SharedSchemas } from './compiled.ts'
import type { Iteration } from './iteration.ts'
import { Merged } from './merged.ts'
import {
  checkName, checkSubscribeOptions, resolveChannelOptions, resolveRunOptions, type ChannelOptions, type Events,
  type ResolvedChannelOptions, type RunOptions
} from './options.ts'
import { checkSameOptions, Registry } from './registry.ts'
import { AttachedRun, Run } from './run.ts'
import { Subscription, type SubscribeOptions } from './subscription.ts'

export interface HubOptions {
  /** What keeps the channels. Default: `memoryBroker()`. Whoever has made it ends it. */
  broker?: Broker | undefined
  /** Told of what fails where nobody waits for it: a run, a `key` function. Default: `process.emitWarning`. */
  onError?: ((error: unknown, message: string) => void) | undefined
}

/** The names of the channels that runs are recorded as. */
const RUN_PREFIX = 'run:'

export class Hub {
  readonly #registry = new Registry()
  readonly #runs = new Map<string, Run>()
  readonly #shared: Shared
  readonly #compiled: Compiled

  /**
   * @param schemas that the schemas of events may refer to
   * @throws {InvalidOption}
   */
  constructor (options: HubOptions, schemas: SharedSchemas = () => ({})) {
    checkOptions(options, { broker: isBroker, onError: isFunction }, 'createHub')
    const { broker = memoryBroker(), onError = warn } = options
    this.#shared = { broker, onError, iterations: new Set<Iteration>() }
    this.#compiled = new Compiled(schemas)
  }

  /** Says whether channels that are made from now on are kept, though nobody may hold them: those of start-up. */
  keepChannels (keeping: boolean): void {
    this.#registry.keeping = keeping
  }

  channel (name: string, options?: ChannelOptions): Channel {
    checkName(name, 'the name of a channel')
    if (name.startsWith(RUN_PREFIX)) {
      throw new InvalidOption(`the name of a channel cannot begin with '${RUN_PREFIX}', as those of runs do; got '${name}'`)
    }
    let made = false
    const channel = this.#registry.get(name, () => {
      made = true
      return this.#create(name, resolveChannelOptions(options ?? {}, name))
    })
    if (!made && options !== undefined) checkSameOptions(channel, options)
    return channel
  }

  subscribe (channels: readonly Channel[], options: SubscribeOptions = {}): Subscription {
    const where = 'app.sse.subscribe'
    if (!Array.isArray(channels) || channels.length === 0) {
      throw new InvalidOption(`${where} needs an array of channels, got ${describe(channels)}`)
    }
    for (const channel of channels) {
      if (!(channel instanceof Channel)) throw new InvalidOption(`${where} takes channels of app.sse.channel, got ${describe(channel)}`)
    }
    checkSubscribeOptions(options, where)
    return new Subscription(new Merged(channels, this.#shared.iterations), options)
  }

  run (key: string, source: unknown, options: RunOptions = {}): Run {
    checkName(key, 'the key of a run')
    const known = this.#runs.get(key)
    if (known !== undefined) {
      letGo(source)
      return known
    }
    const resolved = resolveRunOptions(options, key)
    const channel = this.#createRunChannel(key, resolved.channel)
    const run = new Run(key, channel, source, resolved, this.#shared.broker, this.#shared.onError)
    this.#runs.set(key, run)
    run.ended.then(({ state }) => {
      const forget = () => { if (this.#runs.get(key) === run) this.#runs.delete(key) }
      if (state === 'elsewhere') forget()
      else setTimeout(forget, resolved.forgetAfter).unref()
    })
    return run
  }

  attach (key: string, options: Pick<RunOptions, 'events'> = {}): AttachedRun {
    checkName(key, 'the key of a run')
    const known = this.#runs.get(key)
    if (known !== undefined) return known
    const { channel } = resolveRunOptions(options, key)
    return new AttachedRun(key, this.#registry.get(RUN_PREFIX + key, () => this.#createRunChannel(key, channel)))
  }

  async close (): Promise<void> {
    await Promise.all([...this.#runs.values()].map((run) => run.stop()))
    for (const iteration of this.#shared.iterations) iteration.end()
  }

  #create (name: string, options: ResolvedChannelOptions): Channel {
    return new Channel(name, options, this.#payloadsOf(name, options.events), this.#shared)
  }

  #createRunChannel (key: string, options: ResolvedChannelOptions): Channel {
    const name = RUN_PREFIX + key
    const payloads = this.#payloadsOf(name, options.events)
    return new Channel(name, options, payloads, this.#shared, () => new UnknownRun(key))
  }

  #payloadsOf (name: string, events: Events | undefined): Payloads | undefined {
    if (events === undefined) return undefined
    try {
      return this.#compiled.of(events)
    } catch (error) {
      throw Object.assign(new InvalidSchema(`channel '${name}'`, (error as Error).message), { cause: error })
    }
  }
}

function warn (error: unknown, message: string): void {
  process.emitWarning(`fastify-typed-sse: ${message}: ${String(error)}`)
}
