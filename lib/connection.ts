/**
 * One response that is an event stream: its head, what is written, whether the client keeps up, and its end. Every way
 * of ending goes through `end(reason)`, once. Knows nothing of what the bytes mean, nor where they come from.
 *
 * What is written in one turn gathers here and leaves in one write. Until Fastify has given the response over (its
 * onSend hooks may take their time) everything gathers. A connection is *behind* from the moment that its socket asks
 * for a pause until that has drained; meanwhile it takes nothing more and is sent no keep-alive.
 */
import type { FastifyRequest } from 'fastify'
import type { ServerResponse } from 'node:http'
import { KEEP_ALIVE, retryFrame } from './frame.ts'
import { draw, type ResolvedOptions } from './options.ts'
import { closeAfter, emitFinish, isGone, isQueued, onceGone, type RawResponse } from './response.ts'
import type { EndReason, SseStats } from './stats.ts'
import type { Lines, Waiting } from './timeouts.ts'

/** Characters that gather at the most before they are written: as much as a Node stream holds before it asks for a pause. */
const GATHER = 16_384

/** An open stream, as `app.sse.connections` shows it. */
export interface SseConnection {
  /** The request that it answers. */
  readonly request: FastifyRequest
  /** When it was opened. */
  readonly openedAt: Date
  /** Events written so far. */
  readonly events: number
  /** Bytes written so far. */
  readonly bytes: number
  /** Whether the client leaves so much unread that its source has been paused. */
  readonly behind: boolean
  /** Ends the stream after what was yielded so far; an EventSource will reconnect. */
  end (): void
}

/** Where the bytes go: the response itself, or a stream that an onSend hook has put before it. */
export type Destination = Pick<ServerResponse, 'write' | 'end' | 'destroy' | 'once' | 'writableLength'>

/** What all connections of one plugin share. */
export interface Shared {
  /** Whose response is not gone yet, ended or not. */
  readonly connections: Set<Connection>
  readonly stats: SseStats
  readonly lines: Lines
}

export class Connection implements SseConnection, Waiting {
  readonly request: FastifyRequest
  readonly openedAt = new Date()
  events = 0
  bytes = 0
  behind = false
  /** Why the stream has ended; undefined while it is open. */
  reason: EndReason | undefined
  /** What failed before the first event and the head: an answer of its own is still possible. */
  failure: { error: unknown } | undefined

  line: Waiting['line'] = undefined
  earlier: Waiting['earlier'] = undefined
  later: Waiting['later'] = undefined
  since = 0

  readonly options: ResolvedOptions
  readonly #response: RawResponse
  readonly #shared: Shared
  #destination: Destination | undefined
  #finish: () => void = noop
  #gathered = ''
  /** A flush is due at the end of this turn. */
  #flushing = false
  /** Bytes were found unread after `keepAlive`, though too few for the socket to ask for a pause. */
  #late = false
  #release: () => void = noop
  #waiter: () => void = noop
  #maxDuration: NodeJS.Timeout | undefined

