/** What is wrong at the end, and what there is to be known on the way. */
import type { SseStats } from '../../index.ts'
import type { World } from './client.ts'
import type { Holdings } from './server.ts'

/** Bytes: what compiled code and its statistics go on growing by, and what a stream may leave behind. */
const ALLOWANCE = { always: 1_500_000, stream: 16 }

type Stats = SseStats & { rss: number, heap: number }

export function figures ({ ledger, counts }: World, { open, opened, refused, rss, heap }: Stats): string {
  const number = (value: number) => value.toLocaleString('en')
  const sum = (counts: Record<string, number>) => Object.values(counts).reduce((total, count) => total + count)
  const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`
  return `${number(open)} streams open of ${number(opened)}, ${number(ledger.events)} events, ` +
    `${number(ledger.gaps)} gaps of ${number(ledger.missed)} events, ${number(counts.resumed)} resumed, ` +
    `${number(counts.completed)} completed, ${number(sum(refused))} refused, ${number(counts.stalls)} stalls; ` +
    `heap ${megabytes(heap)}, RSS ${megabytes(rss)}; ${number(ledger.faults.length)} faults`
}

/** Of the early holdings nothing may have become more. */
export function breaches (early: Holdings, late: Holdings, { opened }: Stats): string[] {
  const found: string[] = []
  const must = (holds: boolean, text: string) => { if (!holds) found.push(text) }
  for (const [when, { sockets, sources, open, listed, uncounted }] of Object.entries({ early, late })) {
    for (const [what, count] of Object.entries({ sockets, sources, open, listed, uncounted })) {
      must(count === 0, `${when}, when nobody was left: ${what} ${count}`)
    }
  }
  // In the order of their names, as Node lists handles in that of their making.
  const inOrder = (counts: Record<string, number>) => Object.fromEntries(Object.entries(counts).sort())
  const shape = ({ listeners, handles }: Holdings) => JSON.stringify({ listeners, handles: inOrder(handles) })
  must(shape(late) === shape(early), `listeners and handles were ${shape(early)}, and are ${shape(late)}`)
  const allowance = ALLOWANCE.always + ALLOWANCE.stream * opened
  for (const what of ['heap', 'outside'] as const) {
    const growth = late[what] - early[what]
    must(growth <= allowance, `the memory (${what}) has grown by ${growth} bytes, more than ${allowance}`)
  }
  return found
}

/** What should have happened, and has not: a run that is long enough has put everything to the test. */
export function untested ({ closed, refused }: Stats, { ledger, counts }: World): string[] {
  const all = {
    ...counts,
    gaps: ledger.gaps,
    'write timeouts': closed['write-timeout'],
    'full crowds': refused['max-connections-per-client'],
    'full servers': refused['max-connections']
  }
  return Object.entries(all).filter(([, count]) => count === 0).map(([what]) => `nothing was put to the test: ${what} 0`)
}
