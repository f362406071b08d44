/** What the laws for brokers have in common. */
import { deepStrictEqual, strictEqual } from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import type { Broker, Entry, History, Hold, Listener, Listening, Message } from '../broker.ts'
import { BEGINNING } from '../entry-id.ts'

/** Two ways to one engine, as two processes would have them; of an engine within one process, the same broker twice. */
export interface Brokers {
  /** One way to it. */
  one: Broker
  /** Another, or the same. */
  other: Broker
}

/** One paragraph of the contract of `Broker`. */
export interface BrokerLaw {
  /** What it says, for the title of a test. */
  name: string
  /** Rejects with an AssertionError where the law is broken. */
  check (brokers: Brokers): Promise<void>
}

/** More than any law appends. */
export const HISTORY: History = { events: 100_000, bytes: 1_000_000_000, age: false }

/** A name that no other law has. */
export function newName (): string {
  return `law ${randomUUID()}`
}

export function message (text: string): Message {
  return { event: '', raw: text }
}

/** Longer than any law takes, if no other lease is given. */
export function hold (owner: string, lease = 60_000, will?: Message): Hold {
  return { owner, lease, will, forgetAfter: 60_000 }
}

export async function append (broker: Broker, channel: string, texts: readonly string[], history = HISTORY): Promise<string[]> {
  const ids: string[] = []
  for (const text of texts) ids.push(await broker.append(channel, message(text), history))
  return ids
}

/** Texts `from` … `to`, both included. */
export function numbers (from: number, to: number): string[] {
  return Array.from({ length: to - from + 1 }, (_, index) => String(from + index))
}

export function textsOf (entries: readonly Entry[]): (string | undefined)[] {
  return entries.map(({ message }) => message.raw)
}

/** All that is retained after a position, which must be known. */
export async function readAll (broker: Broker, channel: string, after = BEGINNING): Promise<Entry[]> {
  const all: Entry[] = []
  for (let position = after; ;) {
    const { entries, complete } = await broker.read(channel, position, { entries: 100, bytes: 1_000_000 })
    strictEqual(complete, true, `everything after ${position} can be read back`)
    if (entries.length === 0) return all
    all.push(...entries)
    position = entries.at(-1)!.id
  }
}

/** A listener that writes down what it is told. */
export class Notes implements Listener {
  readonly entries: Entry[] = []
  timesClosed = 0
  /** What must not happen: a listener must not throw, so it is the law that looks. */
  readonly faults: string[] = []
  listening!: Listening

  static async take (broker: Broker, channel: string): Promise<Notes> {
    const notes = new Notes()
    notes.listening = await broker.listen(channel, notes)
    return notes
  }

  entry (entry: Entry): void {
    if (this.timesClosed > 0) this.faults.push('an entry was given after the end')
    this.entries.push(entry)
  }

  closed (): void {
    this.timesClosed++
  }

  failed (error: unknown): void {
    this.faults.push(`an engine that nothing has happened to has failed: ${String(error)}`)
  }

  lost (position: string): void {
    this.faults.push(`an engine that nothing has happened to has lost its way at ${position}`)
  }

  get texts (): (string | undefined)[] {
    deepStrictEqual(this.faults, [])
    return textsOf(this.entries)
  }
}

/** Waits until a condition holds, for 5 s at the most: what is told may be told later. */
export async function eventually (condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const deadline = performance.now() + 5_000
  while (!await condition()) {
    if (performance.now() > deadline) throw new Error(`waited 5 s: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
