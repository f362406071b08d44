/** Compiles the schemas of channels, those of many channels that have the same ones once. */
import { compilePayloads, type Payloads } from '../payload.ts'
import type { Schema } from '../schema.ts'
import type { Events } from './options.ts'

export type SharedSchemas = () => Record<string, Schema>

interface Known {
  events: Events
  payloads: Payloads
}

export class Compiled {
  readonly #shared: SharedSchemas
  /** By the schema of the first event type: the maps differ from call to call, the schemas in them seldom do. */
  readonly #known = new WeakMap<Schema, Known[]>()

  constructor (shared: SharedSchemas) {
    this.#shared = shared
  }

  /** @throws what Ajv throws of a bad schema */
  of (events: Events): Payloads {
    const [first] = Object.values(events)
    const known = (first !== undefined && this.#known.get(first)) || []
    const same = known.find((each) => isSame(each.events, events))
    if (same !== undefined) return same.payloads
    const payloads = compilePayloads(events, this.#shared())
    if (first !== undefined) this.#known.set(first, [...known, { events: { ...events }, payloads }])
    return payloads
  }
}

function isSame (a: Events, b: Events): boolean {
  const types = Object.keys(a)
  return types.length === Object.keys(b).length && types.every((type) => a[type] === b[type])
}
