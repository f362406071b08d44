/** A request for a stream is sent away: why, and so that its client comes back. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { drawReturn } from './durations.ts'
import type { SseErrorCode } from './errors.ts'
import { retryLine } from './frame.ts'
import { logError, logFacts } from './log.ts'
import type { ResolvedOptions } from './options.ts'
import type { Reporter } from './reporter.ts'
import { setDefaultHeaders } from './start.ts'
import type { RefusalReason } from './stats.ts'

/**
 * An EventSource that is answered with anything but 200 gives up for ever, so it gets an empty stream and a time to come
 * back; whoever else asks gets the status of the error, and `retry-after`.
 */
export function refuse (
  { reporter }: { reporter: Reporter }, reply: FastifyReply, { retry }: ResolvedOptions, reason: RefusalReason,
  error: () => Error
): void {
  const { request } = reply
  reporter.refused(request, reason)
  const ms = drawReturn(retry)
  if (isEventSource(request)) {
    // Of this error Fastify's handler tells nobody.
    if (reason === 'broker-away') logError(reply.log, 'warn', error(), 'event stream refused')
    else logFacts(reply.log, 'info', { sse: { refused: reason } }, 'event stream refused')
    setDefaultHeaders(reply)
    reply.send(retryLine(ms))
  } else {
    reply.header('retry-after', Math.ceil(ms / 1_000)).send(error())
  }
}

/** It sends GET requests, and asks for an event stream by name (HTML spec, section 9.2.2). */
function isEventSource ({ method, headers }: FastifyRequest): boolean {
  return method === 'GET' && /\btext\/event-stream\b/i.test(headers.accept ?? '')
}

/** The engine of the channels is out of reach, and should be back. The error may be of another package, or anything. */
export function isAway (error: unknown): error is Error {
  try {
    return error instanceof Error && AWAY.includes((error as { code?: unknown }).code)
  } catch {
    return false
  }
}

const AWAY: unknown[] = ['FST_SSE_BROKER_UNAVAILABLE', 'FST_SSE_OUTCOME_UNKNOWN'] satisfies SseErrorCode[]
