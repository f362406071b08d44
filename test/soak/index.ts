/**
 * `npm run soak`: ten minutes in which two thousand clients come and go. Each is held against the delivery law, and of what
 * the server holds there may be no more at the end than there was soon after the beginning. A line a minute, and a verdict.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Caller } from '../processes/caller.ts'
import { createRandom } from '../processes/random.ts'
import { Client, type World } from './client.ts'
import { Ledger } from './law.ts'
import type { Told } from './plan.ts'
import type { Holdings } from './server.ts'
import { breaches, figures, untested } from './verdict.ts'

const { values } = parseArgs({
  options: { minutes: { type: 'string', default: '10' }, clients: { type: 'string', default: '2000' }, seed: { type: 'string' } }
})
const clients = Number(values.clients)
const duration = Number(values.minutes) * 60_000
const seed = Number(values.seed ?? Date.now() % 1_000_000)

const child = fork(fileURLToPath(new URL('server.js', import.meta.url)), {
  env: { PATH: process.env.PATH, CLIENTS: String(clients) },
  // Without source maps, which Node may let go of, or not: four megabytes, of one measurement or the other.
  execArgv: ['--expose-gc']
})
const ready = once(child, 'message')
const server = new Caller(child, take)
await ready

const world: World = {
  port: await server.call('port'),
  random: createRandom(seed),
  ledger: new Ledger(),
  // Some eighty connections a second, however many clients there are.
  life: clients * 12,
  told: { at: 0, counts: { long: 0, short: 0 }, run: '0' },
  ends: undefined,
  crowds: new Map(),
  counts: { visits: 0, resumed: 0, refused: 0, completed: 0, stalls: 0 }
}
const everybody = Array.from({ length: clients }, (_, number) => new Client(number, world))

function take (told: Told): void {
  world.told = told
  world.ledger.settleClaims(told)
}

/** Everybody comes and goes for a time; then each gets what it has not had yet, and goes. */
async function churn (ms: number): Promise<Holdings> {
  world.ends = undefined
  await server.call('start')
  const living = Promise.all(everybody.map((client) => client.live()))
  await pause(ms)
  world.ends = await server.call('rest')
  take(world.ends!.told)
  for (const client of everybody) client.leave()
  await Promise.race([living, pause(120_000, undefined, { ref: false })])
  const late = everybody.filter((client) => !client.isDone).length
  if (late > 0) world.ledger.fault(`${late} clients have not been given everything two minutes after the last event`)
  return server.call('hold')
}

async function report (minute: number): Promise<void> {
  console.log(`minute ${minute}: ${figures(world, await server.call('stats'))}`)
  if (world.ledger.faults.length > 0) console.log(`the last fault: ${world.ledger.faults.at(-1)}`)
}

console.log(`${clients} clients for ${duration / 60_000} minutes, seed ${seed}`)
const early = await churn(Math.min(60_000, duration / 4))
let minute = 0
const timer = setInterval(() => report(++minute), 60_000)
const late = await churn(duration - Math.min(60_000, duration / 4))
clearInterval(timer)
const stats = await server.call('stats')
const found = [...world.ledger.faults, ...breaches(early, late, stats), ...(duration < 120_000 ? [] : untested(stats, world))]
child.disconnect()

console.log(`in all: ${figures(world, stats)}; ended: ${JSON.stringify(stats.closed)}`)
console.log(`held by the server, early and at the end: ${JSON.stringify(early)} ${JSON.stringify(late)}`)
for (const breach of found.slice(0, 20)) console.log(`BREACH: ${breach}`)
console.log(found.length === 0 ? 'PASSED' : `FAILED: ${found.length} breaches`)
process.exitCode = found.length === 0 ? 0 : 1
