/**
 * Reads what comes, for all channels of a shard that this process listens to, by one blocked connection: it waits for the
 * shard's news and for a few logs, then reads those that have more, from where it was in each. So what it costs to wait
 * does not depend on how many channels there are, and they come and go while it is blocked.
 */
import { setTimeout as wait } from 'node:timers/promises'
import { compareEntryIds } from '../../entry-id.ts'
import { BrokerUnavailable, OutcomeUnknown } from '../../errors.ts'
import type { Keys } from './keys.ts'
import { isRefusal, type Link } from './link.ts'
import { look, type Look } from './look.ts'
import { parseStored } from './record.ts'
import type { Watched } from './watched.ts'

/** Milliseconds for which a read is blocked at the most: so long it takes until a dead connection is noticed. */
const BLOCK = 5_000

/** The same while a channel has more, and it is not known yet from where it is read. */
const SOON = 20

/**
 * Milliseconds between two answers, when there is always more: what comes in between is read at once, which costs Redis a
 * fraction where many processes read. Who is alone does not wait.
 */
const BREATH = 10

/** Milliseconds until what has failed is tried again. */
const AGAIN = 100

/** Channels that had something last, which are waited for themselves: what comes on them comes a way there and back earlier. */
const RECENT = 16

/** As many as are read at once: channels that are known to have more, and entries of everything. */
const CHANNELS = 64
const ENTRIES = 1_024

/** Channels that are looked at at once. */
const LOOKS = 256

type Entries = [id: string, fields: string[]][]

/** What XREAD gives, by key. */
type Streams = [key: string, entries: Entries][] | null

export class Reader {
  /** A channel has got an owner. */
  onHeld: (channel: Watched) => void = () => {}
  /** It is known where a channel stands. */
  onSeen: (channel: Watched, seen: Look) => void = () => {}
  readonly #link: Link
  readonly #keys: Keys
  readonly #onError: (error: unknown) => void
  readonly #channels = new Map<string, Watched>()
  /** Those that may have more. */
  readonly #rung = new Set<Watched>()
  /** Those that had something last, the latest at the end. */
  readonly #recent = new Set<Watched>()
  /** Up to here the news were read. */
  #news = '0-0'
  /** The connection by which nothing was missed; 0: something may have been. */
  #connection = 0
  #answeredAt = 0
  #running = false
  /** That it cannot read was told. */
  #told = false
  #ended = false

