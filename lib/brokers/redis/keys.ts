/** Where Redis keeps what: `<prefix>{<shard>}:log:<name>`. A hash tag in it puts all that is of one shard on one node. */
import { createHash } from 'node:crypto'

/** The keys of one shard. */
export class Keys {
  readonly #start: string
  /** Names of channels that have more. */
  readonly news: string

  constructor (prefix: string, shard: number) {
    this.#start = `${prefix}{${shard}}:`
    this.news = `${this.#start}news`
  }

  log (name: string): string {
    return `${this.#start}log:${name}`
  }

  /** Those of a script. */
  of (name: string): [log: string, state: string, news: string] {
    return [this.log(name), `${this.#start}state:${name}`, this.news]
  }
}

/** In which of `count` shards a channel is: the same in all processes. */
export function shardOf (name: string, count: number): number {
  return count === 1 ? 0 : createHash('sha1').update(name).digest().readUInt32BE() % count
}
