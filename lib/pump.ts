/**
 * Pulls a source into a connection: the next value is asked for only when the last one was taken, and the event loop
 * gets its turn however fast source and client are. Knows neither sockets nor schemas.
 */
import type { Connection } from './connection.ts'
import type { Feed } from './feed.ts'
import { isThenable, type Source } from './source.ts'
import { EVENTS_PER_TURN, nextTurn } from './turns.ts'

/** Runs until the source or the connection has ended. Never rejects: each failure is an end of the connection. */
export async function pump (source: Source, connection: Connection, feed: Feed): Promise<void> {
  let settled = false
  connection.onEnd(() => source.stop(settled))
  for (let turn = 1; connection.reason === undefined; turn++) {
    let value: unknown
    try {
      const next = source.next()
      // A synchronous source that has ended its own stream meanwhile could not be stopped while it ran.
      if (connection.reason !== undefined && !isThenable(next)) source.stop(next.done === true)
      const step = isThenable(next) ? await next : next
      if (connection.reason !== undefined) return
      if (typeof step !== 'object' || step === null) throw new TypeError(`next() gave ${step}, which is no iterator result`)
      settled = step.done === true
      value = step.value
    } catch (error) {
      settled = true
      return feed.fail('source-threw', error)
    }
    if (settled) return connection.finish('source-done', feed.textOfCompletion())
    try {
      const text = feed.textOf(value)
      if (text !== undefined && !connection.writeEvent(text)) await connection.ready()
    } catch (error) {
      return feed.fail('invalid-event', error)
    }
    if (turn % EVENTS_PER_TURN === 0) await nextTurn()
  }
}
