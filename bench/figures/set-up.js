/** How fast streams begin, beside an ordinary answer of the same app: clients that come, and leave at the first byte. */
import { setTimeout } from 'node:timers/promises'
import { median } from '../common.js'
import { compare } from '../comparisons.js'
import { LIMIT, OURS, withContenders } from '../contenders.js'
import { inRounds } from '../rounds.js'

const JSON_ROUTE = 'JSON of 1 KB, the same app'
const CONCURRENCY = 100

/** In which a server finds out that clients have gone. */
const AFTERMATH = 100

export default async function run ({ short, rounds }) {
  const count = short ? 2_000 : 5_000
  return withContenders([[OURS], [LIMIT]], async ([ours, limit]) => {
    const runners = [
      { name: OURS, contender: ours, path: '/channel' },
      { name: JSON_ROUTE, contender: ours, path: '/json' },
      { name: LIMIT, contender: limit, path: '/channel' }
    ]
    const costs = new Map(runners.map(({ name }) => [name, []]))
    const values = await inRounds(rounds, runners, async ({ name, contender, path }) => {
      const { result: seconds, cpu } = await contender.cpuOf(async () => {
        const seconds = await contender.comeAndGo({ path, count, concurrency: CONCURRENCY })
        await setTimeout(AFTERMATH)
        return seconds
      })
      costs.get(name).push(cpu / count)
      return count / seconds
    })
    const goal = { better: 'higher', must: 0.8, aim: 1 }
    return [{
      title: 'Set-up: a connection, a request, the first byte',
      unit: 'connections a second',
      values,
      notes: [
        ...[...costs].map(([name, all]) => `${name}: ${Math.round(median(all))} us of the server's CPU for each`),
        'The clients take their time, too, so the rates are closer to each other than the costs.'
      ],
      comparisons: [compare('Set-up: connections a second', values, [JSON_ROUTE], goal)]
    }]
  })
}
