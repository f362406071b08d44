/**
 * The channels of a hub by name. Whoever asks for a name that is in use gets the same channel. A channel is in use as long
 * as somebody holds it, or reads it; then it is let go of, as an application may have one for each of its jobs. Those of
 * start-up are kept for good: they are often set up in one place, and asked for by name in others.
 */
import { isDeepStrictEqual } from 'node:util'
import { InvalidOption } from '../errors.ts'
import { WeakValues } from '../weak-values.ts'
import type { Channel } from './channel.ts'
import { checkChannelOptions, type ChannelOptions } from './options.ts'

export class Registry {
  readonly #channels = new WeakValues<Channel>()
  readonly #kept = new Set<Channel>()

  /** Whether channels that are made from now on are kept for good. */
  keeping = false

  /** The channel of this name, if it is in use. */
  get (name: string): Channel | undefined {
    return this.#channels.get(name)
  }

  add (channel: Channel): Channel {
    this.#channels.set(channel.name, channel)
    if (this.keeping) this.#kept.add(channel)
    return channel
  }
}

/**
 * A channel has one set of options. Who asks for it again may leave them out, in part or altogether.
 * @throws {InvalidOption} where some are given that differ; functions are not compared
 */
export function checkSameOptions ({ name, options }: Channel, again: ChannelOptions): void {
  checkChannelOptions(again, name)
  const { events = options.events, history = {}, onLag = options.onLag } = again
  const given = { events, history: { ...options.history, ...history }, onLag }
  for (const option of ['events', 'history', 'onLag'] as const) {
    if (!isDeepStrictEqual(options[option], given[option])) {
      throw new InvalidOption(`channel '${name}' is there already, with other '${option}'`)
    }
  }
}
