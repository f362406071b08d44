/**
 * Reads what comes, for all channels of a shard that this process listens to, by one blocked connection: it waits for the
 * shard's news, then reads the logs that have more, from where it was in each. So what it costs to wait does not depend on
 * how many channels there are, and they come and go while it is blocked.
 */
import { setTimeout as wait } from 'node:timers/promises'
import { compareEntryIds } from '../../entry-id.ts'
import type { Keys } from './keys.ts'
import type { Link } from './link.ts'
import { look } from './look.ts'
import { parseStored } from './record.ts'
import type { Watched } from './watched.ts'

/** Milliseconds for which a read is blocked at the most: so long it takes until a dead connection is noticed. */
const BLOCK = 5_000

/** The same while it is not known yet from where a channel that has more is read. */
const SOON = 20

/** Milliseconds until what has failed is tried again. */
const AGAIN = 100

/** As many as are read at once: of the news, of channels, and of entries of all of these. */
const NEWS = 1_000
const CHANNELS = 64
const ENTRIES = 1_024

/** Channels that are looked at at once. */
const LOOKS = 256

type Entries = [id: string, fields: string[]][]

/** What XREAD gives, by key. */
type Streams = [key: string, entries: Entries][] | null

export class Reader {
  readonly #link: Link
  readonly #keys: Keys
  readonly #channels = new Map<string, Watched>()
  /** Those that may have more. */
  readonly #rung = new Set<Watched>()
  /** Up to here the news were read. */
  #news = '0-0'
  /** The connection by which nothing was missed; 0: something may have been. */
  #connection = 0
  #running = false
  #ended = false

  constructor (link: Link, keys: Keys) {
    this.#link = link
    this.#keys = keys
  }

  get channels (): Watched[] {
    return [...this.#channels.values()]
  }

  get (name: string): Watched | undefined {
    return this.#channels.get(name)
  }

  add (channel: Watched): void {
    this.#channels.set(channel.name, channel)
  }

  delete (channel: Watched): void {
    if (this.#channels.get(channel.name) === channel) this.#channels.delete(channel.name)
    this.#rung.delete(channel)
    clearTimeout(channel.lease)
  }

  /** @param news their newest position, at the moment from which the first channel is to be read */
  start (news: string): void {
    if (this.#running) return
    this.#running = true
    this.#news = news
    this.#connection = this.#link.connections
    this.#run()
  }

  end (error: unknown): void {
    this.#ended = true
    for (const channel of this.channels) {
      this.delete(channel)
      channel.fail(error)
    }
    this.#link.end()
  }

  async #run (): Promise<void> {
    while (this.#channels.size > 0 && !this.#ended) {
      try {
        if (this.#connection === 0 || this.#connection !== this.#link.connections) await this.#catchUp()
        await this.#readNews()
        await this.#readLogs()
      } catch {
        // The link tells why.
        this.#connection = 0
        await wait(AGAIN)
      }
    }
    this.#running = false
  }

  /** After a new connection: what has become of each channel is asked for, as Redis may have come back without some of it. */
  async #catchUp (): Promise<void> {
    const newest = await this.#ask('XREVRANGE', this.#keys.news, '+', '-', 'COUNT', 1) as Entries
    const { connections } = this.#link
    this.#news = newest[0]?.[0] ?? '0-0'
    const { channels } = this
    for (let at = 0; at < channels.length; at += LOOKS) {
      await Promise.all(channels.slice(at, at + LOOKS).map((channel) => this.#check(channel)))
    }
    this.#connection = connections
  }

  async #check (channel: Watched): Promise<void> {
    const { position } = channel
    if (position !== undefined) {
      const { whole, last } = await look(this.#link, this.#keys, channel.name, position)
      if (this.#channels.get(channel.name) !== channel) return
      if (!whole) channel.lose(last)
    }
    this.#rung.add(channel)
  }

  /** To be told of the same twice does no harm. News that were missed show by how many there are. */
  async #readNews (): Promise<void> {
    const block = this.#rung.size === 0 ? BLOCK : this.#readable().length === 0 ? SOON : undefined
    const blocking = block === undefined ? [] : ['BLOCK', block]
    const streams = await this.#ask('XREAD', ...blocking, 'COUNT', NEWS, 'STREAMS', this.#keys.news, this.#news) as Streams
    const news = streams?.[0]?.[1] ?? []
    if (news.length === NEWS && await this.#haveGone()) this.#connection = 0
    for (const [id, [, name]] of news) {
      this.#news = id
      const channel = this.#channels.get(name!)
      if (channel !== undefined) this.#rung.add(channel)
    }
  }

  /** Whether the news go back no more to where they were read. */
  async #haveGone (): Promise<boolean> {
    const oldest = await this.#ask('XRANGE', this.#keys.news, '-', '+', 'COUNT', 1) as Entries
    return oldest[0] === undefined || compareEntryIds(oldest[0][0], this.#news) > 0
  }

  async #readLogs (): Promise<void> {
    const channels = this.#readable().slice(0, CHANNELS)
    if (channels.length === 0) return
    const keys = channels.map(({ name }) => this.#keys.log(name))
    const count = Math.floor(ENTRIES / channels.length)
    const streams = await this.#ask('XREAD', 'COUNT', count, 'STREAMS', ...keys, ...channels.map(({ read }) => read)) as Streams
    for (const channel of channels) this.#rung.delete(channel)
    const byKey = new Map(streams)
    for (const [index, channel] of channels.entries()) {
      const entries = byKey.get(keys[index]!) ?? []
      if (entries.length === count) this.#rung.add(channel)
      this.#take(channel, entries)
    }
  }

  #take (channel: Watched, entries: Entries): void {
    for (const value of entries) {
      // A listener may have been the last one.
      if (this.#channels.get(channel.name) !== channel) return
      const stored = parseStored(value)
      if (stored === undefined) {
        channel.read = value[0]
      } else {
        if (stored.isEnd) this.delete(channel)
        channel.take(stored)
      }
    }
  }

  /** Those that may have more, and of which it is known from where. */
  #readable (): Watched[] {
    return [...this.#rung].filter(({ position }) => position !== undefined)
  }

  #ask (...args: (string | number)[]): Promise<unknown> {
    return this.#link.ask({ args: () => args, repeat: 'never', longer: BLOCK })
  }
}
