/**
 * What a client must be given, checked while it is given it, so that it may go on for hours: everything, once and in order,
 * or the client is told of a gap, and then what is missing was gone.
 */
import { FINISHED_ID } from '../../lib/client/finished-id.ts'
import type { Block } from '../processes/client.ts'
import { positionsIn } from '../processes/law.ts'
import { HISTORIES, textOf, type Ends, type Name, type Told } from './plan.ts'

/** IDs of which is remembered which event they were, of each channel. */
const REMEMBERED = 50_000

/** What all clients together have seen. */
export class Ledger {
  readonly faults: string[] = []
  events = 0
  gaps = 0
  /** Events that were missed, by gaps. */
  missed = 0
  readonly #numbers = { long: new Map<string, number>(), short: new Map<string, number>() }
  /** Gaps that are right only if so many had been published. */
  #claims: { name: Name, count: number, at: number }[] = []

  fault (text: string): void {
    this.faults.push(text)
  }

  /** @returns which event an ID is of; undefined: nobody has seen it */
  numberOf (name: Name, id: string): number | undefined {
    return this.#numbers[name].get(id)
  }

  /** @returns whether it is the event that others have seen by this ID */
  note (name: Name, id: string, n: number): boolean {
    const numbers = this.#numbers[name]
    const known = numbers.get(id)
    if (known !== undefined) return known === n
    numbers.set(id, n)
    if (numbers.size > REMEMBERED) numbers.delete(numbers.keys().next().value!)
    return true
  }

  /** A gap goes up to event `n`: the one before it must be gone. */
  claim (name: Name, from: number, n: number): void {
    this.gaps++
    this.missed += n - from
    this.#claims.push({ name, count: n + HISTORIES[name], at: Date.now() })
  }

  /** By now at least as much was published as when those gaps were told that are older. */
  settleClaims ({ at, counts }: Told): void {
    const isDue = (claim: { at: number }) => claim.at < at
    for (const { name, count } of this.#claims.filter(isDue)) {
      if (counts[name] < count) this.fault(`a gap of ${name} up to event ${count - HISTORIES[name]}, when only ${counts[name]} were published`)
    }
    this.#claims = this.#claims.filter((claim) => !isDue(claim))
  }
}

export interface Law {
  lastEventId: string
  take (block: Block): void
}

/** A client of channels. */
export class ChannelLaw implements Law {
  lastEventId = ''
  readonly names: readonly Name[]
  readonly #ledger: Ledger
  readonly #positionsOf: (id: string) => Record<string, string | undefined>
  /** What comes next of each channel. Undefined: whatever does. */
  readonly #next: Partial<Record<Name, number>> = {}
  /** The ID with which a channel goes on after a gap. */
  readonly #after: Partial<Record<Name, string>> = {}

  constructor (ledger: Ledger, names: readonly Name[]) {
    this.#ledger = ledger
    this.names = names
    this.#positionsOf = positionsIn(names)
  }

  take ({ id, event }: Block): void {
    if (event?.type === 'gap') return this.#takeGap(JSON.parse(event.data))
    if (id === '' && this.lastEventId !== '') this.#fault('was robbed of its last event ID')
    this.lastEventId = id
    const positions = this.#positionsOf(id)
    if (event !== undefined) this.#takeEvent(JSON.parse(event.data), positions)
    for (const name of this.names) this.#takePosition(name, positions[name])
  }

  /** Whether it has everything. */
  isAt ({ ids, told: { counts } }: Ends): boolean {
    const positions = this.#positionsOf(this.lastEventId)
    if (!this.names.every((name) => positions[name] === ids[name])) return false
    for (const name of this.names) {
      const next = this.#next[name]
      if (next !== undefined && next !== counts[name]) this.#fault(`is at the end of ${name} without event ${next}`)
    }
    return true
  }

  #takeEvent ({ name, n, text }: { name: Name, n: number, text: string }, positions: Record<string, string | undefined>): void {
    const id = positions[name] ?? ''
    const next = this.#next[name]
    const after = this.#after[name]
    delete this.#after[name]
    this.#ledger.events++
    this.#next[name] = n + 1
    if (text !== textOf(n)) this.#fault(`was given event ${n} of ${name} spoiled`)
    if (!this.#ledger.note(name, id, n)) this.#fault(`was given event ${n} of ${name} by the ID ${id} of another one`)
    if (after === undefined) {
      if (next !== undefined && n !== next) this.#fault(`was given event ${n} of ${name}, where ${next} should have been next`)
    } else if (after !== id || (next !== undefined && n <= next)) {
      this.#fault(`was told of a gap of ${name} from event ${next} to ${after}, and then given event ${n} as ${id}`)
    } else this.#ledger.claim(name, next ?? n, n)
  }

  /** It has had everything up to there, unless it was told otherwise. */
  #takePosition (name: Name, position: string | undefined): void {
    const n = position === undefined ? undefined : this.#ledger.numberOf(name, position)
    if (n === undefined || this.#after[name] !== undefined) return
    const next = this.#next[name] ??= n + 1
    if (next !== n + 1) this.#fault(`was put after event ${n} of ${name}, where ${next} should have been next`)
  }

  #takeGap ({ channel = this.names[0]!, requested, earliest }: { channel?: Name, requested: string, earliest: string }): void {
    const had = this.#positionsOf(this.lastEventId)[channel]
    if (requested !== had) this.#fault(`was told of a gap of ${channel} after ${requested}, and had ${had}`)
    this.#after[channel] = earliest
  }

  #fault (text: string): void {
    this.#ledger.fault(`a client of ${this.names} ${text}`)
  }
}

/** A client of a source that counts: nothing of it is ever gone. */
export class CountLaw implements Law {
  lastEventId = ''
  next = 0
  readonly #ledger: Ledger
  readonly #total: number
  readonly #what: string

  constructor (ledger: Ledger, what: string, total = Infinity) {
    this.#ledger = ledger
    this.#what = what
    this.#total = total
  }

  get isComplete (): boolean {
    return this.next === this.#total
  }

  take ({ id, event }: Block): void {
    this.lastEventId = id
    if (id === FINISHED_ID && !this.isComplete) this.#fault(`was told that it was over at event ${this.next}`)
    if (event === undefined) return
    const { n, text } = JSON.parse(event.data)
    this.#ledger.events++
    if (n !== this.next || event.type !== 'message') this.#fault(`was given ${event.type} ${n}, where ${this.next} should have been next`)
    if (text !== textOf(n)) this.#fault(`was given event ${n} spoiled`)
    this.next = n + 1
  }

  /** It is told that there is no more. */
  end (): void {
    if (!this.isComplete) this.#fault(`has come to the end at event ${this.next} of ${this.#total}`)
  }

  restart (): void {
    this.lastEventId = ''
    this.next = 0
  }

  #fault (text: string): void {
    this.#ledger.fault(`a client of ${this.#what} ${text}`)
  }
}
