/** Compiles the schemas of channels, those of many channels that have the same ones once. */
import { InvalidSchema } from '../errors.ts'
import { compilePayloads, type Payloads } from '../payload.ts'
import { isSchema, type Schema } from '../schema.ts'
import { WeakValues } from '../weak-values.ts'
import type { Events } from './options.ts'

export type SharedSchemas = () => Record<string, Schema>

export class Compiled {
  readonly #shared: SharedSchemas
  /** By event types and schemas: the maps differ from call to call, the schemas in them seldom do. */
  readonly #payloads = new WeakValues<Payloads>()
  readonly #numbers = new WeakMap<Schema, number>()
  #lastNumber = 0

  constructor (shared: SharedSchemas) {
    this.#shared = shared
  }

  /**
   * @param name of the channel, for the message
   * @throws {InvalidSchema}
   */
  for (name: string, events: Events | undefined): Payloads | undefined {
    try {
      return events && this.#of(events)
    } catch (error) {
      throw Object.assign(new InvalidSchema(`events of channel '${name}'`, (error as Error).message), { cause: error })
    }
  }

  #of (events: Events): Payloads {
    const key = JSON.stringify(Object.entries(events).map(([type, schema]) => [type, this.#numberOf(schema)]))
    let payloads = this.#payloads.get(key)
    if (payloads === undefined) this.#payloads.set(key, payloads = compilePayloads(events, this.#shared()))
    return payloads
  }

  #numberOf (schema: Schema): number {
    // What is no schema is refused when it is compiled, and never kept.
    if (!isSchema(schema)) return 0
    let number = this.#numbers.get(schema)
    if (number === undefined) this.#numbers.set(schema, number = ++this.#lastNumber)
    return number
  }
}
