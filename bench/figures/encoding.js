/** What an event costs before it is sent to anybody, beside JSON.stringify of its data. */
import { compare } from '../comparisons.js'
import { OURS } from '../contenders.js'
import { startNode } from '../processes/worker.js'
import { inRounds } from '../rounds.js'

const STRINGIFY = 'JSON.stringify'
const TIMES = 100_000

export default async function run ({ short, rounds }) {
  const worker = startNode(new URL('../servers/encoder.js', import.meta.url))
  const runners = [{ name: OURS, order: 'encode' }, { name: STRINGIFY, order: 'stringify' }]
  const values = await inRounds(short ? rounds : 3 * rounds, runners,
    async ({ order }) => (await worker.ask(order, { times: TIMES })).nanoseconds).finally(() => worker.end())
  return [{
    title: 'Encoding: an event is checked, serialised and framed',
    unit: 'ns for an event',
    values,
    comparisons: [compare('Encoding of an event', values, [STRINGIFY], { better: 'lower', must: 2.5, aim: 1.5 })]
  }]
}
