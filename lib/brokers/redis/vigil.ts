/**
 * What is done by the clock for the channels of a shard that this process listens to: now and then it looks whether something
 * was lost that nobody has told, which also keeps positions known; and it looks whether a lease has run out.
 */
import type { Keys } from './keys.ts'
import type { Link } from './link.ts'
import { look, type Look } from './look.ts'
import type { Reader } from './reader.ts'
import { IDLE } from './scripts.ts'
import type { Watched } from './watched.ts'

/** Milliseconds between two visits to every channel. */
const ROUND = IDLE / 3

/** Channels that are visited at once. */
const VISITS = 256

/** Milliseconds over which processes come to see whether a lease has run out, so that most find the work done. */
const SPREAD = 1_000

export class Vigil {
  readonly #link: Link
  readonly #keys: Keys
  readonly #reader: Reader
  #round: NodeJS.Timeout
  #ended = false

  constructor (link: Link, keys: Keys, reader: Reader) {
    this.#link = link
    this.#keys = keys
    this.#reader = reader
    this.#round = this.#nextRound()
  }

  end (): void {
    this.#ended = true
    clearTimeout(this.#round)
  }

  /** That the owner of the channel is dead others learn by the clock; not in the first lease after Redis was away. */
  expectEnd (channel: Watched, { left, lease }: Pick<Look, 'left' | 'lease'>): void {
    clearTimeout(channel.lease)
    if (left < 0 || channel.isIdle) return
    const rest = this.#link.connectedAt + lease - performance.now()
    const spread = Math.random() * Math.min(lease / 8, SPREAD)
    channel.lease = setTimeout(() => this.visit(channel, lease), Math.max(left, rest) + spread + 1).unref()
  }

  /** Until it is known how long the lease is. */
  visitSoon (channel: Watched): void {
    this.visit(channel, SPREAD)
  }

  /** @param lease the length of one that should have run out */
  async visit (channel: Watched, lease?: number): Promise<void> {
    const { position } = channel
    try {
      const seen = await look(this.#link, this.#keys, channel.name, position, lease)
      if (position === undefined) this.expectEnd(channel, seen)
      else this.#reader.learn(channel, position, seen)
    } catch {
      // Redis is away, or what it has is damaged: of both others tell.
      if (lease !== undefined) this.expectEnd(channel, { left: lease, lease })
    }
  }

  async #visitAll (): Promise<void> {
    const { channels } = this.#reader
    for (let at = 0; at < channels.length; at += VISITS) {
      await Promise.all(channels.slice(at, at + VISITS).map((channel) => this.visit(channel)))
    }
    if (!this.#ended) this.#round = this.#nextRound()
  }

  #nextRound (): NodeJS.Timeout {
    return setTimeout(() => this.#visitAll(), ROUND).unref()
  }
}
