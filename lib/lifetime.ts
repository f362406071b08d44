/** How long a stream may be open: until `maxDuration` has passed, or `revalidate` does not say that it may go on. */
import type { FastifyRequest } from 'fastify'
import { draw } from './durations.ts'
import type { Failure } from './log.ts'
import type { ResolvedOptions } from './options.ts'
import { Revalidation } from './revalidation.ts'

type End = (reason: 'max-duration' | 'revoked', failure?: Failure) => void

export class Lifetime {
  readonly #timer: NodeJS.Timeout | undefined
  readonly #revalidation: Revalidation | undefined

  /** @param end called when it is over, for either reason */
  constructor (request: FastifyRequest, { maxDuration, revalidate, revalidateEvery }: ResolvedOptions, end: End) {
    if (maxDuration !== false) this.#timer = setTimeout(() => end('max-duration'), draw(maxDuration)).unref()
    if (revalidate !== false) {
      this.#revalidation = new Revalidation(request, revalidate, revalidateEvery, (failure) => end('revoked', failure))
    }
  }

  stop (): void {
    clearTimeout(this.#timer)
    this.#revalidation?.stop()
  }
}