  /** @param onError told of what Redis refuses */
  constructor (link: Link, keys: Keys, onError: (error: unknown) => void) {
    this.#link = link
    this.#keys = keys
    this.#onError = onError
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
    if (this.#has(channel)) this.#channels.delete(channel.name)
    this.#rung.delete(channel)
    this.#recent.delete(channel)
    clearTimeout(channel.lease)
  }

  #has (channel: Watched): boolean {
    return this.#channels.get(channel.name) === channel
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
        await this.#readOn()
        this.#told = false
        if (this.#rung.size === 0) await this.#breathe()
      } catch (error) {
        this.#connection = 0
        this.#tell(error)
        await wait(AGAIN)
      }
    }
    this.#running = false
  }

  /** Of broken connections the link tells. */
  #tell (error: unknown): void {
    const isBroken = error instanceof OutcomeUnknown || (error instanceof BrokerUnavailable && !isRefusal(error))
    if (isBroken || this.#told) return
    this.#told = true
    this.#onError(error)
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
    // Since it was asked from where it is read, something may have come.
    if (position === undefined) {
      this.#rung.add(channel)
      return
    }
    try {
      this.learn(channel, position, await look(this.#link, this.#keys, channel.name, position))
    } catch (error) {
      if (!isRefusal(error)) throw error
      // What Redis has of this one is damaged: the others go on.
      this.delete(channel)
      channel.fail(error)
    }
  }

  /** @param position that was asked about */
  learn (channel: Watched, position: string, seen: Look): void {
    const { whole, last, closed } = seen
    if (!this.#has(channel)) return
    this.onSeen(channel, seen)
    if (!whole && channel.position === position) channel.lose(last)
    if (closed || channel.position !== last) this.#rung.add(channel)
  }

  async #breathe (): Promise<void> {
    const before = this.#answeredAt
    this.#answeredAt = performance.now()
    const rest = before + BREATH - this.#answeredAt
    if (rest > 0) await wait(rest)
  }

  async #readOn (): Promise<void> {
    const rung = [...this.#rung].filter(({ position }) => position !== undefined).slice(0, CHANNELS)
    const channels = [...new Set([...rung, ...this.#recent])]
    const count = Math.floor(ENTRIES / (channels.length + 1))
    const block = rung.length > 0 ? [] : ['BLOCK', this.#rung.size > 0 ? SOON : BLOCK]
    const keys = [this.#keys.news, ...channels.map(({ name }) => this.#keys.log(name))]
    const positions = [this.#news, ...channels.map(({ readUpTo }) => readUpTo)]
    const streams = new Map(await this.#read([...block, 'COUNT', count, 'STREAMS', ...keys, ...positions], channels))
    for (const [index, channel] of channels.entries()) {
      if (!this.#has(channel)) continue
      const entries = streams.get(keys[index + 1]!) ?? []
      // Meanwhile it may have been learnt that something was lost.
      const isNext = channel.readUpTo === positions[index + 1]
      this.#rung.delete(channel)
      if (!isNext || entries.length === count) this.#rung.add(channel)
      if (isNext && entries.length > 0) this.#take(channel, entries)
    }
    if (streams.size === 0 && rung.length === 0 && await this.#haveGoneBack()) this.#connection = 0
    const news = streams.get(this.#keys.news) ?? []
    // News that were missed show by how many there are.
    if (news.length === count && await this.#haveGone()) this.#connection = 0
    this.#hear(news)
  }

  async #read (args: (string | number)[], channels: readonly Watched[]): Promise<Streams> {
    try {
      return await this.#ask('XREAD', ...args) as Streams
    } catch (error) {
      if (isRefusal(error)) await this.#setAside(channels)
      throw error
    }
  }

  /** A log in whose place others have put something else must not hold up the rest. */
  async #setAside (channels: readonly Watched[]): Promise<void> {
    for (const channel of channels) {
      const type = await this.#ask('TYPE', this.#keys.log(channel.name))
      if (type === 'stream' || type === 'none') continue
      const { last } = await look(this.#link, this.#keys, channel.name)
      this.#rung.delete(channel)
      this.#recent.delete(channel)
      channel.lose(last)
    }
  }

  #hear (news: Entries): void {
    for (const [id, [, name, , last, isHeld]] of news) {
      this.#news = id
      const channel = this.#channels.get(name!)
      if (channel === undefined) continue
      if (compareEntryIds(last!, channel.readUpTo) > 0) this.#rung.add(channel)
      if (isHeld !== undefined) this.onHeld(channel)
    }
  }

  /** Whether others have deleted the news, and those that came since are before the ones that were read. */
  async #haveGoneBack (): Promise<boolean> {
    const newest = await this.#ask('XREVRANGE', this.#keys.news, '+', '-', 'COUNT', 1) as Entries
    return newest[0] !== undefined && compareEntryIds(newest[0][0], this.#news) < 0
  }

  /** Whether the news go back no more to where they were read. */
  async #haveGone (): Promise<boolean> {
    const oldest = await this.#ask('XRANGE', this.#keys.news, '-', '+', 'COUNT', 1) as Entries
    return oldest[0] === undefined || compareEntryIds(oldest[0][0], this.#news) > 0
  }

  #take (channel: Watched, entries: Entries): void {
    this.#remember(channel)
    for (const value of entries) {
      // A listener may have been the last one.
      if (!this.#has(channel)) return
      const stored = parseStored(value)
      if (stored === undefined) {
        channel.readUpTo = value[0]
      } else {
        if (stored.isEnd) this.delete(channel)
        channel.take(stored)
      }
    }
  }

  #remember (channel: Watched): void {
    this.#recent.delete(channel)
    this.#recent.add(channel)
    const [oldest] = this.#recent
    if (this.#recent.size > RECENT) this.#recent.delete(oldest!)
  }

  #ask (...args: (string | number)[]): Promise<unknown> {
    return this.#link.ask({ args: () => args, once: true, reads: true, longer: BLOCK })
  }
}
