/**
 * Redis servers of the tests' own: each on a free port, with its files in a folder of its own, gone after the test;
 * and what was published through them, held against what readers were told.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import net, { type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import type { Test } from 'tap'
import { redisBroker, type GapEvent, type ReceivedEvent, type RedisBroker, type RedisBrokerOptions, type SseChannel, type SseSubscription } from '../index.ts'
import { compareEntryIds } from '../lib/entry-id.ts'
import { demand, leftOut } from './needs.mjs'

/** Why tests that need a server are left out; false: they are not. */
export const noRedis = leftOut('redis-server')

export class RedisServer {
  readonly port: number
  readonly #options: string[]
  readonly #folder = mkdtempSync(join(tmpdir(), 'redis-'))
  #process: ChildProcess | undefined

  constructor (port: number, options: string[]) {
    this.port = port
    this.#options = options
  }

  async start (): Promise<void> {
    const args = ['--port', String(this.port), '--bind', '127.0.0.1', '--dir', this.#folder, '--save', '', ...this.#options]
    // With pipes of its own: if this process is killed, nobody waits for what a server that is left writes.
    const child = this.#process = spawn('redis-server', args, { stdio: ['ignore', 'pipe', 'pipe'] })
    child.stderr!.resume()
    let output = ''
    for await (const chunk of child.stdout!) {
      output += chunk
      if (output.includes('Ready to accept connections')) break
      if (output.includes('Fatal') || child.exitCode !== null) throw new Error(output)
    }
    child.stdout!.resume()
  }

  /** Without giving it any time to save. */
  async kill (): Promise<void> {
    const child = this.#process
    this.#process = undefined
    if (child === undefined || child.exitCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  }

  /** It is there, but answers nobody. */
  stop (): void {
    this.#process!.kill('SIGSTOP')
  }

  goOn (): void {
    this.#process!.kill('SIGCONT')
  }

  async end (): Promise<void> {
    await this.kill()
    rmSync(this.#folder, { recursive: true, force: true })
  }
}

/** A server that is gone after the test. It keeps nothing on disk, unless options say so. */
export async function startRedis (t: Test, ...options: string[]): Promise<RedisServer> {
  demand('redis-server')
  const server = new RedisServer(await freePort(), options)
  t.after(() => server.end())
  await server.start()
  return server
}

/** A client that is gone after the test: it does what no broker does. */
export function adminOf (t: Test, { port }: { port: number }): Redis {
  const admin = new Redis({ port, retryStrategy: () => 20 })
  admin.on('error', () => {})
  t.after(() => admin.disconnect())
  return admin
}

export async function freePort (): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** A broker that is ended after the test. */
export function brokerOf (t: Test, { port }: { port: number }, options: RedisBrokerOptions = {}): RedisBroker {
  const broker = redisBroker(new Redis({ port, lazyConnect: true }), { onError () {}, ...options })
  t.after(() => broker.end())
  return broker
}

/** The codes of an append that was not stored, and of one that may have been. */
const REJECTED = 'FST_SSE_BROKER_UNAVAILABLE'
const UNKNOWN = 'FST_SSE_OUTCOME_UNKNOWN'

/** Events of one publisher on one channel, numbered in the order of the calls, and what became of each. */
export class Published {
  count = 0
  /** By number, of those that were stored. */
  readonly ids = new Map<number, string>()
  /** By number, of those that were rejected. */
  readonly codes = new Map<number, string>()
  readonly #channel: SseChannel<any>
  readonly #text: string

  /** @param text that each event carries */
  constructor (channel: SseChannel<any>, text = '') {
    this.#channel = channel
    this.#text = text
  }

  /** Never rejects. */
  async one (): Promise<void> {
    const n = this.count++
    try {
      this.ids.set(n, await this.#channel.publish({ data: { n, text: this.#text } }))
    } catch (error: any) {
      this.codes.set(n, error.code ?? error.stack)
    }
  }

  async some (count: number): Promise<void> {
    await Promise.all(Array.from({ length: count }, () => this.one()))
  }

  /** In bursts and singly. */
  async until (isOver: () => boolean): Promise<void> {
    while (!isOver()) {
      await this.some(Math.random() < 0.5 ? 1 : Math.ceil(Math.random() * 30))
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 3))
    }
  }

  /** Until one is stored: whoever has this one has everything. */
  async last (): Promise<number> {
    const before = this.ids.size
    const deadline = performance.now() + 20_000
    while (this.ids.size === before) {
      if (performance.now() > deadline) throw new Error(`nothing can be published: ${[...this.codes.values()].at(-1)}`)
      await this.one()
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    return this.count - 1
  }
}

type Told = { is: 'event', n: number, id: string } | { is: 'gap', requested: string, earliest: string | null }

/** What one reader was told. */
export class Witness {
  readonly told: Told[] = []
  readonly errors: string[] = []
  /** The ID with which it comes back. */
  after: string

  constructor (after = '0-0') {
    this.after = after
  }

  get numbers (): number[] {
    return this.told.flatMap((each) => each.is === 'event' ? [each.n] : [])
  }

  get gaps (): number {
    return this.told.length - this.numbers.length
  }

  take ({ event, data, id }: ReceivedEvent | GapEvent): void {
    this.after = id ?? this.after
    if (event === 'gap') this.told.push({ is: 'gap', ...data as { requested: string, earliest: string | null } })
    else this.told.push({ is: 'event', n: (data as { n: number }).n, id: id! })
  }

  has (n: number): boolean {
    return this.told.findLastIndex((each) => each.is === 'event' && each.n === n) !== -1
  }

  /** Reads by `for await` until the hub is closed, and comes back after an error that has a code. */
  async read (open: (after: string) => SseSubscription<any>): Promise<void> {
    for (;;) {
      try {
        for await (const event of open(this.after)) {
          this.take(event)
          // Nobody is told of so many: it goes round in circles.
          if (this.gaps > 50) return
        }
        return
      } catch (error: any) {
        this.errors.push(error.code ?? error.stack)
        await new Promise((resolve) => setTimeout(resolve, 20))
      }
    }
  }

  /**
   * What it should not have been told, and what it should have been.
   * @param wants which of those that were stored it should know of, if not all
   */
  faults ({ ids, codes }: Published, wants: (event: { n: number, id: string }) => boolean = () => true): string[] {
    const faults = this.errors.filter((code) => ![REJECTED, UNKNOWN].includes(code)).map((code) => `it was given the error ${code}`)
    const events = this.told.filter((each) => each.is === 'event')
    events.forEach(({ n, id }, index) => {
      if (index > 0 && n <= events[index - 1]!.n) faults.push(`event ${n} after ${events[index - 1]!.n}`)
      if (ids.has(n) ? ids.get(n) !== id : codes.get(n) !== UNKNOWN) {
        faults.push(`event ${n} as ${id}, which was ${ids.get(n) ?? codes.get(n) ?? 'never published'}`)
      }
    })
    const seen = new Set(events.map(({ n }) => n))
    for (const [n, id] of ids) {
      if (wants({ n, id }) && !seen.has(n) && !this.#hasGapAt(id)) faults.push(`no event ${n}, and no gap at ${id}`)
    }
    for (const [n, code] of codes) if (![REJECTED, UNKNOWN].includes(code)) faults.push(`event ${n} was rejected with ${code}`)
    return faults.length > 8 ? [...faults.slice(0, 8), `and ${faults.length - 8} more`] : faults
  }

  #hasGapAt (id: string): boolean {
    return this.told.some((each, index) => {
      if (each.is === 'event' || (each.requested !== '0-0' && compareEntryIds(each.requested, id) >= 0)) return false
      const next = this.told.slice(index + 1).find((later) => later.is === 'event')
      const end = each.earliest ?? next?.id
      return end === undefined || compareEntryIds(id, end) < 0
    })
  }
}
