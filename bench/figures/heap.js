/** What an idle connection holds of the heap. Ours has hooks, as an application has. */
import { setTimeout } from 'node:timers/promises'
import { compare } from '../comparisons.js'
import { BY_HAND, OURS, withContenders } from '../contenders.js'
import { inRounds } from '../rounds.js'

/** In which what a connection needed only at its beginning or its end is let go of. */
const AFTERMATH = 100

async function heapOf (contender) {
  await setTimeout(AFTERMATH)
  return (await contender.server.ask('usage', { gc: true })).heap
}

async function heapOfConnection (contender, count) {
  const before = await heapOf(contender)
  await contender.connect(count)
  const after = await heapOf(contender)
  await contender.disconnect()
  return (after - before) / count
}

export default async function run ({ short, nodePeers }) {
  const count = short ? 500 : 2_000
  const starts = [[OURS, { hooks: true }], [BY_HAND], ...nodePeers.map((name) => [name])]
  const values = await withContenders(starts,
    (contenders) => inRounds(short ? 1 : 3, contenders, (contender) => heapOfConnection(contender, count)))
  const title = 'Heap of an idle connection'
  const beyond = values[OURS].median - values[BY_HAND].median
  return [{
    title,
    unit: 'bytes',
    values,
    comparisons: [
      compare(title, values, nodePeers, { better: 'lower', must: 1.2, aim: 1 }),
      { title: `${title}, beyond that of node:http`, rival: BY_HAND, value: beyond, unit: 'bytes', better: 'lower', aim: 2_048 }
    ]
  }]
}
