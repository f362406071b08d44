/**
 * Writes what a reading gives into a connection, as fast as its client reads: what the client has not taken stays in the
 * channel's log. Knows nothing of how a reading finds what comes next.
 */
import { GAP } from './channels/message.ts'
import { MOST_HELD, type Part, type Reading, type Taker } from './channels/reading.ts'
import type { Subscription } from './channels/subscription.ts'
import type { Connection, Producer } from './connection.ts'
import type { SseErrorCode } from './errors.ts'
import type { Feed } from './feed.ts'
import { finishedFrame } from './finite.ts'
import { frame } from './frame.ts'
import { idAlone } from './id-alone.ts'
import { codeOf } from './log.ts'
import { onAbort } from './on-abort.ts'
import { nextTurn, PARTS_PER_TURN } from './turns.ts'

/** An event of a snapshot; asked for by its code, as a filter or a snapshot can throw anything. */
const INVALID_EVENT: SseErrorCode = 'FST_SSE_INVALID_EVENT'

export class Follower implements Producer, Taker {
  readonly #subscription: Subscription
  readonly #connection: Connection
  readonly #feed: Feed
  #reading: Reading | undefined
  #onBegun: () => void = noop
  #forgetSignal: () => void = noop
  /** The client is behind, or others have their turn. */
  #paused = false
  /** A filter that publishes could bring it here again. */
  #running = false
  #begun = false

  constructor (subscription: Subscription, connection: Connection, feed: Feed) {
    this.#subscription = subscription
    this.#connection = connection
    this.#feed = feed
  }

  /** @returns when it is known from where the reading goes on, or that it has failed */
  start (): Promise<void> | void {
    const connection = this.#connection
    const { signal } = this.#subscription
    connection.compressPieces()
    if (signal !== undefined) this.#forgetSignal = onAbort(signal, () => connection.end())
    if (connection.reason !== undefined) return
    const begun = new Promise<void>((resolve) => { this.#onBegun = resolve })
    this.#reading = this.#subscription.read(connection.request.lastEventId)
    this.#reading.begin(this).then(() => this.#tellBegun())
    this.#run(false)
    return begun
  }

  stop (): void {
    this.#reading?.stop()
    this.#forgetSignal()
    this.#tellBegun()
  }

  onReady (urgent: boolean): void {
    this.#run(urgent)
  }

  #tellBegun (): void {
    this.#onBegun()
    this.#onBegun = noop
  }

  #run (urgent: boolean): void {
    if (this.#running || (this.#paused && !this.#mustTake(urgent))) return
    this.#running = true
    try {
      this.#takeAll(urgent)
    } catch (error) {
      this.#feed.fail(codeOf(error) === INVALID_EVENT ? 'invalid-event' : 'source-threw', error)
    } finally {
      this.#running = false
    }
  }

  #takeAll (urgent: boolean): void {
    for (let parts = 0; this.#connection.reason === undefined; parts++) {
      if (parts === PARTS_PER_TURN && !urgent) return this.#pause(nextTurn)
      const part = this.#reading!.take()
      if (part === undefined) return
      if (!this.#begin(part) && !this.#mustTake(urgent)) return this.#pause(() => this.#connection.ready())
    }
  }

  #mustTake (urgent: boolean): boolean {
    return urgent && this.#connection.unsent < MOST_HELD
  }

  get #userAgent (): string | undefined {
    return this.#connection.request.headers['user-agent']
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
    if (this.#begun || part.is === 'refusal') return this.#write(part)
    this.#begun = true
    if (part.is !== 'position') this.#connection.writeOpening()
    const goOn = this.#write(part)
    if (part.is === 'position') {
      this.#connection.writeOpening()
      if (part.why === 'start' && this.#connection.request.lastEventId !== undefined) this.#connection.count('replays')
    }
    return goOn
  }

  /** @returns false where a pause is to be made */
  #write (part: Part): boolean {
    const connection = this.#connection
    switch (part.is) {
      case 'events': {
        connection.keepAliveWith(undefined)
        return connection.writeEvents(part, part.events.length)
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
      case 'refusal':
        // Who has fallen behind comes back as from any other end; who asks for a run that is not there is answered by the error.
        if (part.reason === 'lagged') connection.finish('lagged')
        else this.#feed.fail(part.reason, part.error)
        return false
      case 'end':
        connection.finish('source-done', finishedFrame(this.#userAgent))
        return false
    }
  }
}

/** Without an ID: a client that is cut off right after it comes back from where it was. */
const GAP_FIELDS = { event: GAP, id: undefined, retry: undefined, comment: undefined }

function noop () {}