  constructor (request: FastifyRequest, response: RawResponse, options: ResolvedOptions, shared: Shared) {
    this.request = request
    this.#response = response
    this.options = options
    this.#shared = shared
    shared.connections.add(this)
    shared.stats.open++
    shared.stats.opened++
    if (options.retry !== undefined) this.#gathered = retryFrame(draw(options.retry))
    onceGone(response, () => this.#onGone())
    if (options.maxDuration !== false) {
      this.#maxDuration = setTimeout(() => this.end('max-duration'), draw(options.maxDuration)).unref()
    }
  }

  /** Whether the head may be out, so that a failure can no longer be answered with a status of its own. */
  get opened (): boolean {
    return this.#destination !== undefined
  }

  /** Says what to let go of when the stream ends. */
  feed (release: () => void): void {
    this.#release = release
  }

  /**
   * Sends the head and what has gathered; from here on, what is written goes out.
   * @param finish ends the response once all was written
   */
  open (destination: Destination, finish: () => void): void {
    this.#destination = destination
    this.#finish = finish
    if (this.reason !== undefined) {
      this.#finishResponse()
      return
    }
    // The head does not wait for the first event: an idle source must not delay the client's `open`.
    if (this.#gathered === '' && destination === this.#response) this.#response.flushHeaders()
    this.#flush()
  }

  /** Takes the text of one event. False: make a pause, until `ready()` says to go on. */
  writeEvent (text: string): boolean {
    this.events++
    this.#shared.stats.events++
    return this.#write(text)
  }

  #write (text: string): boolean {
    this.#gathered += text
    const full = this.#gathered.length >= GATHER
    if (this.behind || this.#destination === undefined) return !this.behind && !full
    if (full) {
      this.#flush()
    } else if (!this.#flushing) {
      this.#flushing = true
      process.nextTick(() => this.#flush())
    }
    return !this.behind
  }

  /** Settles when more can be taken, or when the stream has ended; never rejects. */
  ready (): Promise<void> {
    return new Promise((resolve) => {
      if (this.reason !== undefined) resolve()
      else this.#waiter = resolve
    })
  }

  /**
   * The one way to end: lets go of the source and of whoever waits, then of the client. Only the first call counts.
   * @param last text to send before the end
   * @param failure what has gone wrong, for the log
   */
  end (reason: EndReason = 'ended', last = '', failure?: { error: unknown }): void {
    if (this.reason !== undefined) return
    this.reason = reason
    this.#gathered += last
    clearTimeout(this.#maxDuration)
    this.#shared.stats.open--
    this.#shared.stats.closed[reason]++
    this.#log(failure)
    this.#release()
    this.#waiter()
    if (reason === 'client-gone' || reason === 'write-timeout') this.destroy()
    else if (this.#destination !== undefined) this.#finishResponse()
  }

  /**
   * Ends the stream as the server closes: its socket goes with it, as the client must not find its way back by it.
   * @param ms the client's reconnection time
   */
  shutDown (ms: number): void {
    if (this.reason !== undefined) return
    closeAfter(this.#response)
    this.end('shutdown', retryFrame(ms))
  }

  /** Breaks the connection off, whatever is still unsent. */
  destroy (): void {
    this.#gathered = ''
    this.#destination?.destroy()
    this.#response.destroy()
  }

  /** Calls back when the response is gone: its last byte sent, or its connection closed. */
  onceGone (callback: () => void): void {
    if (isGone(this.#response)) callback()
    else onceGone(this.#response, callback)
  }

  /** Nothing was written for `keepAlive`, or what was written was left unread for `writeTimeout`. */
  onDue (): void {
    if (this.reason !== undefined) {
      this.destroy()
    } else if (isQueued(this.#response)) {
      this.#waitIdle()
    } else if (this.#isTaken()) {
      if (this.options.keepAlive !== false) this.#write(KEEP_ALIVE)
      this.#waitIdle()
    } else {
      this.#onUnread()
    }
  }

  /** The last write is still here, a line's length of time later. */
  #onUnread (): void {
    const { keepAlive, writeTimeout } = this.options
    if (writeTimeout === false) {
      this.#waitIdle()
    } else if (this.behind || this.#late || keepAlive === false || keepAlive >= writeTimeout) {
      this.end('write-timeout')
    } else {
      this.#late = true
      this.#shared.lines.of(writeTimeout - keepAlive).wait(this)
    }
  }

  #isTaken (): boolean {
    return this.#destination === undefined || this.#destination.writableLength === 0
  }

  #flush (): void {
    this.#flushing = false
    if (this.behind || this.#destination === undefined || this.reason !== undefined) return
    if (this.#late && this.#isTaken()) this.#late = false
    if (this.#send()) {
      if (!this.#late) this.#waitIdle()
      this.#wake()
    } else {
      this.#onBehind()
    }
  }

  /** Sends what has gathered in one write; false if the socket asks for a pause. */
  #send (): boolean {
    if (this.#gathered === '') return true
    const chunk = Buffer.from(this.#gathered)
    this.#gathered = ''
    this.bytes += chunk.length
    this.#shared.stats.bytes += chunk.length
    return this.#destination!.write(chunk)
  }

  #onBehind (): void {
    this.behind = true
    this.#destination!.once('drain', () => {
      this.behind = false
      this.#flush()
    })
    if (!this.#late) this.#waitUnread()
  }

  #wake (): void {
    const waiter = this.#waiter
    this.#waiter = noop
    waiter()
  }

  #waitIdle (): void {
    const ms = this.options.keepAlive || this.options.writeTimeout
    if (ms !== false) this.#shared.lines.of(ms).wait(this)
  }

  #waitUnread (): void {
    if (this.options.writeTimeout === false) this.line?.leave(this)
    else this.#shared.lines.of(this.options.writeTimeout).wait(this)
  }

  #finishResponse (): void {
    // Whoever reads no more must not keep an ended response for ever.
    this.#waitUnread()
    this.#send()
    this.#finish()
  }

  #onGone (): void {
    this.end('client-gone')
    this.line?.leave(this)
    this.#shared.connections.delete(this)
    emitFinish(this.#response)
  }

  /** One line for each stream. */
  #log (failure: { error: unknown } | undefined): void {
    const { reason, events, bytes } = this
    const facts = { sse: { reason, events, bytes, ms: Date.now() - this.openedAt.getTime() } }
    if (failure === undefined) this.request.log.debug(facts, 'event stream ended')
    else this.request.log.error({ ...facts, err: failure.error }, 'event stream failed')
  }
}

function noop () {}
