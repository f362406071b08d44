/** Where a channel stands, as Redis sees it. */
import { BrokerUnavailable } from '../../errors.ts'
import { isEntryId } from '../../entry-id.ts'
import type { Keys } from './keys.ts'
import type { Link } from './link.ts'
import { LOOK } from './scripts.ts'

export interface Look {
  /** The position after its newest entry. */
  last: string
  closed: boolean
  known: boolean
  /** Nothing is missing after the position that was asked about. */
  whole: boolean
  /** Milliseconds until the lease of who holds it runs out; -1: nobody does. */
  left: number
  /** How long that lease is. */
  lease: number
  /** The newest position of the shard's news. */
  news: string
}

/**
 * @param lease the length of the lease that may have run out: then the channel is closed, but not in the first lease
 *   after Redis was away, when its owner could not renew it
 * @throws (rejects) {BrokerUnavailable | OutcomeUnknown}
 */
export async function look (link: Link, keys: Keys, name: string, position = '', lease = Infinity): Promise<Look> {
  const args = () => [name, link.tag, position, performance.now() - link.connectedAt >= lease ? 1 : 0]
  const reply = await link.evaluate(LOOK, keys.of(name), { args, reads: true })
  const [last, closed, known, whole, left, length, news] = reply as [string, number, number, number, number, number, string]
  if (!isEntryId(last) || !isEntryId(news)) throw damaged(name)
  return { last, closed: closed === 1, known: known === 1, whole: whole === 1, left, lease: length, news }
}

/** What is not as scripts write it was written by others. */
export function damaged (name: string): Error {
  return new BrokerUnavailable(`what Redis has of channel '${name}' is damaged`)
}
