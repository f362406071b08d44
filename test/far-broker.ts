/**
 * The memory broker at a distance: whatever a law of lib/broker.ts leaves open about time and amounts is drawn by lot. Calls
 * take effect some turns later and settle some turns after that, entries are under way when they can be read back already,
 * pages are short, and now and then a listener misses entries and is told `lost`.
 */
import { memoryBroker, type Broker, type Entry, type History, type Hold, type Listener, type Listening, type Message, type Page } from '../index.ts'
import { turns } from './helpers.ts'
import { below, createRandom, type Random } from './processes/random.ts'

export interface Distance {
  /** What is at the other end, which several may share. */
  inner?: Broker
  /** Turns of the event loop that anything takes at the most. */
  turns?: number
  /** How likely a listener loses its way at an entry. */
  lost?: number
  /** Entries that it then misses at the most. */
  missed?: number
  /** What a call is rejected with; undefined: it is not. It may have taken effect all the same. */
  reject?: (method: keyof Broker, channel: string) => Error | undefined
  /** Whether a call is never answered. It does not take effect either. */
  silent?: (method: keyof Broker, channel: string) => boolean
}

/** What is under way to one listener. */
type News = { is: 'entry', entry: Entry } | { is: 'lost', position: string } | { is: 'closed' }

export class FarBroker implements Broker {
  readonly calls = { open: 0, append: 0, close: 0, read: 0, listen: 0 }
  /** Those who listen now. */
  listeners = 0
  /** How often a listener was told that it may have missed entries. */
  timesLost = 0
  /** Entries that came back from reads. */
  readBack = 0
  readonly #inner: Broker
  readonly #random: Random
  readonly #distance: Distance
  /** What was asked for of a channel takes effect in this order. */
  readonly #orders = new Map<string, Promise<unknown>>()
  readonly #ids = new Map<string, string[]>()
  readonly #ways = new Set<Way>()

  constructor (seed: number, distance: Distance = {}) {
    this.#inner = distance.inner ?? memoryBroker()
    this.#random = createRandom(seed)
    this.#distance = distance
  }

  /** The IDs of all that was appended to a channel by this broker, retained or not. */
  idsOf (channel: string): readonly string[] {
    return this.#ids.get(channel) ?? []
  }

  open (channel: string, hold: Hold): Promise<boolean> {
    return this.#ask('open', channel, () => this.#inner.open(channel, hold))
  }

