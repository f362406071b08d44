/** One of many clients: it comes, reads, stalls and goes in every way that there is, and comes back from where it was. */
import http, { type IncomingMessage } from 'node:http'
import net, { type Socket } from 'node:net'
import type { Readable } from 'node:stream'
import { setTimeout as pause } from 'node:timers/promises'
import { constants, createGunzip } from 'node:zlib'
import { Parser } from '../processes/client.ts'
import { below, type Random } from '../processes/random.ts'
import { ChannelLaw, CountLaw, type Law, type Ledger } from './law.ts'
import { CROWD_LIMIT, TOTALS, type Ends, type Told } from './plan.ts'

/** What the clients have in common. */
export interface World {
  port: number
  random: Random
  ledger: Ledger
  /** How long a connection lasts on average, in ms. */
  life: number
  told: Told
  /** They are to stay until they have everything, and then to go. */
  ends: Ends | undefined
  /** How many of each crowd have a stream. */
  crowds: Map<string, number>
  counts: { visits: number, resumed: number, refused: number, completed: number, stalls: number }
}

type Kind = 'long' | 'short' | 'both' | 'own' | 'answers' | 'run' | 'crowd' | 'flood'

/** Of a hundred clients. */
const SHARES: Record<Kind, number> = { long: 25, short: 25, both: 12, own: 12, answers: 12, run: 8, crowd: 5, flood: 1 }

const KINDS = Object.entries(SHARES).flatMap(([kind, share]) => Array<Kind>(share).fill(kind as Kind))

/** In ms: for those who stay until they have everything. */
const LONG = 3_600_000

const GUNZIP = { flush: constants.Z_SYNC_FLUSH, finishFlush: constants.Z_SYNC_FLUSH }

function lawOf (kind: Kind, ledger: Ledger): Law {
  switch (kind) {
    case 'long':
    case 'short': return new ChannelLaw(ledger, [kind])
    case 'both': return new ChannelLaw(ledger, ['long', 'short'])
    case 'own':
    case 'answers':
    case 'run': return new CountLaw(ledger, kind, TOTALS[kind])
    default: return new CountLaw(ledger, kind)
  }
}

export class Client {
  readonly #kind: Kind
  /** Each hundred clients have one. */
  readonly #crowd: string
  readonly #world: World
  readonly #law: Law
  #run = ''
  #leave: (() => void) | undefined

  constructor (number: number, world: World) {
    this.#crowd = `crowd ${Math.floor(number / KINDS.length)}`
    this.#kind = KINDS[number % KINDS.length]!
    this.#world = world
    this.#law = lawOf(this.#kind, world.ledger)
  }

