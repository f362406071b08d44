/** Asks every so often whether a client may still have its stream. Knows nothing of how a stream ends. */
import type { FastifyRequest } from 'fastify'
import { describe } from './describe.ts'
import { draw } from './durations.ts'
import type { ResolvedOptions } from './options.ts'

/** What a failed check says to the log. */
type OnRevoked = (error: unknown) => void

type Revalidate = Exclude<ResolvedOptions['revalidate'], false>

export class Revalidation {
  readonly #request: FastifyRequest
  readonly #revalidate: Revalidate
  readonly #every: number
  readonly #onRevoked: OnRevoked
  #timer: NodeJS.Timeout
  /** The last answer has not come yet. */
  #asking = false

  /** @param onRevoked called once, unless it is stopped before; with what was thrown, or what was wrong with the answer */
  constructor (request: FastifyRequest, revalidate: Revalidate, every: number, onRevoked: OnRevoked) {
    this.#request = request
    this.#revalidate = revalidate
    this.#every = every
    this.#onRevoked = onRevoked
    // Streams that were opened together are not asked about together.
    this.#timer = this.#askAfter(draw({ min: 1, max: every }))
  }

  stop (): void {
    clearTimeout(this.#timer)
  }

  #askAfter (ms: number): NodeJS.Timeout {
    return setTimeout(() => this.#ask(), ms).unref()
  }

  /** Only `true` is a yes: an answer that is forgotten, fails or never comes must not leave a client in. */
  #ask (): void {
    if (this.#asking) return this.#onRevoked(new Error(`revalidate has not answered within ${this.#every} ms`))
    this.#asking = true
    this.#timer = this.#askAfter(this.#every)
    this.#answer().then((answer) => {
      this.#asking = false
      if (answer === false) this.#revoke(undefined)
      else if (answer !== true) this.#revoke(new TypeError(`revalidate must return true or false, got ${describe(answer)}`))
    }, (error: unknown) => this.#revoke(error))
  }

  async #answer (): Promise<unknown> {
    return this.#revalidate(this.#request)
  }

  #revoke (error: unknown): void {
    this.stop()
    this.#onRevoked(error)
  }
}