  append (channel: string, message: Message, history: History, owner?: string): Promise<string> {
    return this.#ask('append', channel, async () => {
      const id = await this.#inner.append(channel, message, history, owner)
      if (!this.#ids.has(channel)) this.#ids.set(channel, [])
      this.#ids.get(channel)!.push(id)
      return id
    })
  }

  close (channel: string, forgetAfter: number | false, owner?: string): Promise<void> {
    return this.#ask('close', channel, () => this.#inner.close(channel, forgetAfter, owner))
  }

  read (channel: string, after: string | undefined, most: { entries: number, bytes: number }): Promise<Page> {
    const entries = 1 + below(this.#random, most.entries)
    // It need not wait for what was asked for before, and sees more than was told.
    return this.#ask('read', channel, async () => {
      const page = await this.#inner.read(channel, after, { entries, bytes: most.bytes })
      this.readBack += page.entries.length
      return page
    }, false)
  }

  async listen (channel: string, listener: Listener): Promise<Listening> {
    const way = new Way(this, listener, this.#random, this.#distance)
    const listening = await this.#ask('listen', channel, () => {
      return this.#inner.listen(channel, way)
    }, true, (listening) => listening.stop())
    this.listeners++
    way.position ??= listening.position
    this.#ways.add(way)
    const stop = () => {
      if (!way.stopped) this.listeners--
      way.stopped = true
      this.#ways.delete(way)
      listening.stop()
    }
    return { ...listening, stop }
  }

  /** All listeners miss what comes, until they are told that they have lost their way. */
  leave (): void {
    for (const way of this.#ways) way.leave()
  }

  /** All listeners are told that they have lost their way, though they may have missed nothing. */
  comeBack (): void {
    for (const way of this.#ways) way.comeBack()
  }

  /** @param undo what is to be done where it has taken effect, and is said to have failed */
  async #ask<Result> (
    method: keyof Broker, channel: string, act: () => Promise<Result>, inOrder = true, undo: (result: Result) => void = () => {}
  ): Promise<Result> {
    this.calls[method]++
    if (this.#distance.silent?.(method, channel)) return new Promise(() => {})
    const before = inOrder ? this.#orders.get(channel) : undefined
    const effect = (async () => {
      await before
      await this.pause()
      const error = this.#distance.reject?.(method, channel)
      if (error !== undefined && this.#random() < 0.5) throw error
      const result = await act()
      if (error === undefined) return result
      undo(result)
      throw error
    })()
    if (inOrder) this.#orders.set(channel, effect.catch(() => {}))
    try {
      return await effect
    } finally {
      await this.pause()
    }
  }

  pause (): Promise<void> {
    return turns(below(this.#random, (this.#distance.turns ?? 4) + 1))
  }
}

/** The way from the engine to one listener: news take their time on it, and stay in their order. */
class Way implements Listener {
  stopped = false
  /** Of the last entry that the engine has sent, or from which it sends them. */
  position: string | undefined
  readonly #broker: FarBroker
  readonly #listener: Listener
  readonly #random: Random
  readonly #lost: number
  readonly #missed: number
  #news: News[] = []
  #moving = false
  /** Entries that are still to be missed; undefined where the way is whole. */
  #away: number | undefined

  constructor (broker: FarBroker, listener: Listener, random: Random, { lost = 0, missed = 20 }: Distance) {
    this.#broker = broker
    this.#listener = listener
    this.#random = random
    this.#lost = lost
    this.#missed = missed
  }

  entry (entry: Entry): void {
    this.position = entry.id
    if (this.#away !== undefined) {
      if (this.#away-- <= 1) this.comeBack()
    } else if (this.#random() < this.#lost) {
      this.#goAway(entry)
    } else {
      this.#send({ is: 'entry', entry })
    }
  }

  closed (): void {
    if (this.#away !== undefined) this.comeBack()
    this.#send({ is: 'closed' })
  }

  /** @throws always: nobody ends the memory broker */
  failed (): never {
    throw new Error('the memory broker has failed')
  }

  /** @throws always: the memory broker does not lose its way */
  lost (): never {
    throw new Error('the memory broker has lost its way')
  }

  /** What is under way may be missed, too; or nothing is. */
  #goAway (entry: Entry): void {
    const count = below(this.#random, this.#missed + 1)
    if (count === 0) {
      this.#send({ is: 'entry', entry })
      this.comeBack()
      return
    }
    if (this.#random() < 0.5) this.#news = this.#news.filter(({ is }) => is === 'lost')
    this.#away = count
    // Nothing else may be appended.
    turns(5 + below(this.#random, 20)).then(() => { if (this.#away !== undefined) this.comeBack() })
  }

  leave (): void {
    this.#away = Infinity
  }

  comeBack (): void {
    this.#away = undefined
    this.#send({ is: 'lost', position: this.position! })
  }

  #send (news: News): void {
    this.#news.push(news)
    if (this.#moving) return
    this.#moving = true
    this.#move()
  }

  async #move (): Promise<void> {
    while (this.#news.length > 0 && !this.stopped) {
      await this.#broker.pause()
      // Some come together.
      for (let count = 1 + below(this.#random, 8); count > 0 && !this.stopped; count--) this.#tell(this.#news.shift())
    }
    this.#moving = false
  }

  #tell (news: News | undefined): void {
    switch (news?.is) {
      case 'entry':
        return this.#listener.entry(news.entry)
      case 'closed':
        return this.#listener.closed()
      case 'lost':
        this.#broker.timesLost++
        this.#listener.lost(news.position)
    }
  }
}