  /** Comes and goes until it is all over; those of channels, until they have everything. */
  async live (): Promise<void> {
    const { life, random } = this.#world
    await pause(below(random, life))
    while (!this.isDone) {
      this.#world.counts.visits++
      if (this.#world.ends === undefined && random() < 0.06) await this.#knock()
      else await this.#visit()
      if (!this.isDone) await pause(below(random, life / 2))
    }
  }

  get isDone (): boolean {
    const { ends } = this.#world
    return ends !== undefined && (!(this.#law instanceof ChannelLaw) || this.#law.isAt(ends))
  }

  /** Whatever it is at; it may come back. */
  leave (): void {
    this.#leave?.()
  }

  /** Drops its connection before it has asked for anything, or in the middle of that. */
  async #knock (): Promise<void> {
    const { port, random } = this.#world
    const request = random() < 0.5
      ? 'GET /channels/short HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: text/event-stream\r\n\r\n'
      : 'POST /answers HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 40\r\n\r\n{"prompt": "'
    const socket = net.connect(port, '127.0.0.1').on('error', () => {})
    socket.resume().write(request.slice(0, below(random, request.length)))
    await pause(below(random, 30))
    await this.#drop(socket)
  }

  async #visit (): Promise<void> {
    const { ledger, counts } = this.#world
    const { lastEventId } = this.#law
    const before = ledger.events
    const request = http.request(this.#options()).on('error', () => {})
    const closed = new Promise((resolve) => request.on('close', resolve))
    const answer = new Promise<IncomingMessage | undefined>((resolve) => {
      request.on('response', resolve).on('close', () => resolve(undefined))
    })
    this.#leave = () => request.destroy()
    request.end(this.#kind === 'answers' ? '{"prompt": "?"}' : undefined)
    const response = await answer
    if (response !== undefined) await this.#take(response)
    await closed
    this.#leave = undefined
    if (lastEventId !== '' && ledger.events > before) counts.resumed++
  }

  #options (): http.RequestOptions {
    const { port, random, told } = this.#world
    if (this.#kind === 'run' && this.#law.lastEventId === '') this.#run = told.run
    const path = {
      long: '/channels/long',
      short: '/channels/short',
      both: '/both',
      own: '/own',
      answers: '/answers',
      run: `/runs/${this.#run}`,
      crowd: '/crowd',
      flood: '/flood'
    }[this.#kind]
    const isPost = this.#kind === 'answers'
    return {
      port,
      host: '127.0.0.1',
      agent: false,
      path,
      method: isPost ? 'POST' : 'GET',
      headers: {
        accept: 'text/event-stream',
        ...(random() < 0.3 && { 'accept-encoding': 'gzip' }),
        ...(isPost && { 'content-type': 'application/json' }),
        ...(this.#kind === 'crowd' && { 'x-client': this.#crowd }),
        ...(this.#law.lastEventId !== '' && { 'last-event-id': this.#law.lastEventId })
      }
    }
  }

  async #take (response: IncomingMessage): Promise<void> {
    const { statusCode, headers, socket } = response
    const law = this.#law
    response.on('error', () => {})
    if (statusCode === 200 && headers['content-type'] === 'text/event-stream') await this.#read(response)
    else if (statusCode === 204 && law instanceof CountLaw) this.#complete(law)
    else if (statusCode === 404 && this.#kind === 'run') (law as CountLaw).restart()
    else if (statusCode === 503 && this.#kind === 'answers') this.#world.counts.refused++
    else this.#world.ledger.fault(`${this.#kind} was answered ${statusCode}, ${headers['content-type']}`)
    response.resume()
    await this.#drop(socket)
    if (this.#kind === 'answers' && (law as CountLaw).isComplete) this.#complete(law as CountLaw)
  }

  /** Until it goes or is let go of. What it has been given by then is what it comes back with. */
  async #read (response: IncomingMessage): Promise<void> {
    const { random, life, ends, counts } = this.#world
    const body = response.headers['content-encoding'] === 'gzip' ? response.pipe(createGunzip(GUNZIP)) : response
    const isFlood = this.#kind === 'flood'
    const reads = ends !== undefined ? LONG : random() < 0.05 ? 0 : -Math.log(1 - random()) * (isFlood ? 100 : life)
    const stalls = ends === undefined && this.#kind !== 'crowd' && (isFlood || random() < 0.1)
    const stalled = stalls ? below(random, 5_000) : 0
    let blocks = 0
    await new Promise<void>((resolve) => {
      const leave = () => {
        clearTimeout(timer)
        clearTimeout(stall)
        this.#leave = undefined
        body.resume()
        resolve()
      }
      const timer = setTimeout(leave, reads + stalled)
      const stall = stalls ? setTimeout(() => this.#stall(body, stalled), below(random, reads)) : undefined
      const parser = new Parser((block) => {
        if (this.#leave !== leave || (!block.own && block.event === undefined)) return
        if (blocks++ === 0 && this.#kind === 'crowd') this.#enter(1)
        this.#law.take(block)
        if (this.isDone) leave()
      })
      this.#leave = leave
      body.on('data', (bytes: Buffer) => { if (this.#leave === leave) parser.feed(bytes) })
      for (const end of ['end', 'error', 'close']) body.on(end, leave)
    })
    if (blocks === 0 && response.complete) counts.refused++
    if (blocks > 0 && this.#kind === 'crowd') this.#enter(-1)
  }

  /** Reads nothing for a while, shorter or longer than the server allows. */
  #stall (body: Readable, ms: number): void {
    this.#world.counts.stalls++
    body.pause()
    setTimeout(() => body.resume(), ms)
  }

  /** Having left before the server could know, they are never more than it allows. */
  #enter (by: 1 | -1): void {
    const { crowds, ledger } = this.#world
    const count = (crowds.get(this.#crowd) ?? 0) + by
    crowds.set(this.#crowd, count)
    if (count > CROWD_LIMIT) ledger.fault(`${count} of ${this.#crowd} had a stream`)
  }

  /** By FIN, by RST, or by whichever it becomes; and until the other end has gone, too. */
  async #drop (socket: Socket): Promise<void> {
    if (socket.closed) return
    const closed = new Promise((resolve) => socket.once('close', resolve))
    const how = this.#world.random()
    const isReset = how > 0.7 && !socket.writableEnded
    if (how < 0.4) socket.resume().end()
    else if (isReset) socket.resetAndDestroy()
    else socket.destroy()
    // Node says nothing of a reset that fails, as the server has just ended the stream.
    const timer = isReset ? setTimeout(() => socket.emit('close', true), 2_000) : undefined
    await closed
    clearTimeout(timer)
  }

  #complete (law: CountLaw): void {
    this.#world.counts.completed++
    law.end()
    law.restart()
  }
}
