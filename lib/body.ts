/**
 * What Fastify is given to send. It takes anything with `pipe` for a stream: the onSend hooks see it, the reply's headers
 * are set, then `pipe` hands the response over. From there Fastify has nothing more to do with it.
 */
import { EventEmitter } from 'node:events'
import type { FastifyReply } from 'fastify'
import type { Connection } from './connection.ts'
import type { Destination } from './writer.ts'

type Listener = (...args: unknown[]) => void

/** What `finished` of node:stream, by which Fastify does that, listens for. */
const OF_ENDS = ['close', 'end', 'error', 'finish'] as const

/** The body of a HEAD response: none. */
export class NoBody extends EventEmitter {
  pipe (destination: Destination): Destination {
    destination.end()
    return destination
  }

  /** How Fastify drops the body in a HEAD route that it has made from a GET route. */
  resume (): this {
    return this
  }
}

export class Body extends EventEmitter {
  readonly #reply: FastifyReply
  readonly #connection: Connection
  readonly #handOver: () => Error | undefined
  /** How many listened to each of these events of the response before Fastify did on this stream's behalf. */
  readonly #counts: number[] = OF_ENDS.map(() => Infinity)

  /** The last that Fastify listens to before it calls `pipe` is the response, on behalf of this stream. */
  override on (event: string | symbol, listener: Listener): this {
    for (const [at, name] of OF_ENDS.entries()) this.#counts[at] = this.#reply.raw.listenerCount(name)
    return super.on(event, listener)
  }

  /** @param handOver says that the response is being handed over; returns what has failed before */
  constructor (reply: FastifyReply, connection: Connection, handOver: () => Error | undefined) {
    super()
    this.#reply = reply
    this.#connection = connection
    this.#handOver = handOver
  }

  /**
   * @param destination the response, or a stream that an onSend hook has put before it (compression, say)
   * @param options `end: false` where Fastify itself ends the response, to add trailers
   */
  pipe (destination: Destination, options?: { end?: boolean }): Destination {
    const { reason } = this.#connection
    // Meanwhile the client has gone, or the request was answered in another way.
    if (reason === 'client-gone' || reason === 'superseded') return destination
    const failure = this.#handOver()
    // Nothing was sent yet: Fastify answers a stream that fails here as it answers any error.
    if (failure !== undefined) this.emit('error', failure)
    else if (this.#reply.statusCode === 304) this.#sendHeadOnly(destination)
    else this.#handTo(destination, options?.end === false)
    return destination
  }

  /**
   * Fastify would take a client that goes away for a failure of this stream: for it, the stream ends here. What it listens
   * for on the response was for this stream, too, and would hold a third of all the memory that an idle client takes.
   */
  #letGo (): void {
    this.emit('end')
    this.removeAllListeners()
    const response = this.#reply.raw
    // Where nobody else listens to one of these, its list is not made and unmade, which would cost more than it.
    response.on('error', ignore).on('end', ignore)
    for (const [at, name] of OF_ENDS.entries()) {
      const others = response.listeners(name).slice(this.#counts[at]) as Listener[]
      for (const listener of others) if (listener !== ignore) response.removeListener(name, listener)
    }
  }

  /** RFC 9110, section 15.4.5: a 304 response has no content, so Node would drop every byte of it. */
  #sendHeadOnly (destination: Destination): void {
    this.#connection.finish('superseded')
    this.emit('end')
    destination.end()
  }

  #handTo (destination: Destination, fastifyEnds: boolean): void {
    const direct = destination === this.#reply.raw
    // Hijacked, the reply counts as sent, and neither a handler's timeout nor a second answer can hit the stream.
    if (direct) this.#reply.hijack()
    if (direct && !fastifyEnds) {
      this.#letGo()
      this.#connection.handOver(destination)
    } else {
      this.#connection.handOver(destination, () => {
        this.emit('end')
        if (!fastifyEnds) destination.end()
      })
    }
  }

  /** How Fastify drops a body that its status (204, say) does not allow. */
  resume (): this {
    this.#connection.finish('superseded')
    return this
  }

  /** How Fastify, or a stream in between, says that nobody reads any more. */
  destroy (): this {
    this.#connection.finish('client-gone')
    return this
  }
}

function ignore () {}
