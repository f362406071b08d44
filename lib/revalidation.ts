/** Asks every so often whether a client may still have its stream. Knows nothing of how a stream ends. */
import type { FastifyRequest } from 'fastify'
import { describe } from './describe.ts'
import { draw } from './durations.ts'
import { InvalidOption } from './errors.ts'
import { logError, type Failure } from './log.ts'
import type { ResolvedOptions } from './options.ts'

/** @param failure why there is no yes, where the application has not simply said no */
type OnRevoked = (failure?: Failure) => void

type Revalidate = Exclude<ResolvedOptions['revalidate'], false>

export class Revalidation {
  readonly #request: FastifyRequest
  readonly #revalidate: Revalidate
  readonly #every: number
  readonly #onRevoked: OnRevoked
  #timer: NodeJS.Timeout
  /** The last answer has not come yet. */
  #asking = false
  #stopped = false

  constructor (request: FastifyRequest, revalidate: Revalidate, every: number, onRevoked: OnRevoked) {
    this.#request = request
    this.#revalidate = revalidate
    this.#every = every
    this.#onRevoked = onRevoked
    // Streams that were opened together are not asked about together.
    this.#timer = this.#askAfter(draw({ min: 1, max: every }))
  }

  stop (): void {
    this.#stopped = true
    clearTimeout(this.#timer)
  }

  #askAfter (ms: number): NodeJS.Timeout {
    return setTimeout(() => this.#ask(), ms).unref()
  }

  /** Only `true` is a yes: an answer that is forgotten, fails or never comes must not leave a client in. */
  #ask (): void {
    // After the event loop was blocked timers come first, then the answers that were waiting.
    if (this.#asking) setImmediate(() => this.#isLate())
    else this.#askNow()
  }

  #isLate (): void {
    if (this.#stopped) return
    if (this.#asking) this.#complain(`has not answered within ${this.#every} ms`)
    else this.#askNow()
  }

  #askNow (): void {
    this.#asking = true
    this.#timer = this.#askAfter(this.#every)
    this.#answer().then((answer) => {
      this.#asking = false
      if (this.#stopped) return
      if (answer === false) this.#revoke()
      else if (answer !== true) this.#complain(`must return true or false, got ${describe(answer)}`)
    }, (error: unknown) => this.#revoke({ error }))
  }

  /** What is no answer at all is a mistake of the application's, and not what revokes a stream. */
  #complain (fault: string): void {
    logError(this.#request.log, 'error', new InvalidOption(`revalidate ${fault}`), 'event stream revoked without an answer')
    this.#revoke()
  }

  async #answer (): Promise<unknown> {
    return this.#revalidate(this.#request)
  }

  #revoke (failure?: Failure): void {
    if (this.#stopped) return
    this.stop()
    this.#onRevoked(failure)
  }
}
