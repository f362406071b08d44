/** The short form of `npm run soak`, and what the long one would find. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { ChannelLaw, CountLaw, Ledger } from './soak/law.ts'
import { textOf, type Told } from './soak/plan.ts'
import type { Holdings } from './soak/server.ts'
import { breaches } from './soak/verdict.ts'

t.test('clients that come and go in every way are given everything, and the server is left with nothing', async (t) => {
  // Nothing of tap's own environment and options, which would make it a test, and change what each process holds.
  const child = spawn('env', ['-u', 'NODE_OPTIONS', 'npm', 'run', '--silent', 'soak', '--', '--minutes', '0.15', '--clients', '200'], {
    cwd: fileURLToPath(new URL('..', import.meta.url)),
    env: { PATH: process.env.PATH, HOME: process.env.HOME },
    stdio: ['ignore', 'pipe', 'pipe']
  })
  t.after(() => child.kill())
  const [[code], output, errors] = await Promise.all([once(child, 'exit'), text(child.stdout), text(child.stderr)])
  t.equal(code, 0, output + errors)
  t.match(output, /\nPASSED\n$/)
})

t.test('what breaks the law is found', async (t) => {
  /** Gives a client these events of the channel `short`, by number, and gaps: the faults. */
  function faultsOf (...given: (number | { requested: number, earliest: number })[]): string[] {
    const ledger = new Ledger()
    const law = new ChannelLaw(ledger, ['short'])
    for (const each of given) {
      const id = typeof each === 'number' ? `1-${each}` : law.lastEventId
      const event = typeof each === 'number'
        ? { type: 'message', data: JSON.stringify({ name: 'short', n: each, text: textOf(each) }) }
        : { type: 'gap', data: JSON.stringify({ requested: `1-${each.requested}`, earliest: `1-${each.earliest}` }) }
      law.take({ id, own: true, event })
    }
    ledger.settleClaims({ at: Infinity, counts: { long: 0, short: 200 }, run: '' } satisfies Told)
    return ledger.faults
  }
  t.same(faultsOf(5, 6, 7), [])
  t.match(faultsOf(5, 7), [/given event 7 of short, where 6 should/], 'an event is lost')
  t.match(faultsOf(5, 6, 6), [/given event 6 of short, where 7 should/], 'one is doubled')
  t.match(faultsOf(5, 7, 6)[1], /given event 6 of short, where 8 should/, 'two are in the wrong order')
  t.same(faultsOf(5, { requested: 5, earliest: 150 }, 150, 151), [], 'what is missing was gone')
  t.match(faultsOf(5, { requested: 5, earliest: 151 }, 151), [/a gap of short up to event 151, when only 200/], 'it was there')
  t.match(faultsOf(5, { requested: 5, earliest: 8 }, 9)[0], /a gap of short from event 6 to 1-8, and then given event 9/)
  t.match(faultsOf(5, { requested: 5, earliest: 6 }, 6), [/a gap of short from event 6/], 'nothing is missing')
  t.match(faultsOf(5, { requested: 4, earliest: 150 }, 150), [/a gap of short after 1-4, and had 1-5/])

  const ledger = new Ledger()
  const law = new CountLaw(ledger, 'own', 2)
  const give = (n: number, text = textOf(n)) => {
    law.take({ id: String(n + 1), own: true, event: { type: 'message', data: JSON.stringify({ n, text }) } })
  }
  give(0)
  law.end()
  give(1, 'another text')
  law.end()
  t.match(ledger.faults, [/has come to the end at event 1 of 2/, /event 1 spoiled/])
})

t.test('what a server still holds, or holds more of than before, is a breach', async (t) => {
  const early: Holdings = {
    heap: 20_000_000,
    outside: 3_000_000,
    rss: 90_000_000,
    sockets: 0,
    sources: 0,
    open: 0,
    listed: 0,
    uncounted: 0,
    listeners: { server: 9, process: 4 },
    handles: { TCPServerWrap: 1, Timeout: 2 }
  }
  const opened = 10_000
  const breachesOf = (late: Partial<Holdings>, changed: Partial<Holdings> = {}) => {
    return breaches({ ...early, ...changed }, { ...early, ...late }, { opened } as Parameters<typeof breaches>[2])
  }
  t.same(breachesOf({}), [])
  t.same(breachesOf({ heap: 15_000_000, outside: 1_000_000, rss: 500_000_000 }), [], 'less memory, of which RSS is no part')
  t.same(breachesOf({ handles: { Timeout: 2, TCPServerWrap: 1 } }), [], 'the same in another order')
  for (const what of ['sockets', 'sources', 'open', 'listed', 'uncounted'] as const) {
    t.same(breachesOf({ [what]: 1 }), [`late, when nobody was left: ${what} 1`])
    t.same(breachesOf({}, { [what]: 2 }), [`early, when nobody was left: ${what} 2`])
    t.same(breachesOf({ [what]: -1 }), [`late, when nobody was left: ${what} -1`], 'counted as closed twice')
  }
  t.match(breachesOf({ listeners: { server: 10, process: 4 } }), [/^listeners and handles were .*"server":9.*, and are .*"server":10/])
  t.match(breachesOf({ listeners: { server: 9, process: 5 } }), [/"process":4.*"process":5/])
  t.match(breachesOf({ handles: { TCPServerWrap: 1, Timeout: 3 } }), [/"Timeout":2.*"Timeout":3/])
  t.match(breachesOf({ handles: { TCPServerWrap: 1, Timeout: 2, FSReqCallback: 1 } }), [/and are .*"FSReqCallback":1/])
  // A megabyte and a half, and 16 bytes for each stream.
  const allowance = 1_500_000 + 16 * opened
  for (const what of ['heap', 'outside'] as const) {
    t.same(breachesOf({ [what]: early[what] + allowance }), [])
    t.same(breachesOf({ [what]: early[what] + allowance + 1 }),
      [`the memory (${what}) has grown by ${allowance + 1} bytes, more than ${allowance}`])
  }
  t.equal(breachesOf({ heap: 40_000_000, outside: 40_000_000, open: 3, handles: {} }).length, 4, 'each is told')
})
