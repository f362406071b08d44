/**
 * What can be read: a channel, several, a run; with a filter, from a position. It holds nothing until it is read, by
 * `reply.sse` or by `for await`, and each reading of it is one of its own.
 */
import { InvalidSource } from '../errors.ts'
import type { ReceivedEvent } from './message.ts'
import { Iteration, type Iterations } from './iteration.ts'
import type { ReadOptions } from './cursor.ts'
import type { Reading } from './reading.ts'

/** How `reply.sse` reads something: see Subscribable. */
export const kSubscribe = Symbol('fastify-typed-sse.subscribe')

export abstract class Subscribable {
  abstract [kSubscribe] (): Subscription

  /** A handler that returns it, instead of `reply.sse` of it, would show its inside to the client. */
  toJSON (): never {
    throw new InvalidSource('a channel is no JSON: return reply.sse(channel)')
  }
}

export function isSubscribable (source: unknown): source is Subscribable {
  return source instanceof Subscribable
}

/** What `subscribe` takes. A wrong option throws FST_SSE_INVALID_OPTION, a wrong `after` FST_SSE_INVALID_LAST_EVENT_ID. */
export interface SubscribeOptions<Received = ReceivedEvent> {
  /**
   * Where to begin: after the event with this ID, or `'earliest'`, with all that is retained. Default: with what is
   * published from now on (a run: from its start). Over HTTP the client's last event ID goes before it.
   */
  after?: string | undefined
  /** Leaves out the events for which it returns nothing true: replayed, live, of a snapshot. Synchronous. Default: none. */
  filter?: ((event: Received) => unknown) | undefined
  /** Ends the reading, and the stream, when it aborts. Default: none. */
  signal?: AbortSignal | undefined
}

/** What is subscribed to. */
export interface Subject {
  /** The event types that its channels have declared; undefined: any. */
  readonly types: ReadonlySet<string> | undefined
  /** Whether its events are compressed for clients that accept it, where the stream does not say. */
  readonly compress: boolean
  read (options: ReadOptions): Reading
  /** Those of its hub. */
  readonly iterations: Iterations
}

export class Subscription extends Subscribable implements AsyncIterable<ReceivedEvent> {
  readonly #subject: Subject
  readonly #options: SubscribeOptions

  constructor (subject: Subject, options: SubscribeOptions) {
    super()
    this.#subject = subject
    this.#options = options
  }

  get types (): ReadonlySet<string> | undefined {
    return this.#subject.types
  }

  get compress (): boolean {
    return this.#subject.compress
  }

  get signal (): AbortSignal | undefined {
    return this.#options.signal
  }

  /** @param lastEventId of the client */
  read (lastEventId: string | undefined): Reading {
    const { after, filter } = this.#options
    return this.#subject.read({ after: lastEventId ?? after, filter })
  }

  [Symbol.asyncIterator] (): AsyncIterableIterator<ReceivedEvent> {
    return new Iteration(() => this.read(undefined), this.#options.signal, this.#subject.iterations)
  }

  [kSubscribe] (): Subscription {
    return this
  }
}
