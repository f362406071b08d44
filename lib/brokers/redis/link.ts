/**
 * One connection to Redis, which outlives its breaks. What is asked for is sent in order, waits while Redis is out of
 * reach, and is asked for again where the connection broke before the answer; in bounded time it is settled.
 */
import { BrokerUnavailable, OutcomeUnknown } from '../../errors.ts'
import { reasonOf } from '../../describe.ts'
import { STEP, type Script } from './scripts.ts'

type Argument = string | number

/** What is needed of a connection of ioredis. */
interface Connection {
  readonly status: string
  on (event: string, listener: (error: Error) => void): unknown
  call (command: string, ...args: Argument[]): Promise<unknown>
  connect (): Promise<void>
  disconnect (reconnect?: boolean): void
}

/** A client of ioredis 5 or 6: `new Redis(…)` or `new Cluster(…)`. */
export interface RedisClient {
  readonly isCluster: boolean
  readonly options: { keyPrefix?: string | undefined }
  duplicate (...options: any[]): any
}

export interface LinkOptions {
  scripts: readonly Script[]
  /** Milliseconds after which what was asked for is settled. */
  timeout: number
  /** Told once of each time that Redis is out of reach. */
  onError: (error: unknown, message: string) => void
}

export interface Order {
  /** @param again whether it may have been carried out before */
  args: (again: boolean) => Argument[]
  /** Whether it can be asked for again: 'here' is by the same server process, which remembers. */
  repeat: 'always' | 'here' | 'never'
  /** Milliseconds by which it may take longer. */
  longer?: number
}

interface Pending extends Order {
  /** Those that are asked for again keep their place. */
  number: number
  sentTo: string | undefined
  timer: NodeJS.Timeout | undefined
  resolve (reply: unknown): void
  reject (error: unknown): void
}

/** It is the link that asks again, and that keeps what waits. */
const NEVER_AGAIN = { autoResendUnfulfilledCommands: false, enableOfflineQueue: false, maxRetriesPerRequest: 0 }

/** Milliseconds after which what a node of a cluster has not answered is asked for again. */
const RETURN = 100

export class Link {
  /** How often it was connected; 0: not yet. */
  connections = 0
  /** `performance.now()` of the last time. */
  connectedAt = 0
  /** Drawn anew for each connection. */
  tag = 0
  readonly #client: Connection
  readonly #isCluster: boolean
  readonly #options: LinkOptions
  readonly #waiting: Pending[] = []
  readonly #sent = new Set<Pending>()
  #number = 0
  #usable = false
  #told = false
  #ended = false
  /** Which server process it is connected to; of a cluster that is not known. */
  #server = ''
  /** The clock of Redis less that of this process. */
  #ahead = 0
  #lastError: Error | undefined

