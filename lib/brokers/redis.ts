/** Channels on many machines: each a Redis stream (https://redis.io/docs/latest/develop/data-types/streams/). */
import { randomBytes } from 'node:crypto'
import {
  sizeOf, type Broker, type History, type Hold, type Listener, type Listening, type Message, type Most, type Page
} from '../broker.ts'
import { describe } from '../describe.ts'
import { isEntryId } from '../entry-id.ts'
import { BrokerUnavailable, ChannelClosed, InvalidOption } from '../errors.ts'
import { quiet, warn, type OnError } from '../log.ts'
import { checkOptions, isFunction, isInteger } from '../checks.ts'
import { Keys, shardOf } from './redis/keys.ts'
import type { RedisClient } from './redis/client.ts'
import { Link, type LinkOptions } from './redis/link.ts'
import { damaged, look } from './redis/look.ts'
import { Reader } from './redis/reader.ts'
import { toPage, toRecord } from './redis/record.ts'
import { APPEND, CLOSE, OPEN, READ, SCRIPTS } from './redis/scripts.ts'
import { Turns } from './redis/turns.ts'
import { Vigil } from './redis/vigil.ts'
import { Watched } from './redis/watched.ts'

/** Options of `redisBroker`. A wrong one throws FST_SSE_INVALID_OPTION. */
export interface RedisBrokerOptions {
  /** What all keys begin with, after the client's own `keyPrefix`. Default `'sse:'`. */
  prefix?: string | undefined
  /**
   * Over how many hash tags channels are spread: nodes of a cluster that share the work. All processes need the same number.
   * For each that it uses a process has one connection to write, and one to read. Default 1, from 1 to 1_024.
   */
  shards?: number | undefined
  /**
   * Milliseconds after which a call is settled, though Redis has not answered, or is out of reach. Default 10_000, from 1 to
   * 600_000.
   */
  timeout?: number | undefined
  /** Told once of each time that Redis is out of reach, or cannot be read. Default: `process.emitWarning`. */
  onError?: OnError | undefined
}

/** What `redisBroker` gives. Whoever has made it ends it: until then it keeps the process alive. */
export interface RedisBroker extends Broker {
  /** Closes its connections. What is still asked for is rejected; those who read are given an error. */
  end (): Promise<void>
}

/** The channels of one hash tag. */
interface Shard {
  readonly keys: Keys
  /** By which it is asked. On a cluster each shard has its own, once it is used: a node may be away, and the others are not. */
  writer: Link | undefined
  /** Who only publishes has none. */
  reading: { reader: Reader, vigil: Vigil } | undefined
}

class RedisStreams implements RedisBroker {
  readonly #client: RedisClient
  readonly #options: LinkOptions
  readonly #tell: OnError
  /** Those that have lost their connection: one outage is told once. */
  readonly #away = new Set<Link>()
  readonly #shards: Shard[]
  /** By which an append whose answer was lost is known again, with a number. */
  readonly #token = randomBytes(6).toString('base64url')
  #appends = 0
  /** Of a cluster. By one connection everything is in order by itself. */
  readonly #turns: Turns | undefined
  #ended = false

  constructor (client: RedisClient, prefix: string, shards: number, timeout: number, onError: OnError) {
    this.#client = client
    this.#tell = quiet(onError)
    this.#options = {
      scripts: SCRIPTS,
      timeout,
      onAway: (link, error) => {
        if (this.#away.size === 0) this.#tell(error, 'Redis is out of reach, which is tried again')
        this.#away.add(link)
      },
      onBack: (link) => this.#away.delete(link)
    }
    const start = (client.options.keyPrefix ?? '') + prefix
    const writer = client.isCluster ? undefined : this.#connect()
    this.#shards = Array.from({ length: shards }, (_, shard) => ({ keys: new Keys(start, shard), writer, reading: undefined }))
    this.#turns = client.isCluster ? new Turns(timeout) : undefined
  }

