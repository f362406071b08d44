/**
 * Pulls a source into a connection: the next value is asked for only when the last one was taken, and the event loop
 * gets its turn however fast source and client are. Knows neither sockets nor schemas.
 */
import type { Connection } from './connection.ts'
import type { EndReason } from './stats.ts'
import { isThenable, type Source } from './source.ts'

/**
 * A source that is always ready, read by a client that is always ready, never waits for anything: after so many events
 * it makes way for the event loop, or every other request would starve.
 */
const EVENTS_PER_TURN = 64

/** What becomes of values and of failures; how is for whoever starts the pump to say. */
export interface Encoder {
  /**
   * The text of one value; undefined to leave it out.
   * @throws what ends the stream as an invalid event
   */
  encode (value: unknown): string | undefined
  /** The text to send last when the source has completed. */
  done (): string
  /** The text to send last after a failure; undefined if the failure itself is answered, and logged, elsewhere. */
  failed (error: unknown): string | undefined
}

/** Runs until the source or the connection has ended. Never rejects: each failure is an end of the connection. */
export async function pump (source: Source, connection: Connection, encoder: Encoder): Promise<void> {
  let settled = false
  connection.feed(() => source.stop(settled))
  for (let turn = 1; connection.reason === undefined; turn++) {
    let value: unknown
    try {
      const next = source.next()
      const step = isThenable(next) ? await next : next
      if (connection.reason !== undefined) return
      if (typeof step !== 'object' || step === null) throw new TypeError(`next() gave ${step}, which is no iterator result`)
      settled = step.done === true
      value = step.value
    } catch (error) {
      settled = true
      return fail(connection, encoder, 'source-threw', error)
    }
    if (settled) return connection.end('source-done', encoder.done())
    try {
      const text = encoder.encode(value)
      if (text !== undefined && !connection.writeEvent(text)) await connection.ready()
    } catch (error) {
      return fail(connection, encoder, 'invalid-event', error)
    }
    if (turn % EVENTS_PER_TURN === 0) await new Promise(setImmediate)
  }
}

function fail (connection: Connection, encoder: Encoder, reason: EndReason, error: unknown): void {
  if (connection.reason !== undefined) return
  const last = encoder.failed(error)
  if (last === undefined) connection.end(reason)
  else connection.end(reason, last, { error })
}
