/**
 * One event stream, from the moment that `reply.sse` has taken it to the moment that its response is gone. Every way of
 * ending goes through `end(reason)`, once. Knows nothing of what the bytes mean, nor where they come from.
 */
import type { FastifyRequest } from 'fastify'
import { AsyncResource } from 'node:async_hooks'
import type { Place } from './admission.ts'
import { Coder, createCompressor, type Codable, type Coding } from './coding.ts'
import { tell, type SseConnection, type SseDiagnostics } from './diagnostics.ts'
import { describe } from './describe.ts'
import { draw } from './durations.ts'
import { InvalidOption } from './errors.ts'
import { KEEP_ALIVE, retryFrame } from './frame.ts'
import { logError, logFacts, type Level } from './log.ts'
import type { ResolvedOptions } from './options.ts'
import { closeAfter, destroyConnection, emitFinish, isGone, onceGone, type RawResponse } from './response.ts'
import { Revalidation } from './revalidation.ts'
import type { EndReason, SseStats } from './stats.ts'
import type { Lines } from './timeouts.ts'
import { Writer, type Destination } from './writer.ts'

/** What all connections of one plugin share. */
export interface Shared {
  /** Whose response is not gone yet, ended or not. */
  readonly connections: Set<Connection>
  readonly stats: SseStats
  readonly lines: Lines
  /** Told of each stream that is gone, and how many milliseconds after it was opened. */
  readonly onClose: (ms: number) => void
}

/** What has gone wrong; an object, as anything can be thrown, undefined too. */
export interface Failure {
  error: unknown
}

/** What is counted beside events and bytes, and by what name it is told. */
const TOLD = {
  dropped: 'fastify-typed-sse:drop',
  replays: 'fastify-typed-sse:replay',
  gaps: 'fastify-typed-sse:gap',
  lags: 'fastify-typed-sse:lag'
} as const satisfies Partial<Record<keyof SseStats, keyof SseDiagnostics>>

/** At which level the log has the end of a stream. Most end as they should; of these an operator wants to know. */
const LEVELS: Partial<Record<EndReason, Level>> = { 'write-timeout': 'info', lagged: 'info', revoked: 'info' }

/** Reasons that are an application's to give. */
const OF_APPLICATIONS: readonly EndReason[] = ['ended', 'revoked']

export class Connection implements SseConnection {
  readonly request: FastifyRequest
  readonly options: ResolvedOptions
  /** The content coding of the response; undefined: none. */
  readonly coding: Coding | undefined
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
  readonly #place: Place
  #codesPieces = false
  #failure: Failure | undefined
  #endResponse: () => void = noop
  #onEnd: () => void = noop
  #maxDuration: NodeJS.Timeout | undefined
  #revalidation: Revalidation | undefined

  /**
   * @param place that it has taken, and gives back when its response is gone
   * @param coding that its client accepts, where events are to be compressed
   * @param first the texts of the events that its client gets before those of its source
   */
  constructor (
    request: FastifyRequest, response: RawResponse, options: ResolvedOptions, shared: Shared, place: Place,
    coding?: Coding, first: readonly string[] = []
  ) {
    this.request = request
    this.options = options
    this.coding = coding
    this.#response = response
    this.#shared = shared
    this.#place = place
    this.#first = first
    this.#writer = new Writer(response, options, shared.lines, shared.stats, () => this.#onStalled())
    shared.connections.add(this)
    shared.stats.open++
    shared.stats.opened++
    this.#limitTime()
    onceGone(response, () => this.#onGone())
    tell('fastify-typed-sse:open', () => ({ connection: this }))
  }

  #limitTime (): void {
    const { maxDuration, revalidate, revalidateEvery } = this.options
    if (maxDuration !== false) this.#maxDuration = setTimeout(() => this.finish('max-duration'), draw(maxDuration)).unref()
    if (revalidate === false) return
    this.#revalidation = new Revalidation(this.request, revalidate, revalidateEvery, (error) => {
      this.finish('revoked', '', error === undefined ? undefined : { error })
    })
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
    if (this.coding === undefined || this.#codesPieces) this.#writer.open(destination)
    else this.#compress(this.coding, destination)
  }

  /** Its events are for others too, and are coded piece by piece. Said before anything is written. */
  codePieces (): void {
    if (this.coding === undefined) return
    this.#codesPieces = true
    this.#writer.encodeWith(new Coder(this.coding))
  }

  /** Its events are for this client alone, so each is coded with all that was sent before. */
  #compress (coding: Coding, destination: Destination): void {
    const compressor = createCompressor(coding)
    compressor.on('data', ({ length }: Buffer) => this.#writer.count(length))
    compressor.once('end', this.#endResponse)
    compressor.once('error', () => this.#writer.destroy())
    onceGone(this.#response, () => compressor.destroy())
    this.#endResponse = () => compressor.end()
    // What is piped to is the response, or what a hook has put before it.
    compressor.pipe(destination as Destination & NodeJS.WritableStream, { end: false })
    this.#writer.open(compressor, true)
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
  writeEvents (bytes: Codable, count: number): boolean {
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

  /** Counts an event that was left out, a replay, a gap that was told, or a lag that the reader has survived. */
  count (what: keyof typeof TOLD, error?: unknown): void {
    this.#shared.stats[what]++
    tell(TOLD[what], () => ({ connection: this, error }))
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
   * @param last text to send before the end
   * @param failure why, for the log
   */
  finish (reason: EndReason, last = '', failure?: Failure): void {
    if (this.reason !== undefined) return
    this.reason = reason
    clearTimeout(this.#maxDuration)
    this.#revalidation?.stop()
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
    this.finish('shutdown', last)
  }

  /** Breaks the client's connection off, as the server cannot wait any longer. */
  breakOff (): void {
    this.finish('shutdown')
    destroyConnection(this.#response)
    this.#writer.destroy()
  }

  /** Calls back when the response is gone: its last byte sent, or its connection closed. */
  onceGone (callback: () => void): void {
    if (isGone(this.#response)) callback()
    else onceGone(this.#response, callback)
  }

  #onStalled (): void {
    if (this.reason === undefined) this.finish('write-timeout')
    else this.#writer.destroy()
  }

  #onGone (): void {
    // Where another answer has taken its place, the client is not to blame.
    this.finish(!this.handedOver && this.#response.writableEnded ? 'superseded' : 'client-gone')
    this.#writer.close()
    this.#shared.connections.delete(this)
    this.#place.leave()
    this.#report(this.reason!, Date.now() - this.openedAt.getTime())
    emitFinish(this.#response)
  }

  /** When all of it is known: one line of the log for each stream, and whoever else wants to know. */
  #report (reason: EndReason, ms: number): void {
    const { events, bytes } = this
    const { log } = this.request
    const facts = { sse: { reason, events, bytes, ms } }
    const failure = this.#failure
    if (failure === undefined) logFacts(log, LEVELS[reason] ?? 'debug', facts, 'event stream ended')
    else if (reason === 'revoked') logError(log, 'info', failure.error, 'event stream ended', facts)
    else logError(log, 'error', failure.error, 'event stream failed', facts)
    this.#shared.onClose(ms)
    tell('fastify-typed-sse:close', () => ({ connection: this, reason, ms, ...failure }))
  }
}

function noop () {}