  async open (channel: string, { owner, lease, will, forgetAfter }: Hold): Promise<boolean> {
    const { header, text } = will === undefined ? { header: '', text: '' } : toRecord(will, this.#newToken())
    const size = will === undefined ? 0 : sizeOf(will)
    const { writer, keys } = this.#writingOf(channel)
    const args = () => [channel, writer.tag, owner, lease, forgetAfter, header, text, size]
    return await writer.evaluate(OPEN, keys, { args }) === 1
  }

  async append (channel: string, message: Message, { events, bytes, age }: History, owner = ''): Promise<string> {
    const { header, text } = toRecord(message, this.#newToken())
    const { writer, keys } = this.#writingOf(channel)
    const fixed = [header, text, sizeOf(message), events, bytes, age === false ? '' : age, owner]
    const args = () => [channel, writer.tag, ...fixed]
    const trace = { channel, keys, header }
    const id = await this.#inTurn(channel, (longer) => writer.evaluate(APPEND, keys, { args, trace, longer }))
    if (id === null) throw new ChannelClosed(channel)
    return id as string
  }

  async close (channel: string, forgetAfter: number | false, owner = ''): Promise<void> {
    const { writer, keys } = this.#writingOf(channel)
    const args = () => [channel, writer.tag, forgetAfter === false ? '' : forgetAfter, owner]
    await this.#inTurn(channel, (longer) => writer.evaluate(CLOSE, keys, { args, longer }))
  }

  async read (channel: string, after: string | undefined, most: Most): Promise<Page> {
    const { writer, keys } = this.#writingOf(channel)
    const args = () => [channel, writer.tag, after ?? '', most.entries, most.bytes]
    const reply = await writer.evaluate(READ, keys, { args, reads: true })
    const [position, complete, page] = reply as [string, number, unknown[]]
    if (!isEntryId(position)) throw damaged(channel)
    return toPage(position, complete === 1, page)
  }

  async listen (name: string, listener: Listener): Promise<Listening> {
    const { keys, writer, reader, vigil } = this.#readingOf(name)
    const channel = reader.get(name) ?? new Watched(name)
    reader.add(channel)
    const recipient = channel.add(listener)
    const stop = () => {
      channel.delete(recipient)
      if (channel.isIdle) reader.delete(channel)
    }
    try {
      const seen = await look(writer, keys, name)
      if (seen.closed) {
        stop()
      } else {
        channel.begin(recipient, seen.last)
        reader.start(seen.news)
        vigil.expectEnd(channel, seen)
      }
      return { position: seen.last, closed: seen.closed, known: seen.known, stop }
    } catch (error) {
      stop()
      throw error
    }
  }

  async end (): Promise<void> {
    this.#ended = true
    const error = new BrokerUnavailable('it was ended')
    for (const { writer, reading } of this.#shards) {
      reading?.vigil.end()
      reading?.reader.end(error)
      writer?.end()
    }
  }

  /** @param task is given by how much longer it may take, in ms */
  #inTurn (channel: string, task: (longer: number) => Promise<unknown>): Promise<unknown> {
    return this.#turns === undefined ? task(0) : this.#turns.take(channel, (waited) => task(-waited))
  }

  #connect (): Link {
    return new Link(this.#client, this.#options)
  }

  #shardOf (channel: string): Shard {
    return this.#shards[shardOf(channel, this.#shards.length)]!
  }

  #writerOf (shard: Shard): Link {
    if (this.#ended) throw new BrokerUnavailable('it was ended')
    shard.writer ??= this.#connect()
    return shard.writer
  }

  #writingOf (channel: string): { writer: Link, keys: readonly string[] } {
    const shard = this.#shardOf(channel)
    return { writer: this.#writerOf(shard), keys: shard.keys.of(channel) }
  }

  #readingOf (channel: string): { keys: Keys, writer: Link, reader: Reader, vigil: Vigil } {
    const shard = this.#shardOf(channel)
    const { keys } = shard
    const writer = this.#writerOf(shard)
    if (shard.reading === undefined) {
      const onError = (error: unknown) => this.#tell(error, 'what comes on channels cannot be read from Redis')
      const reader: Reader = new Reader(this.#connect(), keys, onError)
      const vigil = new Vigil(writer, keys, reader)
      reader.onHeld = (channel) => vigil.visitSoon(channel)
      reader.onSeen = (channel, seen) => vigil.expectEnd(channel, seen)
      shard.reading = { reader, vigil }
    }
    return { keys, writer, ...shard.reading }
  }

  #newToken (): string {
    return `${this.#token}${(this.#appends++).toString(36)}`
  }
}

const CHECKS = {
  prefix: (value: unknown) => typeof value === 'string' ? undefined : 'a string',
  shards: (value: unknown) => isInteger(value, 1, 1_024) ? undefined : 'an integer from 1 to 1_024',
  timeout: (value: unknown) => isInteger(value, 1, 600_000) ? undefined : 'an integer of milliseconds from 1 to 600_000',
  onError: isFunction
}

/**
 * A broker on Redis 6.2 or later, or Valkey. Apps, workers and cron jobs that have the same Redis share their channels.
 * @param client of ioredis: its options are what counts. The broker makes connections of its own: one to write and to read
 *   back; one that waits for what comes, once somebody reads. The client stays the caller's
 * @throws FST_SSE_INVALID_OPTION
 */
export function redisBroker (client: RedisClient, options: RedisBrokerOptions = {}): RedisBroker {
  if (typeof client?.duplicate !== 'function' || typeof client.isCluster !== 'boolean') {
    throw new InvalidOption("redisBroker needs a client of the package 'ioredis' (others do not fit): " +
      `redisBroker(new Redis()); got ${describe(client)}`)
  }
  checkOptions(options, CHECKS, 'redisBroker')
  const { prefix = 'sse:', shards = 1, timeout = 10_000, onError = warn } = options
  return new RedisStreams(client, prefix, shards, timeout, onError)
}
