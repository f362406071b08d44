/** How many streams may be open, in all and for each client. Knows neither sources nor sockets. */
import type { FastifyRequest } from 'fastify'
import { describe } from './describe.ts'
import { InvalidOption, TooManyConnections, TooManyConnectionsPerClient } from './errors.ts'
import type { SseOptions } from './options.ts'
import type { RefusalReason } from './stats.ts'

/** The room that one stream takes. */
export interface Place {
  /** Gives it back. Called once. */
  leave (): void
}

/** Where there is room for everybody. */
const ROOM: Place = { leave () {} }

/** Why there is none. */
export interface Refusal {
  refused: RefusalReason
  /** For those who are told. */
  error: () => Error
}

type Limits = Pick<SseOptions, 'maxConnections' | 'maxConnectionsPerClient' | 'clientKey'>

export class Admission {
  readonly #most: number
  readonly #mostPerClient: number
  readonly #clientKey: (request: FastifyRequest) => unknown
  #taken = 0
  /** Those who have a stream. */
  readonly #clients = new Map<unknown, number>()

  constructor ({ maxConnections, maxConnectionsPerClient, clientKey = ({ ip }) => ip }: Limits) {
    this.#most = maxConnections || Infinity
    this.#mostPerClient = maxConnectionsPerClient || Infinity
    this.#clientKey = clientKey
  }

  /**
   * A place for one more stream, or why there is none.
   * @throws {InvalidOption} where clientKey gives no key, and what it throws
   */
  enter (request: FastifyRequest): Place | Refusal {
    if (this.#most === Infinity && this.#mostPerClient === Infinity) return ROOM
    if (this.#taken >= this.#most) return { refused: 'max-connections', error: () => new TooManyConnections() }
    const client = this.#mostPerClient === Infinity ? undefined : this.#keyOf(request)
    const taken = this.#clients.get(client) ?? 0
    if (client !== undefined && taken >= this.#mostPerClient) {
      return { refused: 'max-connections-per-client', error: () => new TooManyConnectionsPerClient() }
    }
    if (client !== undefined) this.#clients.set(client, taken + 1)
    this.#taken++
    return { leave: () => this.#leave(client) }
  }

  #leave (client: unknown): void {
    this.#taken--
    if (client === undefined) return
    const others = this.#clients.get(client)! - 1
    if (others === 0) this.#clients.delete(client)
    else this.#clients.set(client, others)
  }

  /** A promise, say, would be another client each time, and nobody would ever be refused. */
  #keyOf (request: FastifyRequest): string | number | undefined {
    const key = this.#clientKey(request)
    if (key === undefined || typeof key === 'string' || typeof key === 'number') return key
    throw new InvalidOption(`clientKey must return a string, a number or undefined, got ${describe(key)}`)
  }
}
