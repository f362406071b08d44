/**
 * Pulls a source into a connection: the next value is asked for only when the last one was taken, and the event loop
 * gets its turn however fast source and client are. Knows neither sockets nor schemas.
 */
import type { Connection, Producer } from './connection.ts'
import type { Feed } from './feed.ts'
import { checkStep, isThenable, type Source } from './source.ts'
import { EVENTS_PER_TURN, nextTurn } from './turns.ts'

export class Pump implements Producer {
  readonly #source: Source
  readonly #connection: Connection
  readonly #feed: Feed
  /** The source has completed or failed by itself. */
  #settled = false

  constructor (source: Source, connection: Connection, feed: Feed) {
    this.#source = source
    this.#connection = connection
    this.#feed = feed
  }

  start (): void {
    this.#connection.writeOpening()
    this.run()
  }

  stop (): void {
    this.#source.stop(this.#settled)
  }

  /** Runs until the source or the connection has ended. Never rejects: each failure is an end of the connection. */
  async run (): Promise<void> {
    const connection = this.#connection
    for (let turn = 1; connection.reason === undefined; turn++) {
      let value: unknown
      try {
        const next = this.#source.next()
        const step = checkStep(isThenable(next) ? await next : next)
        if (connection.reason !== undefined) return
        this.#settled = Boolean(step.done)
        value = step.value
      } catch (error) {
        this.#settled = true
        return this.#feed.fail('source-threw', error)
      }
      if (this.#settled) return connection.finish('source-done', this.#feed.textOfCompletion())
      try {
        const text = this.#feed.textOf(value)
        if (text !== undefined && !connection.writeEvent(text)) await connection.ready()
      } catch (error) {
        return this.#feed.fail('invalid-event', error)
      }
      if (turn % EVENTS_PER_TURN === 0) await nextTurn()
    }
  }
}
