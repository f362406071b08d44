/**
 * Writes what a reading gives into a connection, as fast as its client reads: what the client has not taken stays in the
 * channel's log. Knows nothing of how a reading finds what comes next.
 */
import type { Part, Reading } from './channels/reading.ts'
import { GAP } from './channels/message.ts'
import type { Connection } from './connection.ts'
import { InvalidEvent, Lagged } from './errors.ts'
import type { Feed } from './feed.ts'
import { finishedFrame } from './finite.ts'
import { frame } from './frame.ts'
import { idAlone } from './id-alone.ts'
import { nextTurn, PARTS_PER_TURN } from './turns.ts'

/**
 * Bytes that a connection holds at the most when one turn publishes more than the history of its channel has room for:
 * within a turn nothing reaches the socket. All who read alike share them.
 */
const MOST_UNSENT = 4_194_304

interface Following {
  /** The client has come back with a last event ID. */
  resumes: boolean
  /** The stream has ended. */
  onEnd: () => void
}

/** @returns when it is known from where the reading goes on, or that it has failed */
export function follow (
  reading: Reading, connection: Connection, feed: Feed, { resumes, onEnd }: Following
): Promise<void> {
  return new Promise((resolve) => {
    connection.onEnd(() => {
      reading.stop()
      onEnd()
      resolve()
    })
    new Follower(reading, connection, feed, resumes).start()
    reading.begun.then(() => resolve())
  })
}

class Follower {
  readonly #reading: Reading
  readonly #connection: Connection
  readonly #feed: Feed
  readonly #resumes: boolean
  readonly #userAgent: string | undefined
  /** The client is behind, or others have their turn. */
  #paused = false
  /** A filter that publishes could bring it here again. */
  #running = false
  #begun = false

  constructor (reading: Reading, connection: Connection, feed: Feed, resumes: boolean) {
    this.#reading = reading
    this.#connection = connection
    this.#feed = feed
    this.#resumes = resumes
    this.#userAgent = connection.request.headers['user-agent']
  }

  start (): void {
    this.#reading.onReady = (urgent) => this.#run(urgent)
    this.#run(false)
  }

  #run (urgent: boolean): void {
    if (this.#running || (this.#paused && !this.#mustTake(urgent))) return
    this.#running = true
    try {
      this.#takeAll(urgent)
    } catch (error) {
      if (error instanceof Lagged) this.#connection.finish('lagged')
      else this.#feed.fail(error instanceof InvalidEvent ? 'invalid-event' : 'source-threw', error)
    } finally {
      this.#running = false
    }
  }

  #takeAll (urgent: boolean): void {
    for (let parts = 0; this.#connection.reason === undefined; parts++) {
      if (parts === PARTS_PER_TURN && !urgent) return this.#pause(nextTurn)
      const part = this.#reading.take()
      if (part === undefined) return
      if (!this.#begin(part) && !this.#mustTake(urgent)) return this.#pause(() => this.#connection.ready())
    }
  }

  #mustTake (urgent: boolean): boolean {
    return urgent && this.#connection.unsent < MOST_UNSENT
  }

  #pause (until: () => Promise<void>): void {
    if (this.#paused) return
    this.#paused = true
    until().then(() => {
      this.#paused = false
      this.#run(false)
    })
  }

  /**
   * The position goes before everything else: "dispatch the event" takes the last event ID from what this
   * connection has said so far, so a block before the first ID would take a client's ID away.
   */
  #begin (part: Part): boolean {
    if (this.#begun) return this.#write(part)
    this.#begun = true
    if (part.is !== 'position') this.#connection.writeOpening()
    const goOn = this.#write(part)
    if (part.is === 'position') {
      this.#connection.writeOpening()
      if (part.why === 'start' && this.#resumes) this.#connection.count('replays')
    }
    return goOn
  }

  /** @returns false where a pause is to be made */
  #write (part: Part): boolean {
    const connection = this.#connection
    switch (part.is) {
      case 'events': {
        connection.keepAliveWith(undefined)
        return connection.writeEvents(part.batch, part.batch.events.length)
      }
      case 'position': {
        const block = idAlone(part.id, this.#userAgent)
        // A client that is told with the next keep-alive costs no write of its own.
        connection.keepAliveWith(part.why === 'moved' ? block : undefined)
        if (part.why !== 'moved') connection.write(block)
        return true
      }
      case 'gap':
        connection.count('gaps')
        return connection.writeEvent(frame(GAP_FIELDS, JSON.stringify(part.gap)))
      case 'lag':
        connection.count('lags')
        return true
      case 'end':
        connection.finish('source-done', finishedFrame(this.#userAgent))
        return false
    }
  }
}

/** Without an ID: a client that is cut off right after it comes back from where it was. */
const GAP_FIELDS = { event: GAP, id: undefined, retry: undefined, comment: undefined }
