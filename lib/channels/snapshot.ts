/** The state that a channel's events change, given as events of its own, as fast as its reader takes them. */
import { InvalidSource } from '../errors.ts'
import type { Failure } from '../log.ts'
import { checkStep, disown, isThenable, letGo, openSource, type Source } from '../source.ts'
import { EVENTS_PER_TURN, nextTurn } from '../turns.ts'
import type { FramedEvent } from './framed-event.ts'

export class Snapshot {
  readonly #controller = new AbortController()
  /** What the application's function has returned, or promised. */
  readonly #state: unknown
  readonly #toEvent: (value: unknown) => FramedEvent
  #source: Source | undefined
  /** What was thrown after events that are still to be given. */
  #failure: Failure | undefined
  /** Events given in this turn of the event loop, as far as is known. */
  #given = 0
  #asked = false
  /** The source has completed or failed by itself. */
  #settled = false
  #ended = false

  /**
   * @param toEvent throws where a value is no event
   * @throws what the function throws
   */
  constructor (state: (context: { signal: AbortSignal }) => unknown, toEvent: (value: unknown) => FramedEvent) {
    this.#state = state({ signal: this.#controller.signal })
    this.#toEvent = toEvent
    // It may take long until it is asked for, and it may never be: what it rejects with is told then.
    if (isThenable(this.#state)) disown(this.#state)
  }

  /** Some events; undefined at the end. Of a synchronous source several, so that it neither waits nor keeps others waiting. */
  async next (): Promise<FramedEvent[] | undefined> {
    this.#asked = true
    if (this.#given >= EVENTS_PER_TURN) {
      this.#given = 0
      await nextTurn()
    }
    if (this.#failure !== undefined) throw this.#failure.error
    const events: FramedEvent[] = []
    try {
      this.#source ??= openSource(returned(await this.#state), undefined)
      if (this.#ended) this.#source.stop(false)
      await this.#gather(this.#source, events)
    } catch (error) {
      this.stop()
      if (events.length === 0) throw error
      this.#failure = { error }
    }
    this.#given += events.length
    return events.length > 0 ? events : undefined
  }

  stop (): void {
    this.#ended = true
    this.#controller.abort()
    if (this.#source !== undefined) this.#source.stop(this.#settled)
    else if (!this.#asked) Promise.resolve(this.#state).then(letGo, () => {})
  }

  async #gather (source: Source, events: FramedEvent[]): Promise<void> {
    while (!this.#ended && events.length < EVENTS_PER_TURN) {
      let next, step
      try {
        next = source.next()
        step = checkStep(isThenable(next) ? await next : next)
        this.#settled = Boolean(step.done)
      } catch (error) {
        this.#settled = true
        throw error
      }
      if (this.#settled) return this.stop()
      events.push(this.#toEvent(step.value))
      if (isThenable(next)) return
    }
  }
}

/** @throws {InvalidSource} as `openSource`, but who reads is not to look for the mistake in what reply.sse was given */
function returned (state: unknown): unknown {
  if (state === undefined) throw new InvalidSource('the snapshot function has returned undefined: return its events')
  return state
}
