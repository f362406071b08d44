/**
 * One event stream, from the moment that `reply.sse` has taken it to the moment that its response is gone. Every way of
 * ending goes through `end(reason)`, once. Knows nothing of what the bytes mean, nor where they come from.
 */
import type { FastifyRequest } from 'fastify'
import { AsyncResource } from 'node:async_hooks'
import { KEEP_ALIVE, retryFrame } from './frame.ts'
import { logDebug, logError } from './log.ts'
import { draw, type ResolvedOptions } from './options.ts'
import { closeAfter, destroyConnection, emitFinish, isGone, onceGone, type RawResponse } from './response.ts'
import type { EndReason, SseStats } from './stats.ts'
import type { Lines } from './timeouts.ts'
import { Writer, type Destination } from './writer.ts'

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

/** What all connections of one plugin share. */
export interface Shared {
  /** Whose response is not gone yet, ended or not. */
  readonly connections: Set<Connection>
  readonly stats: SseStats
  readonly lines: Lines
}

/** What has gone wrong; an object, as anything can be thrown, undefined too. */
export interface Failure {
  error: unknown
}

export class Connection implements SseConnection {
  readonly request: FastifyRequest
  readonly options: ResolvedOptions
  readonly openedAt = new Date()
  events = 0
  /** Why the stream has ended; undefined while it is open. */
  reason: EndReason | undefined
  /** Whether the head may be out, so that a failure can no longer be answered with a status of its own. */
  handedOver = false

  readonly #response: RawResponse
  readonly #shared: Shared
  readonly #first: readonly string[]
  readonly #writer: Writer
  #failure: Failure | undefined
  #endResponse: () => void = noop
  #onEnd: () => void = noop
  #maxDuration: NodeJS.Timeout | undefined

  /** @param first the texts of the events that its client gets before those of its source */
  constructor (
    request: FastifyRequest, response: RawResponse, options: ResolvedOptions, shared: Shared, first: readonly string[] = []
  ) {
    this.request = request
    this.options = options
    this.#response = response
    this.#shared = shared
    this.#first = first
    this.#writer = new Writer(response, options, shared.lines, shared.stats, () => this.#onStalled())
    shared.connections.add(this)
    shared.stats.open++
    shared.stats.opened++
    if (options.maxDuration !== false) {
      this.#maxDuration = setTimeout(() => this.end('max-duration'), draw(options.maxDuration)).unref()
    }
    onceGone(response, () => this.#onGone())
  }

  get bytes (): number {
    return this.#writer.bytes
  }

  get behind (): boolean {
    return this.#writer.behind
  }

  /**
   * Says what to let go of when the stream ends. It runs in the async context of its request, whoever ends the stream:
   * a timer that serves many requests, say.
   */
  onEnd (callback: () => void): void {
    this.#onEnd = AsyncResource.bind(callback)
  }

  /**
   * The response is given over: the head goes out, and what was written so far.
   * @param endResponse ends it, once all was written
   */
  handOver (destination: Destination, endResponse: () => void): void {
    this.handedOver = true
    this.#endResponse = endResponse
    this.#writer.open(destination)
  }

  /** Takes text that is no event of the source's. */
  write (text: string): void {
    this.#writer.write(text)
  }

  /** What a stream begins with whatever its source is: the reconnection time, and the events for this client alone. */
  writeOpening (): void {
    const { retry } = this.options
    if (retry !== undefined) this.#writer.write(retryFrame(draw(retry)))
    for (const text of this.#first) this.writeEvent(text)
  }

  /** Whether its source has not sent anything, so that it can still be answered in another way. */
  get unanswered (): boolean {
    return !this.handedOver && this.events <= this.#first.length
  }

  /** Takes the text of one event. False: make a pause, until `ready()` says to go on. */
  writeEvent (text: string): boolean {
    if (this.reason !== undefined) return false
    this.events++
    this.#shared.stats.events++
    return this.#writer.write(text)
  }

  /**
   * Takes the bytes of some events, which other connections may share. They are taken even while the client is behind,
   * so whoever writes then keeps an eye on `unsent`. False: make a pause.
   */
  writeEvents (bytes: Buffer, count: number): boolean {
    if (this.reason !== undefined) return false
    this.events += count
    this.#shared.stats.events += count
    return this.#writer.writeBytes(bytes)
  }

  /** Bytes that the socket has not taken. */
  get unsent (): number {
    return this.#writer.unsent
  }

  /** What is sent instead of a comment to break silence, from now on; undefined: a comment. */
  keepAliveWith (block: string | undefined): void {
    this.#writer.keepAlive = block ?? KEEP_ALIVE
  }

  /** Counts an event that was left out, a gap that was told, or a lag that the reader has survived. */
  count (what: 'dropped' | 'gaps' | 'lags'): void {
    this.#shared.stats[what]++
  }

  /** Settles when more can be taken, or when the stream has ended; never rejects. */
  async ready (): Promise<void> {
    if (this.reason === undefined) await this.#writer.ready()
  }

  /**
   * The one way to end: lets go of the source and of whoever waits, then of the client. Only the first call counts.
   * @param last text to send before the end
   */
  end (reason: EndReason = 'ended', last = '', failure?: Failure): void {
    if (this.reason !== undefined) return
    this.reason = reason
    clearTimeout(this.#maxDuration)
    this.#shared.stats.open--
    this.#shared.stats.closed[reason]++
    this.#failure = failure
    this.#onEnd()
    if (reason === 'client-gone' || reason === 'write-timeout') {
      this.#writer.destroy()
    } else {
      this.#writer.writeLast(last, () => this.#endResponse())
    }
  }

  /**
   * Ends the stream as the server closes: its socket goes with it, as its client must not come back by it.
   * @param last text to send before the end
   */
  shutDown (last: string): void {
    if (this.reason !== undefined) return
    closeAfter(this.#response)
    this.end('shutdown', last)
  }

  /** Breaks the client's connection off, as the server cannot wait any longer. */
  breakOff (): void {
    this.end('shutdown')
    destroyConnection(this.#response)
    this.#writer.destroy()
  }

  /** Calls back when the response is gone: its last byte sent, or its connection closed. */
  onceGone (callback: () => void): void {
    if (isGone(this.#response)) callback()
    else onceGone(this.#response, callback)
  }

  #onStalled (): void {
    if (this.reason === undefined) this.end('write-timeout')
    else this.#writer.destroy()
  }

  #onGone (): void {
    // Where another answer has taken its place, the client is not to blame.
    this.end(!this.handedOver && this.#response.writableEnded ? 'superseded' : 'client-gone')
    this.#writer.close()
    this.#shared.connections.delete(this)
    this.#log()
    emitFinish(this.#response)
  }

  /** One line for each stream, when all of it is known. */
  #log (): void {
    const { reason, events, bytes } = this
    const facts = { sse: { reason, events, bytes, ms: Date.now() - this.openedAt.getTime() } }
    if (this.#failure === undefined) logDebug(this.request.log, facts, 'event stream ended')
    else logError(this.request.log, 'error', this.#failure.error, 'event stream failed', facts)
  }
}

function noop () {}
