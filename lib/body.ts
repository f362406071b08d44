/**
 * What Fastify is given to send. It takes anything with `pipe` for a stream: the onSend hooks see it, the reply's headers
 * are set, then `pipe` hands the response over. From there Fastify has nothing more to do with it.
 */
import { EventEmitter } from 'node:events'
import type { FastifyReply } from 'fastify'
import type { Connection } from './connection.ts'
import type { Destination } from './writer.ts'

export class Body extends EventEmitter {
  readonly #reply: FastifyReply
  readonly #connection: Connection | undefined

  /** Without a connection only the head is sent, as HEAD asks for. */
  constructor (reply: FastifyReply, connection?: Connection) {
    super()
    this.#reply = reply
    this.#connection = connection
  }

  /**
   * @param destination the response, or a stream that an onSend hook has put before it (compression, say)
   * @param options `end: false` where Fastify itself ends the response, to add trailers
   */
  pipe (destination: Destination, options?: { end?: boolean }): Destination {
    const fastifyEnds = options?.end === false
    if (this.#connection === undefined) {
      destination.end()
      return destination
    }
    const direct = destination === this.#reply.raw
    // Hijacked, the reply counts as sent, and neither a handler's timeout nor a second answer can hit the stream.
    if (direct) this.#reply.hijack()
    // Fastify would take a client that goes away for a failure of this stream: for it, the stream ends here.
    if (direct && !fastifyEnds) this.emit('end')
    this.#connection.open(destination, () => {
      if (!direct || fastifyEnds) this.emit('end')
      if (!fastifyEnds) destination.end()
    })
    return destination
  }

  /** How Fastify drops a body that it will not send: to HEAD, or with a status that has none. */
  resume (): this {
    this.#connection?.end('ended')
    return this
  }

  /** How Fastify, or a stream in between, says that nobody reads any more. */
  destroy (): this {
    this.#connection?.end('client-gone')
    return this
  }
}
