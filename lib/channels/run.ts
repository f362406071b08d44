/**
 * A run: a source that outlives any connection, recorded as a channel. It goes on whether or not anybody reads, and
 * whoever reads gets it from its start, or from where he was.
 */
import { BEGINNING } from '../entry-id.ts'
import { InvalidEvent } from '../errors.ts'
import { isThenable, letGo, openSource, type Source } from '../source.ts'
import type { Channel, Shared } from './channel.ts'
import { checkSubscribeOptions, type ResolvedRunOptions } from './options.ts'
import { kSubscribe, Subscription, type Subject, type Subscribable, type SubscribeOptions } from './subscription.ts'

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
  /** Ends the run with what it has recorded so far; its readers get that, then the end. */
  readonly stop: () => Promise<void>
  readonly #subject: Subject

  /** @param types the event types that can come; undefined: any */
  constructor (key: string, channel: Channel, types: ReadonlySet<string> | undefined, stop: () => Promise<void>) {
    this.key = key
    this.stop = stop
    this.#subject = { types, iterations: channel.iterations, read: (start) => channel.read(start) }
  }

  subscribe (options: SubscribeOptions = {}): Subscription {
    checkSubscribeOptions(options, `a subscription to run '${this.key}'`)
    return new Subscription(this.#subject, { ...options, after: options.after ?? BEGINNING })
  }

  [kSubscribe] (): Subscription {
    return this.subscribe()
  }
}

/** A run as who has started it sees it. */
export class Run extends AttachedRun {
  readonly ended: Promise<RunEnd>
  readonly #channel: Channel
  readonly #options: ResolvedRunOptions
  readonly #shared: Shared
  #settle!: (end: RunEnd | Promise<RunEnd>) => void
  /** Set once it is known that this run is the one that records. */
  #source: Source | undefined
  /** Its channel may be closed by others, which stops it. */
  #listening: { stop (): void } | undefined
  #stopped = false
  #ending = false

  constructor (key: string, channel: Channel, source: unknown, options: ResolvedRunOptions, shared: Shared) {
    super(key, channel, channel.types, () => this.#stop())
    this.#channel = channel
    this.#options = options
    this.#shared = shared
    this.ended = new Promise((resolve) => { this.#settle = resolve })
    this.#begin(source)
  }

  async #stop (): Promise<void> {
    this.#stopped = true
    if (this.#source !== undefined) this.#finish({ state: 'stopped' })
    await this.ended
  }

  /** What another hub records is not this run's to open, to write to or to close. */
  async #begin (source: unknown): Promise<void> {
    let first: boolean
    try {
      first = await this.#shared.broker.open(this.#channel.name)
    } catch (error) {
      letGo(source)
      this.#shared.onError(error, `run '${this.key}' could not be started`)
      return this.#settle({ state: 'failed', error })
    }
    if (first && !this.#stopped) return this.#run(source)
    letGo(source)
    if (first) this.#finish({ state: 'stopped' })
    else this.#settle({ state: 'elsewhere' })
  }

  async #run (source: unknown): Promise<void> {
    try {
      this.#source = openSource(source, undefined)
      this.#listening = await this.#channel.onceClosed(() => this.#finish({ state: 'stopped' }))
      if (this.#ending) this.#listening.stop()
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
      await this.#channel.publish(event)
    } catch (error) {
      if (this.#options.onInvalidEvent === 'fail' || !(error instanceof InvalidEvent)) throw error
      this.#shared.onError(error, `invalid event of run '${this.key}' dropped`)
    }
  }

  async #fail (error: unknown): Promise<void> {
    if (this.#ending) return
    this.#shared.onError(error, `run '${this.key}' has failed`)
    try {
      const last = this.#options.onError?.(error)
      if (last !== undefined) await this.#channel.publish(last)
    } catch (failure) {
      this.#shared.onError(failure, `run '${this.key}' could not record its last event`)
    }
    this.#finish({ state: 'failed', error })
  }

  /** The one way to end; only the first call counts. */
  #finish (end: RunEnd): void {
    if (this.#ending) return
    this.#ending = true
    this.#listening?.stop()
    this.#source?.stop(end.state === 'done')
    this.#settle(this.#close(end))
  }

  async #close (end: RunEnd): Promise<RunEnd> {
    try {
      await this.#channel.close(this.#options.forgetAfter)
    } catch (error) {
      this.#shared.onError(error, `run '${this.key}' could not be closed`)
    }
    return end
  }
}
