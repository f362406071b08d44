/**
 * A run: a source that outlives any connection, recorded as a channel. It goes on whether or not anybody reads, and
 * whoever reads gets it from its start, or from where it was.
 */
import { setTimeout as wait } from 'node:timers/promises'
import type { Hold } from '../broker.ts'
import { BEGINNING } from '../entry-id.ts'
import { InvalidEvent, RunLost, type SseErrorCode } from '../errors.ts'
import { codeOf } from '../log.ts'
import { atOnce, checkStep, isThenable, letGo, openSource, type Source } from '../source.ts'
import { EVENTS_PER_TURN, nextTurn } from '../turns.ts'
import type { Channel, HubParts } from './channel.ts'
import { checkSubscribeOptions, type ResolvedRunOptions, type RunEnd } from './options.ts'
import { kSubscribe, Subscription, Subscribable, type Subject, type SubscribeOptions } from './subscription.ts'

/** A lease is renewed so many times while it lasts. */
const RENEWALS = 3

/** Milliseconds after which a run that could not be closed is tried again. */
const AGAIN = 500

/** A run as its readers see it. */
export class AttachedRun extends Subscribable {
  readonly key: string
  /** Ends the run with what it has recorded so far; its readers get that, then the end. */
  readonly stop: () => Promise<void>
  readonly #subject: Subject

