/**
 * What has become of appends whose answers were lost with their connection. Redis is asked once for each channel, however many
 * they are, before any of them is sent again: to look for each by itself would cost what there is of them, squared.
 */
import { compareEntryIds } from '../../entry-id.ts'
import { reasonOf } from '../../describe.ts'
import { OutcomeUnknown } from '../../errors.ts'
import { readError, type Connection } from './client.ts'
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

/** Headers that are looked for at once: all are arguments of one call. */
const AT_ONCE = 10_000

/** @throws (rejects) what the connection does */
export async function recall<Each extends Lost> (connection: Connection, lost: readonly Each[]): Promise<Map<Each, Outcome>> {
  const groups: Each[][] = []
  const latest = new Map<string, Each[]>()
  for (const each of lost) {
    const { channel } = each.trace
    let group = latest.get(channel)
    if (group === undefined || group.length === AT_ONCE) {
      groups.push(group = [])
      latest.set(channel, group)
    }
    group.push(each)
  }
  const found = await Promise.all(groups.map((group) => recallFrom(connection, group)))
  return new Map(found.flat())
}

/** @param lost of one channel */
async function recallFrom<Each extends Lost> (connection: Connection, lost: Each[]): Promise<[Each, Outcome][]> {
  const { channel, keys } = lost[0]!.trace
  const since = lost.reduce((earliest, each) => Math.min(earliest, each.since), Infinity)
  const headers = lost.map(({ trace }) => trace.header)
  let reply: [reach: string, ...ids: (string | null)[]]
  try {
    reply = await connection.call('EVALSHA', RECALL.sha, keys.length, ...keys, channel, 0, `${since}-0`, ...headers) as typeof reply
  } catch (error) {
    if (readError(error as Error).is !== 'refused') throw error
    // What Redis has of this channel is damaged: the others go on.
    return lost.map((each) => [each, new OutcomeUnknown(`the connection broke, and Redis says: ${reasonOf(error)}`)])
  }
  const [reach, ...ids] = reply
  return lost.map((each, index) => {
    if (ids[index] != null) return [each, ids[index]]
    const isKnown = compareEntryIds(reach, `${each.since}-0`) <= 0
    return [each, isKnown ? undefined : new OutcomeUnknown('the connection broke, and what was stored last is retained no more')]
  })
}
