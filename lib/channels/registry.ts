/**
 * The channels of a hub by name. Whoever asks for a name that is in use gets the same channel. A channel is in use as long
 * as somebody holds it, or reads it; then it is let go of, as an application may have one for each of its jobs. Those of
 * start-up are kept for good: they are often set up in one place, and asked for by name in others.
 */
import { isDeepStrictEqual } from 'node:util'
import { InvalidOption } from '../errors.ts'
import type { Channel } from './channel.ts'
import { resolveChannelOptions, type ChannelOptions, type ResolvedChannelOptions } from './options.ts'

export class Registry {
  readonly #channels = new Map<string, WeakRef<Channel>>()
  readonly #kept = new Set<Channel>()
  readonly #collected = new FinalizationRegistry<string>((name) => {
    // The name may have a new channel by now.
    if (this.#channels.get(name)?.deref() === undefined) this.#channels.delete(name)
  })

  /** Whether channels that are made from now on are kept for good. */
  keeping = false

  /** The channel of this name, else the one that is made. */
  get (name: string, make: () => Channel): Channel {
    const known = this.#channels.get(name)?.deref()
    if (known !== undefined) return known
    const channel = make()
    this.#channels.set(name, new WeakRef(channel))
    this.#collected.register(channel, name)
    if (this.keeping) this.#kept.add(channel)
    return channel
  }
}

/**
 * A channel has one set of options. Who asks for it again may leave them out, in part or altogether.
 * @throws {InvalidOption} where some are given that differ; functions are not compared
 */
export function checkSameOptions (channel: Channel, options: ChannelOptions): void {
  const again = resolveChannelOptions({ ...pick(channel.options), ...options }, channel.name)
  for (const name of ['events', 'history', 'onLag'] as const) {
    if (options[name] !== undefined && !isDeepStrictEqual(channel.options[name], again[name])) {
      throw new InvalidOption(`channel '${channel.name}' is there already, with other '${name}'`)
    }
  }
}

function pick ({ onLag, key }: ResolvedChannelOptions): ChannelOptions {
  return { onLag, key }
}
