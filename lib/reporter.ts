/** What is made known of streams: counted, logged, and told to those who have subscribed. Knows no sockets. */
import type { FastifyRequest } from 'fastify'
import { tell, type SseConnection, type SseDiagnostics } from './diagnostics.ts'
import { logError, logFacts, type Failure, type Level } from './log.ts'
import type { EndReason, RefusalReason, SseStats } from './stats.ts'

/** What can happen to a stream while it is open, and by what name it is told. */
const HAPPENINGS = {
  dropped: 'fastify-typed-sse:drop',
  replays: 'fastify-typed-sse:replay',
  gaps: 'fastify-typed-sse:gap',
  lags: 'fastify-typed-sse:lag'
} as const satisfies Partial<Record<keyof SseStats, keyof SseDiagnostics>>

export type Happening = keyof typeof HAPPENINGS

/** At which level the log has the end of a stream. Most end as they should; of these an operator wants to know. */
const LEVELS: Partial<Record<EndReason, Level>> = { 'write-timeout': 'info', lagged: 'info', revoked: 'info' }

export class Reporter {
  readonly stats: SseStats
  readonly #observe: (ms: number) => void

  /** @param observe is given how many milliseconds each stream was open */
  constructor (stats: SseStats, observe: (ms: number) => void = noop) {
    this.stats = stats
    this.#observe = observe
  }

  refused (request: FastifyRequest, reason: RefusalReason): void {
    this.stats.refused[reason]++
    tell('fastify-typed-sse:refuse', () => ({ request, reason }))
  }

  opened (connection: SseConnection): void {
    this.stats.open++
    this.stats.opened++
    tell('fastify-typed-sse:open', () => ({ connection }))
  }

  /** @param failure what was wrong with an event that was left out */
  happened (what: Happening, connection: SseConnection, failure?: Failure): void {
    this.stats[what]++
    tell(HAPPENINGS[what], () => ({ connection, ...failure }))
  }

  /** Nothing more is taken from its source, though bytes may be on their way. */
  ended (reason: EndReason): void {
    this.stats.open--
    this.stats.closed[reason]++
  }

  /**
   * Its response is gone, so all of it is known: one line of the log for each stream.
   * @param failure why it has ended, if it has failed
   * @param ms how long it was open
   * @param isLogged Fastify's error handler has answered in its stead, and has logged the failure
   */
  gone (connection: SseConnection, reason: EndReason, failure: Failure | undefined, ms: number, isLogged: boolean): void {
    const { request: { log }, events, bytes } = connection
    const facts = { sse: { reason, events, bytes, ms } }
    if (failure === undefined || isLogged) logFacts(log, LEVELS[reason] ?? 'debug', facts, 'event stream ended')
    else if (reason === 'revoked') logError(log, 'info', failure.error, 'event stream ended', facts)
    else logError(log, 'error', failure.error, 'event stream failed', facts)
    this.#observe(ms)
    tell('fastify-typed-sse:close', () => ({ connection, reason, ms, ...failure }))
  }
}

function noop () {}
