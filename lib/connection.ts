/**
 * One event stream, from the moment that `reply.sse` has taken it to the moment that its response is gone. Every way of
 * ending goes through `finish(reason)`, once. Knows nothing of what the bytes mean, nor where they come from.
 */
import type { FastifyRequest } from 'fastify'
import { AsyncResource } from 'node:async_hooks'
import type { Place } from './admission.ts'
import type { Coding } from './coding.ts'
import { compressTo } from './compressor.ts'
import { describe } from './describe.ts'
import type { SseConnection } from './diagnostics.ts'
import { draw } from './durations.ts'
import { InvalidOption } from './errors.ts'
import { KEEP_ALIVE, retryFrame } from './frame.ts'
import { http2ConnectionOf, type Http2Connection } from './http2-connection.ts'
import { lifetimeOf, type Lifetime } from './lifetime.ts'
import type { Failure } from './log.ts'
import type { ResolvedOptions } from './options.ts'
import { Pieces, type Shareable } from './pieces.ts'
import type { Happening, Reporter } from './reporter.ts'
import { closeAfter, destroySocket, dropBody, finishGone, isClosing, isGone, onceGone, type RawResponse } from './response.ts'
import type { EndReason } from './stats.ts'
import type { Lines } from './timeouts.ts'
import { Writer, type Destination, type Owner } from './writer.ts'

/** What fills a stream. */
export interface Producer {
  /** Begins to write into the connection. The head of the response waits for what it returns. */
  start (): Promise<void> | void
  /** The stream has ended, maybe before it could start: it lets go of all that it holds. */
  stop (): void
}

/** What all connections of one plugin share. */
export interface Shared {
  /** Whose response is not gone yet, ended or not. */
  readonly connections: Set<Connection>
  readonly reporter: Reporter
  readonly lines: Lines
}

/** What is settled of a stream before its source is touched. */
export interface Settings {
  readonly options: ResolvedOptions
  /** That it has taken, and gives back. */
  readonly place: Place
  /** The content coding of its response; undefined: none. */
  readonly coding?: Coding | undefined
  /** The texts of the events that its client gets before those of its source. */
  readonly first?: readonly string[] | undefined
}

const NONE: readonly string[] = []
const NOBODY: readonly (() => void)[] = []

/** Reasons that are an application's to give. */
const OF_APPLICATIONS: readonly EndReason[] = ['ended', 'revoked']

/** It is the async context of its request, too, in which its producer is stopped. */
export class Connection extends AsyncResource implements SseConnection, Owner {
  readonly request: FastifyRequest
  readonly options: ResolvedOptions
  readonly coding: Coding | undefined
  events = 0
  /** Why the stream has ended; undefined while it is open. */
  reason: EndReason | undefined
  /** Headers that were set for it, and go with it where another answer takes its place. */
  headers: readonly string[] = NONE
  /** Whether the head may be out, so that a failure can no longer be answered with a status of its own. */
  handedOver = false

  readonly #response: RawResponse
  readonly #shared: Shared
  readonly #openedAt = Date.now()
  /** The same by a clock that does not step. */
  readonly #since = performance.now()
  readonly #first: readonly string[]
  readonly #writer: Writer
  #place: Place | undefined
  readonly #lifetime: Lifetime | undefined
  #producer: Producer | undefined
  #hasPieces = false
  #failure: Failure | undefined
  /** Who is to be told when its response is gone. */
  #waiting: readonly (() => void)[] = NOBODY
  /** Ends the response once all was written; undefined: it is simply ended. */
  #endResponse: (() => void) | undefined

