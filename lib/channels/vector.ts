/**
 * The last event ID of a stream of several channels: a tilde, then the reader's position in each of them. `<channel><ms>-<seq>`
 * for each, joined by dots: the channel by five characters of the SHA-256 of its name (base64url), the numbers in base 36. As
 * each has its channel with it, a client may come back to a list of channels that has changed meanwhile.
 */
import { createHash } from 'node:crypto'
import { InvalidOption, TooManyChannels } from '../errors.ts'
import { MAX_BYTES } from '../last-event-id.ts'

/** Characters of one position: its channel, ms until the year 5188, more than 10^12 entries in each of them. */
const LONGEST = 5 + 9 + 1 + 8

const MAX_CHANNELS = Math.floor(MAX_BYTES / (LONGEST + 1))

const VECTOR = /^~[\w-]{5}[0-9a-z]{1,13}-[0-9a-z]{1,13}(\.[\w-]{5}[0-9a-z]{1,13}-[0-9a-z]{1,13})*$/

export class Vector {
  readonly #tags: readonly string[]
  readonly #positions: string[]

  /** @param tags of the channels, by `tagsOf` */
  constructor (tags: readonly string[]) {
    this.#tags = tags
    this.#positions = tags.map(() => '')
  }

  /** The position in one channel. */
  set (channel: number, position: string): void {
    this.#positions[channel] = this.#tags[channel] + position.split('-').map((part) => BigInt(part).toString(36)).join('-')
  }

  /** @throws {TooManyChannels} where a broker's IDs are so long that it could not be sent back */
  toString (): string {
    const id = '~' + this.#positions.join('.')
    if (id.length > MAX_BYTES) throw new TooManyChannels(this.#tags.length - 1, this.#tags.length)
    return id
  }
}

/**
 * The position in each channel, from an ID that was sent back; undefined for a channel that it does not have. Undefined
 * as a whole where it is no such ID.
 */
export function readVector (id: string, tags: readonly string[]): (string | undefined)[] | undefined {
  if (!VECTOR.test(id)) return undefined
  const positions = new Map(id.slice(1).split('.').map((part) => [part.slice(0, 5), part.slice(5)]))
  return tags.map((tag) => positions.get(tag)?.split('-').map(fromBase36).join('-'))
}

function fromBase36 (digits: string): bigint {
  let number = 0n
  for (const digit of digits) number = number * 36n + BigInt(parseInt(digit, 36))
  return number
}

/**
 * What stands for each channel in a vector.
 * @throws {TooManyChannels | InvalidOption}
 */
export function tagsOf (names: readonly string[]): string[] {
  if (names.length > MAX_CHANNELS) throw new TooManyChannels(MAX_CHANNELS, names.length)
  const tags = names.map((name) => createHash('sha256').update(name).digest('base64url').slice(0, 5))
  tags.forEach((tag, index) => {
    const other = tags.indexOf(tag)
    if (other === index) return
    throw new InvalidOption(names[other] === names[index]
      ? `app.sse.subscribe has channel '${names[index]}' twice`
      : `app.sse.subscribe cannot tell channels '${names[other]}' and '${names[index]}' apart: rename one`)
  })
  return tags
}
