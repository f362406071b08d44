/**
 * A run: a source that outlives any connection, recorded as a channel. It goes on whether or not anybody reads, and
 * whoever reads gets it from its start, or from where he was.
 */
import type { Broker } from '../broker.ts'
import { BEGINNING } from '../entry-id.ts'
import { InvalidEvent } from '../errors.ts'
import { isThenable, letGo, openSource, type Source } from '../source.ts'
import type { Channel } from './channel.ts'
import { checkSubscribeOptions, type ResolvedRunOptions } from './options.ts'
import { kSubscribe, Subscription, type Subscribable, type SubscribeOptions } from './subscription.ts'

/** Events that are recorded in one turn of the event loop. */
const EVENTS_PER_TURN = 64

/** How a run has ended. */
export interface RunEnd {
  /** 'elsewhere': another process, or another hub, records it. */
  state: 'done' | 'stopped' | 'failed' | 'elsewhere'
  /** What has failed. */
  error?: unknown
}

/** A run as its readers see it. */
export class AttachedRun implements Subscribable {
  readonly key: string
  protected readonly channel: Channel

  constructor (key: string, channel: Channel) {
    this.key = key
    this.channel = channel
  }

  subscribe (options: SubscribeOptions = {}): Subscription {
    checkSubscribeOptions(options, `a subscription to run '${this.key}'`)
    return new Subscription(this.channel, { ...options, after: options.after ?? BEGINNING })
  }

  [kSubscribe] (): Subscription {
    return this.subscribe()
  }
}

/** A run as who has started it sees it. */
export class Run extends AttachedRun {
  readonly ended: Promise<RunEnd>
  readonly #broker: Broker
  readonly #options: ResolvedRunOptions
  readonly #onError: (error: unknown, message: string) => void
  #settle!: (end: RunEnd | Promise<RunEnd>) => void
  #source: Source | undefined
  #ending = false

  constructor (
    key: string, channel: Channel, source: unknown, options: ResolvedRunOptions,
    broker: Broker, onError: (error: unknown, message: string) => void
  ) {
    super(key, channel)
    this.#options = options
    this.#broker = broker
    this.#onError = onError
    this.ended = new Promise((resolve) => { this.#settle = resolve })
    this.#begin(source)
  }

  /** Ends the run with what it has recorded so far; its readers get that, then the end. */
  async stop (): Promise<void> {
    this.#finish({ state: 'stopped' })
    await this.ended
  }

  async #begin (source: unknown): Promise<void> {
    try {
      const first = await this.#broker.open(this.channel.name)
      if (this.#ending) return letGo(source)
      if (!first) {
        letGo(source)
        this.#ending = true
        return this.#settle({ state: 'elsewhere' })
      }
      this.#source = openSource(source, undefined)
      await this.#record(this.#source)
    } catch (error) {
      await this.#fail(error)
    }
  }

  async #record (source: Source): Promise<void> {
    for (let turn = 1; !this.#ending; turn++) {
      const next = source.next()
      const step = isThenable(next) ? await next : next
      if (this.#ending) return
      if (step.done === true) return this.#finish({ state: 'done' })
      await this.#publish(step.value)
      if (turn % EVENTS_PER_TURN === 0) await new Promise(setImmediate)
    }
  }

  async #publish (event: unknown): Promise<void> {
    try {
      await this.channel.publish(event)
    } catch (error) {
      if (this.#options.onInvalidEvent === 'fail' || !(error instanceof InvalidEvent)) throw error
      this.#onError(error, `invalid event of run '${this.key}' dropped`)
    }
  }

  async #fail (error: unknown): Promise<void> {
    if (this.#ending) return
    this.#onError(error, `run '${this.key}' has failed`)
    try {
      const last = this.#options.onError?.(error)
      if (last !== undefined) await this.channel.publish(last)
    } catch (failure) {
      this.#onError(failure, `run '${this.key}' could not record its last event`)
    }
    this.#finish({ state: 'failed', error })
  }

  /** The one way to end; only the first call counts. */
  #finish (end: RunEnd): void {
    if (this.#ending) return
    this.#ending = true
    this.#source?.stop(end.state === 'done')
    this.#settle(this.#close(end))
  }

  async #close (end: RunEnd): Promise<RunEnd> {
    try {
      await this.channel.close(this.#options.forgetAfter)
    } catch (error) {
      this.#onError(error, `run '${this.key}' could not be closed`)
    }
    return end
  }
}
