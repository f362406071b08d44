/**
 * The channels of a hub by name. Whoever asks for a name that is in use gets the same channel. A channel is in use as long
 * as somebody holds it or reads it, and for as long as what was published to it here is retained; then it is let go of, as
 * an application may have one for each of its jobs, and a client may ask for any name. Those of start-up are kept for
 * good: they are often set up in one place, and asked for by name in others.
 */
import { isDeepStrictEqual } from 'node:util'
import { InvalidOption } from '../errors.ts'
import { WeakValues } from '../weak-values.ts'
import type { Channel } from './channel.ts'
import { checkChannelOptions, type ChannelOptions } from './options.ts'

/** Milliseconds between two looks for channels that are no longer used. */
const SWEEP = 15_000

export class Registry {
  readonly #channels = new WeakValues<Channel>()
  /** Those that are kept, though nobody may hold them. */
  readonly #kept = new Set<Channel>()
  readonly #startUp = new Set<Channel>()
  #sweeper: NodeJS.Timeout | undefined

  /** Whether channels that are made from now on are kept for good. */
  keeping = false

  /** The channel of this name, if it is in use. */
  get (name: string): Channel | undefined {
    return this.#channels.get(name)
  }

  add (channel: Channel): Channel {
    this.#channels.set(channel.name, channel)
    if (this.keeping) this.#startUp.add(channel)
    else channel.onPublish = () => this.#keep(channel)
    return channel
  }

  #keep (channel: Channel): void {
    this.#kept.add(channel)
    this.#sweepLater()
  }

  #sweepLater (): void {
    this.#sweeper ??= setTimeout(() => this.#sweep(), SWEEP).unref()
  }

  #sweep (): void {
    this.#sweeper = undefined
    for (const channel of this.#kept) if (!channel.mayRetain) this.#kept.delete(channel)
    if (this.#kept.size > 0) this.#sweepLater()
  }
}

/**
 * A channel has one set of options. Who asks for it again may leave them out, in part or altogether.
 * @throws {InvalidOption} where some are given that differ; of functions, only whether there is one
 */
export function checkSameOptions ({ name, options }: Channel, again: ChannelOptions): void {
  checkChannelOptions(again, name)
  const { events = options.events, history = {}, onLag = options.onLag, snapshot, key, compress = options.compress } = again
  const given = {
    events,
    history: { ...options.history, ...history },
    onLag,
    snapshot: options.snapshot ?? snapshot,
    key: options.key ?? key,
    compress
  }
  for (const option of ['events', 'history', 'onLag', 'snapshot', 'key', 'compress'] as const) {
    if (!isDeepStrictEqual(options[option], given[option])) {
      throw new InvalidOption(`channel '${name}' is there already, with other '${option}': give them the first time, and leave them out where you ask for it again`)
    }
  }
}
