/**
 * What has become of appends whose answers were lost with their connection. Redis is asked once for each channel, however many
 * they are, before any of them is sent again: to look for each by itself would cost what there is of them, squared.
 */
import { compareEntryIds } from '../../entry-id.ts'
import { OutcomeUnknown } from '../../errors.ts'
import type { Connection } from './client.ts'
import { RECALL } from './scripts.ts'

/** By what an append is known again. */
export interface Trace {
  channel: string
  /** Those of a script. */
  keys: readonly string[]
  /** What no other entry has. */
  header: string
}

/** One that was sent, and when, by the clock of Redis, at the earliest. */
export interface Lost {
  trace: Trace
  since: number
}

/** The ID of what was stored, an error where that cannot be known any more, or undefined: it was not. */
export type Outcome = string | Error | undefined

/** @throws (rejects) what the connection does */
export async function recall<Each extends Lost> (connection: Connection, lost: readonly Each[]): Promise<Map<Each, Outcome>> {
  const channels = new Map<string, Each[]>()
  for (const each of lost) {
    const { channel } = each.trace
    const those = channels.get(channel)
    if (those === undefined) channels.set(channel, [each])
    else those.push(each)
  }
  const found = await Promise.all([...channels.values()].map((those) => recallFrom(connection, those)))
  return new Map(found.flat())
}

/** @param lost of one channel */
async function recallFrom<Each extends Lost> (connection: Connection, lost: Each[]): Promise<[Each, Outcome][]> {
  const { channel, keys } = lost[0]!.trace
  const since = lost.reduce((earliest, each) => Math.min(earliest, each.since), Infinity)
  const headers = lost.map(({ trace }) => trace.header)
  const reply = await connection.call('EVALSHA', RECALL.sha, keys.length, ...keys, channel, 0, `${since}-0`, ...headers)
  const [base, ...ids] = reply as [string, ...(string | null)[]]
  return lost.map((each, index) => {
    if (ids[index] != null) return [each, ids[index]]
    // It may have had an entry that was trimmed since.
    const isKnown = base === '' || compareEntryIds(base, `${each.since}-0`) <= 0
    return [each, isKnown ? undefined : new OutcomeUnknown('the connection broke, and what was stored last is retained no more')]
  })
}
