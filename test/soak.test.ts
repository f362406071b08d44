/** The short form of `npm run soak`, and what the long one would find. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { ChannelLaw, CountLaw, Ledger } from './soak/law.ts'
import { textOf, type Told } from './soak/plan.ts'

t.test('clients that come and go in every way are given everything, and the server is left with nothing', async (t) => {
  const child = spawn('npm', ['run', '--silent', 'soak', '--', '--minutes', '0.15', '--clients', '200'], {
    cwd: fileURLToPath(new URL('..', import.meta.url)),
    // Nothing of tap's own environment, which would make it a test.
    env: { PATH: process.env.PATH, HOME: process.env.HOME, _TAPJS_PROCESSINFO_COVERAGE_: '0' },
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
