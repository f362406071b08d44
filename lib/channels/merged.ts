/** Several channels, to be read as one. */
import type { Channel } from './channel.ts'
import { Cursor, type ReadOptions } from './cursor.ts'
import type { Iterations } from './iteration.ts'
import { MergedReading } from './merged-reading.ts'
import type { Subject } from './subscription.ts'
import { readVector, tagsOf, Vector } from './vector.ts'

export class Merged implements Subject {
  readonly types: ReadonlySet<string> | undefined
  readonly iterations: Iterations
  readonly #channels: readonly Channel[]
  readonly #tags: readonly string[]

  /** @throws {TooManyChannels | InvalidOption} */
  constructor (channels: readonly Channel[], iterations: Iterations) {
    this.#channels = [...channels]
    this.#tags = tagsOf(channels.map(({ name }) => name))
    this.iterations = iterations
    const types = channels.map((channel) => channel.types)
    this.types = types.includes(undefined) ? undefined : new Set(types.flatMap((each) => [...each!]))
  }

  get compress (): boolean {
    return this.#channels.every(({ compress }) => compress)
  }

  read ({ after, filter }: ReadOptions): MergedReading {
    // An ID that is none of ours is unknown to each of the channels.
    const positions = after === undefined ? [] : readVector(after, this.#tags) ?? this.#tags.map(() => after)
    const cursors = this.#channels.map((channel, index) => {
      return { name: channel.name, cursor: new Cursor(channel, { after: positions[index], filter }) }
    })
    return new MergedReading(cursors, new Vector(this.#tags), after)
  }
}