  /** @param types the event types that can come; undefined: any */
  constructor (key: string, channel: Channel, types: ReadonlySet<string> | undefined, stop: () => Promise<void>) {
    super()
    this.key = key
    this.stop = stop
    const { iterations, compress } = channel
    this.#subject = { types, iterations, compress, read: (options) => channel.read(options) }
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
  readonly #parts: HubParts
  readonly #hold: Hold
  #renewal: NodeJS.Timeout | undefined
  /** `performance.now()` of when the lease was asked for that is known to have been given. */
  #renewedAt = performance.now()
  /** `performance.now()` of when it was first refused since then. */
  #refusedAt: number | undefined
  #settle!: (end: RunEnd | Promise<RunEnd>) => void
  /** Set once it is known that this run is the one that records. */
  #source: Source | undefined
  /** The source has completed or failed by itself. */
  #settled = false
  /** Whether it is this run that records, as far as is known. */
  isRecorder = false
  /** Its channel may be closed by others, which stops it. */
  #listening: { stop (): void } | undefined
  #stopped = false
  #ending = false

  /** @throws {InvalidEvent} its last will cannot be recorded */
  constructor (key: string, channel: Channel, source: unknown, options: ResolvedRunOptions, parts: HubParts) {
    super(key, channel, channel.types, async () => {
      const { state } = await this.release()
      if (state === 'elsewhere') await stopElsewhere(channel, options.forgetAfter)
    })
    this.#channel = channel
    this.#options = options
    this.#parts = parts
    const { lease, forgetAfter } = options
    const will = options.will === undefined ? undefined : channel.toMessage(options.will)
    // A hub that tries again, not knowing whether it has started the run, is the same owner.
    this.#hold = { owner: parts.id, lease, will, forgetAfter }
    this.ended = new Promise((resolve) => { this.#settle = resolve })
    this.#begin(source)
  }

  /** Stops the run if it is recorded here; one that is recorded elsewhere goes on. */
  release (): Promise<RunEnd> {
    this.#stopped = true
    if (this.#source !== undefined) this.#finish({ state: 'stopped' })
    return this.ended
  }

  /** What another hub records is not this run's to open, to write to or to close. */
  async #begin (source: unknown): Promise<void> {
    let first: boolean
    try {
      first = await this.#parts.broker.open(this.#channel.name, this.#hold)
    } catch (error) {
      letGo(source)
      this.#parts.onError(error, `run '${this.key}' could not be started`)
      this.#channel.fail(error)
      return this.#settle({ state: 'failed', error })
    }
    this.isRecorder = first
    if (first && !this.#stopped) return this.#run(source)
    letGo(source)
    if (first) this.#finish({ state: 'stopped' })
    else this.#settle({ state: 'elsewhere' })
  }

  async #run (source: unknown): Promise<void> {
    try {
      this.#source = openSource(source, undefined)
      // A source function may have stopped its own run.
      if (this.#stopped) return this.#finish({ state: 'stopped' })
      this.#renewLater()
      this.#listening = await this.#channel.listen({
        closed: () => this.#closedByOthers(),
        // The engine may have forgotten by whom the channel is held.
        lost: () => this.#renew()
      })
      if (this.#ending) this.#listening.stop()
      await this.#record(this.#source)
    } catch (error) {
      this.#fail(error)
    }
  }

  #renewLater (): void {
    this.#renewal = setTimeout(() => this.#renew(), this.#hold.lease / RENEWALS).unref()
  }

  /** Tried again and again while the broker is out of reach: the engine knows whether the lease has run out. */
  async #renew (): Promise<void> {
    const asked = performance.now()
    const held = await this.#parts.broker.open(this.#channel.name, this.#hold).catch(() => undefined)
    if (held === true) [this.#renewedAt, this.#refusedAt] = [asked, undefined]
    if (held === false) this.#refusedAt ??= performance.now()
    // Who is refused may not have been told yet that others have closed the channel.
    const seen = held === false ? await this.#channel.look().catch(() => undefined) : undefined
    if (this.#ending) return
    if (seen !== undefined) return seen.closed ? this.#closedByOthers() : this.#lose()
    clearTimeout(this.#renewal)
    this.#renewLater()
  }

  /** They have stopped it; or they have taken this process for dead, if one renewal after the other has failed. */
  #closedByOthers (): void {
    const isHeld = (this.#refusedAt ?? performance.now()) - this.#renewedAt < this.#hold.lease * (1 - 1 / RENEWALS)
    if (isHeld) this.#finish({ state: 'stopped' })
    else this.#lose()
  }

  /** Its channel is no longer this run's to write to, nor to close. */
  #lose (): void {
    if (this.#ending) return
    const error = new RunLost(this.key, this.#hold.lease)
    this.#parts.onError(error, `run '${this.key}' is lost`)
    this.isRecorder = false
    this.#letGo()
    this.#source?.stop(false)
    this.#settle({ state: 'failed', error })
  }

  async #record (source: Source): Promise<void> {
    for (let turn = 1; !this.#ending; turn++) {
      let step
      try {
        const next = source.next()
        step = checkStep(isThenable(next) ? await next : next)
        this.#settled = Boolean(step.done)
      } catch (error) {
        this.#settled = true
        return this.#fail(error)
      }
      if (this.#ending) return
      if (this.#settled) return this.#finish({ state: 'done' })
      await this.#publish(step.value)
      if (turn % EVENTS_PER_TURN === 0) await nextTurn()
    }
  }

  async #publish (event: unknown): Promise<void> {
    const { owner } = this.#hold
    try {
      await this.#channel.record(event, owner).catch(async (error: unknown) => {
        // An engine that has lost its memory knows nothing of the owner, either.
        if (!isClosed(error) || !await this.#parts.broker.open(this.#channel.name, this.#hold)) throw error
        await this.#channel.record(event, owner)
      })
    } catch (error) {
      // Asked here, as the source may publish to other channels, and fail where one of those is closed.
      if (isClosed(error)) return this.#closedByOthers()
      if (this.#options.onInvalidEvent === 'fail' || !(error instanceof InvalidEvent)) throw error
      this.#parts.onError(error, `invalid event of run '${this.key}' dropped`)
    }
  }

  #fail (error: unknown): void {
    if (this.#ending) return
    this.#parts.onError(error, `run '${this.key}' has failed`)
    this.#finish({ state: 'failed', error })
  }

  /** The one way to end; only the first call counts. */
  #finish (end: RunEnd): void {
    if (this.#ending) return
    this.#letGo()
    this.#source?.stop(this.#settled)
    this.#settle(this.#close(end))
  }

  #letGo (): void {
    this.#ending = true
    clearTimeout(this.#renewal)
    this.#listening?.stop()
  }

  async #close (end: RunEnd): Promise<RunEnd> {
    try {
      const last = atOnce(this.#options.onEnd?.(end), 'onEnd must return its event itself, not a promise')
      if (last !== undefined) await this.#channel.record(last, this.#hold.owner)
    } catch (error) {
      if (!isClosed(error)) this.#parts.onError(error, `run '${this.key}' could not record its last event`)
    }
    try {
      await this.#closeChannel()
    } catch (error) {
      this.#parts.onError(error, `run '${this.key}' could not be closed`)
    }
    return end
  }

  /** Tried until the lease has run out: then the engine closes it. */
  async #closeChannel (): Promise<void> {
    for (const deadline = performance.now() + this.#hold.lease; ;) {
      try {
        return await this.#channel.finish(this.#options.forgetAfter, this.#hold.owner)
      } catch (error) {
        if (performance.now() + AGAIN > deadline) throw error
        await wait(AGAIN, undefined, { ref: false })
      }
    }
  }
}

/** Who records a run notices that its channel is closed. @throws (rejects) {UnknownRun} */
export async function stopElsewhere (channel: Channel, forgetAfter: number): Promise<void> {
  await channel.mustBeKnown()
  await channel.finish(forgetAfter)
}

/** Another hub has stopped the run. */
function isClosed (error: unknown): boolean {
  return codeOf(error) === ('FST_SSE_CHANNEL_CLOSED' satisfies SseErrorCode)
}
