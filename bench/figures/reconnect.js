/** Everybody comes back at once, and has missed the same events: how long until all of them have them. */
import { compare } from '../comparisons.js'
import { LIMIT, OURS, STATIC, withContenders } from '../contenders.js'
import { inRounds } from '../rounds.js'

const MISSED = 100

export default async function run ({ short, rounds }) {
  const count = short ? 1_000 : 5_000
  return withContenders([[OURS], [STATIC], [LIMIT]], async ([ours, fixed, limit]) => {
    const [seen] = await ours.server.ask('record', { count: MISSED + 1 })
    const path = '/channel'
    const headers = { 'Last-Event-ID': seen }
    const body = await ours.sample({ path, headers })
    await fixed.server.ask('answer', { body })
    await limit.server.ask('beginWith', { body })
    const values = await inRounds(rounds, [ours, fixed, limit],
      async (contender) => (await contender.rush({ path, headers, count, eventsEach: MISSED })).seconds)
    return [{
      title: `Reconnect: ${count} clients at once, ${MISSED} events behind`,
      unit: 's until all have them',
      values,
      notes: [`${body.length} bytes for each`],
      comparisons: [
        compare(`Reconnect: ${count} clients at once`, values, [STATIC], { better: 'lower', must: 1.5, aim: 1.1 })
      ]
    }]
  })
}
