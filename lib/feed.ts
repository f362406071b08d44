/**
 * What a stream makes of its source: the text of each value, of its completion and of its failure, as the route's
 * schemas and the options `finite`, `onInvalidEvent` and `onError` have it.
 */
import type { Connection } from './connection.ts'
import { encodeEvent, encodeLastEvent } from './encoder.ts'
import { finishedFrame } from './finite.ts'
import { logError, type Failure } from './log.ts'
import type { Payloads } from './payload.ts'
import { atOnce } from './source.ts'
import type { EndReason } from './stats.ts'

const PROMISE = 'onError must return its event itself: a promise comes too late, as the stream ends now'

export class Feed {
  readonly #connection: Connection
  readonly #payloads: Payloads | undefined
  /** What failed before the first event and before the response was handed over: an answer of its own is still possible. */
  early: Failure | undefined

  constructor (connection: Connection, payloads: Payloads | undefined) {
    this.#connection = connection
    this.#payloads = payloads
  }

  /**
   * The text of one value; undefined to leave it out.
   * @throws {InvalidEvent} where that is to end the stream
   */
  textOf (value: unknown): string | undefined {
    const { options, request } = this.#connection
    try {
      return encodeEvent(value, this.#payloads)
    } catch (err) {
      if (options.onInvalidEvent === 'fail') throw err
      this.#connection.count('dropped', { error: err })
      logError(request.log, 'warn', err, 'invalid event dropped')
      return undefined
    }
  }

  /** The text to send last when the source has completed. */
  textOfCompletion (): string {
    const { options, request } = this.#connection
    return options.finite ? finishedFrame(request.headers['user-agent']) : ''
  }

  /** Ends the stream after a failure. */
  fail (reason: EndReason, error: unknown): void {
    this.#connection.finish(reason, () => this.#textOfFailure(error), { error })
  }

  /** The text to send last after a failure; none where Fastify's error handler is to answer. */
  #textOfFailure (error: unknown): string {
    if (this.#connection.unanswered) {
      this.early = { error }
      return ''
    }
    const { options, request } = this.#connection
    try {
      const last: unknown = atOnce(options.onError?.(error, request), PROMISE)
      if (last === undefined) return ''
      return encodeLastEvent(last, this.#payloads)
    } catch (err) {
      logError(request.log, 'error', err, 'onError has given no last event')
      return ''
    }
  }
}
