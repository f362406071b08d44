/** A channel: published to by anybody who has it, read by any number, each from where it wants. */
import type { Broker, Listener, Listening, Message } from '../broker.ts'
import type { OnError } from '../log.ts'
import type { Payloads } from '../payload.ts'
import { Cursor, type OnLag, type Readable, type ReadOptions } from './cursor.ts'
import { answerOf } from './filter.ts'
import { FramedEvent } from './framed-event.ts'
import type { Iterations } from './iteration.ts'
import { toMessage } from './message.ts'
import { checkSubscribeOptions, type ResolvedChannelOptions } from './options.ts'
import { Replica } from './replica.ts'
import { Snapshot } from './snapshot.ts'
import { kSubscribe, Subscription, Subscribable, type Subject, type SubscribeOptions } from './subscription.ts'

/** What the channels of one hub share. */
export interface HubParts {
  /** By which its runs are known to be its own. */
  readonly id: string
  readonly broker: Broker
  readonly iterations: Iterations
  /** Tells the application of an error of its own function that nobody waits for. */
  readonly onError: OnError
}

const IGNORE: Listener = { entry: noop, closed: noop, failed: noop, lost: noop }

export class Channel extends Subscribable implements Subject, Readable {
  readonly name: string
  readonly options: ResolvedChannelOptions
  readonly types: ReadonlySet<string> | undefined
  readonly unknown: () => Error | undefined
  onPublish: () => void = noop
  readonly #parts: HubParts
  readonly #payloads: Payloads | undefined
  /** To all of it, from now on. */
  readonly #subscription = new Subscription(this, {})
  #publishedAt = -Infinity
  #closed = false
  /** While somebody reads here. */
  #replica: Replica | undefined

  /** @param unknown why it cannot be read where the broker does not know it; by default a channel is there by being read */
  constructor (
    name: string, options: ResolvedChannelOptions, payloads: Payloads | undefined, parts: HubParts,
    unknown: () => Error | undefined = () => undefined
  ) {
    super()
    this.name = name
    this.unknown = unknown
    this.options = options
    this.#payloads = payloads
    this.types = payloads && new Set(payloads.keys())
    this.#parts = parts
  }

  /**
   * @returns the ID of the event, once the broker has it
   * @throws {InvalidEvent | ChannelClosed} and what the broker rejects with
   */
  publish (event: unknown): Promise<string> {
    return this.record(event, undefined)
  }

  /**
   * As `publish`, which an application may give to others, who call it with arguments of their own.
   * @param owner who is to hold the channel
   */
  async record (event: unknown, owner: string | undefined): Promise<string> {
    const message = this.toMessage(event)
    this.#publishedAt = performance.now()
    this.onPublish()
    const id = await this.#parts.broker.append(this.name, message, this.options.history, owner)
    // Once it was forgotten, its name was free again.
    this.#closed = false
    return id
  }

  /** @throws {InvalidEvent} */
  toMessage (event: unknown): Message {
    return toMessage(event, this.#payloads)
  }

  subscribe (options: SubscribeOptions = {}): Subscription {
    checkSubscribeOptions(options, `a subscription to channel '${this.name}'`)
    return new Subscription(this, options)
  }

  /** Whether something that was published here may still be retained, as far as is known without asking the broker. */
  get mayRetain (): boolean {
    const { age } = this.options.history
    return !this.#closed && (age === false || performance.now() - this.#publishedAt < age)
  }

  close (): Promise<void> {
    return this.finish(this.options.history.age)
  }

  /** @param owner who is to hold the channel; undefined: whoever does */
  async finish (forgetAfter: number | false, owner?: string): Promise<void> {
    await this.#parts.broker.close(this.name, forgetAfter, owner)
    this.#closed = true
  }

  /** @throws (rejects) what is to be told of a channel that nobody has made known */
  async mustBeKnown (): Promise<void> {
    const { known } = await this.look()
    const unknown = known ? undefined : this.unknown()
    if (unknown !== undefined) throw unknown
  }

  /** What the broker has of it now. */
  async look (): Promise<Pick<Listening, 'known' | 'closed'>> {
    const listening = await this.listen({})
    listening.stop()
    return listening
  }

  /** Tells what a listener is told, `closed` also where the channel was closed before. */
  async listen (listener: Partial<Listener>): Promise<Listening> {
    const listening = await this.#parts.broker.listen(this.name, { ...IGNORE, ...listener })
    if (listening.closed) listener.closed?.()
    return listening
  }

  /** Who reads it here is given this error after what is there. */
  fail (error: unknown): void {
    this.#replica?.fail(error)
  }

  [kSubscribe] (): Subscription {
    return this.#subscription
  }

  get iterations (): Iterations {
    return this.#parts.iterations
  }

  get compress (): boolean {
    return this.options.compress
  }

  get onLag (): OnLag {
    return this.options.onLag
  }

  openSnapshot (): Snapshot | undefined {
    const { snapshot } = this.options
    return snapshot && new Snapshot(snapshot, (value) => new FramedEvent('', this.toMessage(value)))
  }

  read (options: ReadOptions): Cursor {
    return new Cursor(this, options)
  }

  replica (): Replica {
    if (this.#replica !== undefined) return this.#replica
    const replica: Replica = new Replica(this.#parts.broker, this.name, this.options.history, this.#keyOf(), () => {
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
        return answerOf(key, event, 'key') ?? event
      } catch (error) {
        this.#parts.onError(error, `the key function of channel '${this.name}' has failed`)
        return event
      }
    }
  }
}

function noop () {}
