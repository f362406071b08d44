/** Logging what an application has thrown, which can be anything: frozen, a Proxy, an object whose getters throw. */
import type { FastifyBaseLogger } from 'fastify'

/** What has gone wrong; an object, as anything can be thrown, undefined too. */
export interface Failure {
  error: unknown
}

export type Level = 'error' | 'warn' | 'info' | 'debug'

/** One line at a level; where the error itself cannot be logged, one without it. Never throws. */
export function logError (log: FastifyBaseLogger, level: Level, error: unknown, message: string, facts = {}): void {
  try {
    log[level]({ ...facts, err: error }, message)
  } catch {
    quietly(() => log[level](facts, `${message} (what was thrown cannot be logged)`))
  }
}

/** One line at a level. Never throws. */
export function logFacts (log: FastifyBaseLogger, level: Level, facts: object, message: string): void {
  quietly(() => log[level](facts, message))
}

/** A logger that throws must not take a stream, or the server, with it. */
function quietly (write: () => void): void {
  try {
    write()
  } catch {}
}

/** Fastify would send anything else that was thrown as if it were a payload. */
export function asError (error: unknown): Error {
  try {
    if (error instanceof Error) return error
  } catch {}
  return new Error('The source of an event stream failed', { cause: error })
}

/** The code of what was thrown: an error, maybe of another package, or anything. */
export function codeOf (error: unknown): unknown {
  try {
    return (error as { code?: unknown } | null | undefined)?.code
  } catch {
    return undefined
  }
}

/**
 * An application's function that is told of errors for which nobody waits.
 * @inline
 */
export type OnError = (error: unknown, message: string) => void

/** What is told of an error must not make another one. */
export function quiet (onError: OnError): OnError {
  return (error, message) => {
    try {
      onError(error, message)
    } catch {}
  }
}

/** Where the application has no such function. */
export function warn (error: unknown, message: string): void {
  process.emitWarning(`fastify-typed-sse: ${message}: ${String(error)}`)
}
