/** A channel: published to by anybody who has it, read by any number, each from where it wants. */
import type { Broker } from '../broker.ts'
import type { Payloads } from '../payload.ts'
import { Cursor, type OnLag, type Readable, type Start } from './cursor.ts'
import { FramedEvent } from './framed-event.ts'
import type { Iterations } from './iteration.ts'
import { toMessage } from './message.ts'
import { checkSubscribeOptions, type ResolvedChannelOptions } from './options.ts'
import { Replica } from './replica.ts'
import { kSubscribe, Subscription, type Subject, type Subscribable, type SubscribeOptions } from './subscription.ts'

/** What the channels of one hub share. */
export interface Shared {
  readonly broker: Broker
  readonly iterations: Iterations
  /** Tells the application of an error of its own function that nobody waits for. */
  readonly onError: (error: unknown, message: string) => void
}

export class Channel implements Subscribable, Subject, Readable {
  readonly name: string
  readonly options: ResolvedChannelOptions
  readonly types: ReadonlySet<string> | undefined
  readonly unknown: (() => Error) | undefined
  readonly #shared: Shared
  readonly #payloads: Payloads | undefined
  /** While somebody reads here. */
  #replica: Replica | undefined

  /** @param unknown what a reader is told where nobody has made the channel known; undefined: it is there by being read */
  constructor (
    name: string, options: ResolvedChannelOptions, payloads: Payloads | undefined, shared: Shared,
    unknown?: () => Error
  ) {
    this.name = name
    this.unknown = unknown
    this.options = options
    this.#payloads = payloads
    this.types = payloads && new Set(payloads.keys())
    this.#shared = shared
  }

  /**
   * @returns the ID of the event, once the broker has it
   * @throws {InvalidEvent | ChannelClosed} and what the broker rejects with
   */
  async publish (event: unknown): Promise<string> {
    return this.#shared.broker.append(this.name, toMessage(event, this.#payloads), this.options.history)
  }

  subscribe (options: SubscribeOptions = {}): Subscription {
    checkSubscribeOptions(options, `a subscription to channel '${this.name}'`)
    return new Subscription(this, options)
  }

  async close (forgetAfter: number | false = this.options.history.age): Promise<void> {
    await this.#shared.broker.close(this.name, forgetAfter)
  }

  /** @throws (rejects) what is to be told of a channel that nobody has made known */
  async mustBeKnown (): Promise<void> {
    const listening = await this.#shared.broker.listen(this.name, { entry: noop, closed: noop, lost: noop })
    listening.stop()
    if (!listening.known && this.unknown !== undefined) throw this.unknown()
  }

  /** Calls back when the channel is closed, whoever closes it. */
  async onceClosed (callback: () => void): Promise<{ stop (): void }> {
    const listening = await this.#shared.broker.listen(this.name, { entry: noop, closed: callback, lost: noop })
    if (listening.closed) callback()
    return listening
  }

  [kSubscribe] (): Subscription {
    return new Subscription(this, {})
  }

  get iterations (): Iterations {
    return this.#shared.iterations
  }

  get onLag (): OnLag {
    return this.options.onLag
  }

  get snapshot (): ResolvedChannelOptions['snapshot'] {
    return this.options.snapshot
  }

  snapshotEvent (value: unknown): FramedEvent {
    return new FramedEvent('', toMessage(value, this.#payloads))
  }

  read (start: Start): Cursor {
    return new Cursor(this, start)
  }

  replica (): Replica {
    if (this.#replica !== undefined) return this.#replica
    const replica: Replica = new Replica(this.#shared.broker, this.name, this.options.history, this.#keyOf(), () => {
      if (this.#replica === replica) this.#replica = undefined
    })
    this.#replica = replica
    return replica
  }

  #keyOf (): ((event: FramedEvent) => unknown) | undefined {
    const { key } = this.options
    if (key === undefined) return undefined
    return (event) => {
      // An event without a key is superseded by no other.
      try {
        return key(event.seen) ?? event
      } catch (error) {
        this.#shared.onError(error, `the key function of channel '${this.name}' has failed`)
        return event
      }
    }
  }
}

function noop () {}
