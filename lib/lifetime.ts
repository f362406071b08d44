/** How long a stream may be open: until `maxDuration` has passed, or `revalidate` does not say that it may go on. */
import type { FastifyRequest } from 'fastify'
import { draw } from './durations.ts'
import type { Failure } from './log.ts'
import type { ResolvedOptions } from './options.ts'
import { Revalidation } from './revalidation.ts'

type End = (reason: 'max-duration' | 'revoked', failure?: Failure) => void

/**
 * @param end called when it is over, for either reason
 * @returns undefined where a stream may be open for ever
 */
export function lifetimeOf (request: FastifyRequest, options: ResolvedOptions, end: End): Lifetime | undefined {
  const isBounded = options.maxDuration !== false || options.revalidate !== false
  return isBounded ? new Lifetime(request, options, end) : undefined
}

export class Lifetime {
  readonly #timer: NodeJS.Timeout | undefined
  readonly #revalidation: Revalidation | undefined

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
