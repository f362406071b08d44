/**
 * How a reader gets what is on a channel, or on several: it takes part after part, as fast as it can, and is called when
 * there is more. What it has not taken it does not hold: behind a reading there is a place in a log, not a queue.
 */
import { Chunk } from '../chunk.ts'
import type { Coding } from '../coding.ts'
import type { Shareable } from '../pieces.ts'
import type { FramedEvent } from './framed-event.ts'

/** Bytes of events in one part at the most, unless a single event has more. */
export const PART = 65_536

/** Events in one part at the most: a filter that wants none of them is asked about each. */
const MOST_EVENTS = 1_024

/**
 * Bytes that are held for one reader at the most when one turn publishes more than the history of its channel has room for:
 * within a turn nothing reaches a socket. Connections that read alike share them.
 */
export const MOST_HELD = 4_194_304

/** Some events, one after the other. */
export class Batch implements Shareable {
  readonly is = 'events'
  readonly events: readonly FramedEvent[]
  #chunk: Chunk | undefined
  readonly #compressed: Partial<Record<Coding, Buffer>> = {}

  constructor (events: readonly FramedEvent[]) {
    this.events = events
  }

  /** As many as fit into one part; at least one, if there is one. */
  static gather (next: () => FramedEvent | undefined): Batch {
    const events: FramedEvent[] = []
    let size = 0
    while (size < PART && events.length < MOST_EVENTS) {
      const event = next()
      if (event === undefined) break
      events.push(event)
      size += event.size
    }
    return new Batch(events)
  }

  /** Their blocks. Whoever is given the same batch shares them. */
  get chunk (): Chunk {
    this.#chunk ??= this.events.length === 1 ? this.events[0]!.chunk : Chunk.ofPieces(this.events.map(({ chunk }) => chunk.bytes))
    return this.#chunk
  }

  /** The same, compressed. */
  compressed (coding: Coding): Buffer {
    this.#compressed[coding] ??= Buffer.concat(this.events.map((event) => event.compressed(coding)))
    return this.#compressed[coding]
  }
}

export type Part =
  | Batch
  /**
   * The reader's last event ID, without an event.
   * @property why 'start': events follow from here. 'requested': it is the one that was asked for, and a gap follows.
   *   'moved': the events up to here were left out by its filter, so it need not be told at once
   */
  | { is: 'position', id: string, why: 'start' | 'requested' | 'moved' }
  /** Whatever was after `requested` and before `earliest` is lost to this reader. */
  | { is: 'gap', gap: Gap }
  /** The reader has fallen behind, and the channel's policy is to let it go on: with a gap, or with what is newest. */
  | { is: 'lag' }
  /** The channel is closed, and the reader has had everything. */
  | { is: 'end' }
  /**
   * Nothing more comes, though nothing has failed: the reader has fallen behind, and the channel's policy is to let it go
   * ('lagged'); or there is no such run ('superseded').
   */
  | { is: 'refusal', reason: 'lagged' | 'superseded', error: Error }

/** The data of a `gap` event. */
export interface Gap {
  /** The name of the channel, where the reader has several. */
  channel?: string
  /** The last event ID from which the reader wanted to go on. */
  requested: string
  /** The ID of the earliest event that is retained; null if there is none. */
  earliest: string | null
}

/** Whoever takes what a reading gives. */
export interface Taker {
  /**
   * There may be more to take.
   * @param urgent what it has not taken when this returns may be gone: it should take it, even if it would rather pause
   */
  onReady (urgent: boolean): void
}

export interface Reading {
  /**
   * What is published from here on is not missed. Called once, before all else.
   * @returns settles when it is known from where it reads, or that it cannot; never rejects, as `take` tells
   */
  begin (taker: Taker): Promise<unknown>
  /**
   * What comes next; undefined when there is nothing now, and then `onReady` is called when there may be more.
   * @throws what a broker, a snapshot or a filter throws
   */
  take (): Part | undefined
  /** Nothing more is taken, and nobody is called. */
  stop (): void
}

/** Nobody takes any more. */
export const NOBODY: Taker = { onReady () {} }