  constructor (client: RedisClient, options: LinkOptions) {
    this.#options = options
    this.#isCluster = client.isCluster
    this.#client = duplicate(client)
    this.#client.on('ready', () => {
      this.#open().catch((error: Error) => {
        this.#lastError = error
        this.#client.disconnect(true)
      })
    })
    this.#client.on('close', () => this.#lose())
    this.#client.on('error', (error) => { this.#lastError = error })
    // It tries again by itself, and tells by 'error'.
    this.#client.connect().catch(() => {})
  }

  /** Milliseconds since 1970 by the clock of Redis, or a minute less, should that be set back. */
  get safeTime (): number {
    return Math.floor(performance.now() + this.#ahead) - 60_000
  }

  /** @throws (rejects) {BrokerUnavailable | OutcomeUnknown} */
  ask (order: Order): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const pending: Pending = { ...order, number: this.#number++, sentTo: undefined, timer: undefined, resolve, reject }
      if (this.#ended) return reject(this.#unavailable())
      pending.timer = setTimeout(() => this.#expire(pending), this.#options.timeout + (order.longer ?? 0))
      this.#waiting.push(pending)
      if (this.#usable) this.#flush()
    })
  }

  evaluate (
    script: Script, keys: readonly string[], args: (again: boolean) => Argument[], repeat: Order['repeat'] = 'always'
  ): Promise<unknown> {
    return this.ask({ args: (again) => ['EVALSHA', script.sha, keys.length, ...keys, ...args(again)], repeat })
  }

  end (): void {
    this.#ended = true
    this.#usable = false
    this.#client.disconnect()
    for (const pending of [...this.#sent, ...this.#waiting]) this.#settle(pending, () => pending.reject(this.#failureOf(pending)))
    this.#waiting.length = 0
  }

  /** A new connection: scripts first, as two of one channel must not be carried out in another order. */
  async #open (): Promise<void> {
    const { scripts } = this.#options
    const before = performance.now()
    const [info, time] = await Promise.all([
      this.#isCluster ? '' : this.#client.call('INFO', 'server'),
      this.#client.call('TIME'),
      ...scripts.map(({ text }) => this.#client.call('SCRIPT', 'LOAD', text))
    ])
    const [seconds, microseconds] = time as [string, string]
    this.#ahead = Number(seconds) * 1_000 + Number(microseconds) / 1_000 - before
    this.#server = /^run_id:(\w+)/m.exec(info as string)?.[1] ?? ''
    this.#usable = true
    this.#told = false
    this.connections++
    this.tag = Math.floor(Math.random() * STEP)
    this.connectedAt = performance.now()
    this.#flush()
  }

  #flush (): void {
    while (this.#usable && this.#client.status === 'ready' && this.#waiting.length > 0) this.#send(this.#waiting.shift()!)
  }

  #send (pending: Pending): void {
    const again = pending.sentTo !== undefined
    if (again && !this.#mayRepeat(pending)) return this.#settle(pending, () => pending.reject(this.#failureOf(pending)))
    pending.sentTo = this.#server
    this.#sent.add(pending)
    const [command, ...args] = pending.args(again) as [string, ...Argument[]]
    this.#client.call(command, ...args).then(
      (reply) => this.#settle(pending, () => pending.resolve(reply)),
      (error: Error) => this.#refused(pending, error))
  }

  #mayRepeat ({ repeat, sentTo }: Pending): boolean {
    return repeat === 'always' || (repeat === 'here' && sentTo === this.#server && this.#server !== '')
  }

  #refused (pending: Pending, error: Error): void {
    if (!this.#sent.delete(pending)) return
    if (error.name !== 'ReplyError') {
      this.#lastError = error
      this.#sendAgain(pending)
    } else if (error.message.startsWith('NOSCRIPT')) {
      const { args } = pending
      const texts = new Map(this.#options.scripts.map(({ sha, text }) => [sha, text]))
      pending.args = (again) => {
        const [, sha, ...rest] = args(again)
        return ['EVAL', texts.get(sha as string)!, ...rest]
      }
      pending.sentTo = undefined
      this.#send(pending)
    } else {
      this.#settle(pending, () => pending.reject(unavailable(error)))
    }
  }

  /** The connection broke. */
  #sendAgain (pending: Pending): void {
    if (pending.repeat === 'never' || this.#ended) {
      return this.#settle(pending, () => pending.reject(this.#failureOf(pending)))
    }
    const at = this.#waiting.findIndex(({ number }) => number > pending.number)
    this.#waiting.splice(at === -1 ? this.#waiting.length : at, 0, pending)
    // A cluster does not tell when a node is there again.
    if (this.#isCluster) setTimeout(() => this.#flush(), RETURN)
  }

  #lose (): void {
    this.#usable = false
    if (this.#told || this.#ended) return
    this.#told = true
    this.#options.onError(this.#unavailable(), 'Redis is out of reach')
  }

  #expire (pending: Pending): void {
    if (!this.#sent.has(pending)) this.#waiting.splice(this.#waiting.indexOf(pending), 1)
    this.#settle(pending, () => pending.reject(this.#failureOf(pending)))
    // A connection that has not answered for so long, be it what was asked for or who is there, is none.
    if (['connect', 'ready'].includes(this.#client.status)) this.#client.disconnect(true)
  }

  #settle (pending: Pending, settle: () => void): void {
    clearTimeout(pending.timer)
    this.#sent.delete(pending)
    settle()
  }

  #failureOf ({ sentTo }: Pending): Error {
    return sentTo === undefined ? this.#unavailable() : new OutcomeUnknown(this.#reason)
  }

  #unavailable (): Error {
    return new BrokerUnavailable(this.#reason)
  }

  get #reason (): string {
    if (this.#ended) return 'it was ended'
    return `Redis is out of reach${this.#lastError === undefined ? '' : ` (${reasonOf(this.#lastError)})`}`
  }
}

function unavailable (error: Error): Error {
  return Object.assign(new BrokerUnavailable(`Redis says: ${reasonOf(error)}`), { cause: error })
}

/** A connection of its own: what others ask for by the same one must not wait behind it, nor it behind theirs. */
function duplicate (client: RedisClient): Connection {
  const own = {
    ...NEVER_AGAIN,
    keyPrefix: '',
    lazyConnect: true,
    protocol: 2,
    retryStrategy: (times: number) => Math.random() * Math.min(50 * 2 ** Math.min(times, 6), 2_000),
    // After a failover this is the former master.
    reconnectOnError: (error: Error) => error.message.startsWith('READONLY')
  }
  const withoutTimeouts = { commandTimeout: undefined, socketTimeout: undefined, blockingTimeout: undefined }
  if (!client.isCluster) return client.duplicate({ ...own, ...withoutTimeouts })
  const { keyPrefix, lazyConnect, enableOfflineQueue } = own
  return client.duplicate([], {
    keyPrefix,
    lazyConnect,
    enableOfflineQueue,
    // What a node has not answered the link asks for again by itself: not everything can be.
    retryDelayOnFailover: 0,
    scaleReads: 'master',
    clusterRetryStrategy: own.retryStrategy,
    redisOptions: withoutTimeouts
  })
}