  constructor (request: FastifyRequest, response: RawResponse, shared: Shared, settings: Settings) {
    const { options, place, coding, first = NONE } = settings
    super('EventStream')
    this.request = request
    this.options = options
    this.coding = coding
    this.#response = response
    this.#shared = shared
    this.#place = place
    this.#first = first
    this.#writer = new Writer(response, options, shared.lines, shared.reporter.stats, this)
    this.#lifetime = lifetimeOf(request, options, (reason, failure) => this.finish(reason, '', failure))
    shared.connections.add(this)
    shared.reporter.opened(this)
    onceGone(response, () => this.#onGone())
  }

  get openedAt (): Date {
    return new Date(this.#openedAt)
  }

  get bytes (): number {
    return this.#writer.bytes
  }

  get behind (): boolean {
    return this.#writer.behind
  }

  /**
   * Says who is to be stopped when the stream ends, or has ended. That happens in the async context of its request, whoever
   * ends the stream: a timer that serves many requests, say.
   */
  filledBy (producer: Producer): void {
    // Somebody who was told that it is open may have ended it at once.
    if (this.reason === undefined) this.#producer = producer
    else producer.stop()
  }

  /**
   * The response is given over: the head goes out, and what was written so far.
   * @param endResponse ends it, once all was written; undefined: the destination is simply ended
   */
  handOver (destination: Destination, endResponse?: () => void): void {
    this.handedOver = true
    this.headers = NONE
    this.#endResponse = endResponse
    dropBody(this.#response)
    const head = destination === this.#response
    try {
      if (this.coding !== undefined && !this.#hasPieces) this.#compress(this.coding, destination, head)
      else this.#writer.open(destination, { head, counts: true })
    } catch (error) {
      // A head that Node does not write.
      this.onBroken(error)
    }
  }

  /** Its events are for others too, and are compressed piece by piece. Said before anything is written. */
  compressPieces (): void {
    if (this.coding === undefined) return
    this.#hasPieces = true
    this.#writer.compressWith(new Pieces(this.coding))
  }

  /** Its events are for this client alone. */
  #compress (coding: Coding, destination: Destination, head: boolean): void {
    const compressor = compressTo(coding, destination as Destination & NodeJS.WritableStream, {
      count: (bytes) => this.#writer.count(bytes),
      onEnd: this.#endResponse ?? (() => destination.end()),
      onError: () => this.#writer.destroy()
    })
    this.onceGone(() => compressor.destroy())
    this.#endResponse = () => compressor.end()
    this.#writer.open(compressor, { head, counts: false })
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
    this.#shared.reporter.stats.events++
    return this.#writer.write(text)
  }

  /**
   * Takes the bytes of some events, which other connections may share. They are taken even while the client is behind,
   * so whoever writes then keeps an eye on `unsent`. False: make a pause.
   */
  writeEvents (events: Shareable, count: number): boolean {
    if (this.reason !== undefined) return false
    this.events += count
    this.#shared.reporter.stats.events += count
    return this.#writer.writeBytes(events)
  }

  /** Bytes that the socket has not taken. */
  get unsent (): number {
    return this.#writer.unsent
  }

  /** What is sent instead of a comment to break silence, from now on; undefined: a comment. */
  keepAliveWith (block: string | undefined): void {
    this.#writer.keepAlive = block ?? KEEP_ALIVE
  }

  /** Counts what has happened to it. */
  count (what: Happening, failure?: Failure): void {
    this.#shared.reporter.happened(what, this, failure)
  }

  /** Settles when more can be taken, or when the stream has ended; never rejects. */
  async ready (): Promise<void> {
    if (this.reason === undefined) await this.#writer.ready()
  }

  end (reason: 'ended' | 'revoked' = 'ended'): void {
    if (!OF_APPLICATIONS.includes(reason)) {
      throw new InvalidOption(`the reason to end a stream must be one of ${OF_APPLICATIONS.join(', ')}, got ${describe(reason)}`)
    }
    this.finish(reason)
  }

  /**
   * The one way to end: lets go of the source and of whoever waits, then of the client. Only the first call counts.
   * @param last text to send before the end; a function of the application's is asked for it when the stream has its reason,
   *   lest it give it another one
   * @param failure why, for the log
   */
  finish (reason: EndReason, last: string | (() => string) = '', failure?: Failure): void {
    if (this.reason !== undefined) return
    this.reason = reason
    this.#lifetime?.stop()
    this.#shared.reporter.ended(reason)
    this.#failure = failure
    const producer = this.#producer
    if (producer !== undefined) this.runInAsyncScope(() => producer.stop())
    if (reason === 'client-gone' || reason === 'write-timeout') {
      this.#writer.destroy()
    } else {
      this.#writer.writeLast(typeof last === 'string' ? last : last(), () => this.#end())
    }
  }

  /**
   * Ends the stream as the server closes: its socket goes with it, as its client must not come back by it.
   * @param last text to send before the end
   */
  shutDown (last: string): void {
    if (this.reason !== undefined) return
    closeAfter(this.#response)
    this.finish('shutdown', last)
  }

  /** Breaks the stream off, and over HTTP/1 the client's connection, as the server cannot wait any longer. */
  breakOff (): void {
    this.finish('shutdown')
    destroySocket(this.#response)
    this.#writer.destroy()
  }

  /** That of its client, over HTTP/2. Undefined when the stream is gone. */
  get http2Connection (): Http2Connection | undefined {
    return http2ConnectionOf(this.#response)
  }

  /** Gives its place back, once: when its response is gone, or when another stream is to answer its request. */
  leavePlace (): void {
    this.#place?.leave()
    this.#place = undefined
  }

  /** Calls back when the response is gone: its last byte sent, or its connection closed. */
  onceGone (callback: () => void): void {
    if (isGone(this.#response)) callback()
    else this.#waiting = [...this.#waiting, callback]
  }

  #end (): void {
    if (this.#endResponse === undefined) this.#response.end()
    else this.#endResponse()
  }

  onStalled (): void {
    const { writeTimeout } = this.options
    // Where the client does not read what is below its streams, either, breaking off the stream alone would leave that for good.
    if (writeTimeout !== false) this.http2Connection?.breakOffUnlessRead(writeTimeout)
    if (this.reason === undefined) this.finish('write-timeout')
    else this.#writer.destroy()
  }

  /** Nobody can answer any more. */
  onBroken (error: unknown): void {
    this.#writer.destroy()
    this.finish('source-threw', '', { error })
  }

  /** Where another answer has taken its place, or the server closes their connection, the client is not to blame. */
  #whyGone (): EndReason {
    if (!this.handedOver && this.#response.writableEnded) return 'superseded'
    return isClosing(this.#response) ? 'shutdown' : 'client-gone'
  }

  #onGone (): void {
    this.finish(this.#whyGone())
    this.#writer.close()
    this.#shared.connections.delete(this)
    this.leavePlace()
    this.#shared.reporter.gone(this, this.reason!, this.#failure, Math.round(performance.now() - this.#since), this.unanswered)
    finishGone(this.#response)
    for (const callback of this.#waiting) callback()
  }
}
