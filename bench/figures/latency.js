/** What the clients of an ordinary route notice of a stream that goes to very many. */
import { OURS, withContenders } from '../contenders.js'
import { digits } from '../report/table.js'
import { startNode } from '../processes/worker.js'
import { inRounds } from '../rounds.js'

/** Milliseconds between events, and between questions. */
const EVENTS_EVERY = 100
const ASK_EVERY = 5

/** A server that does not keep up piles up work, which takes its time. */
const REST = 0.2

function p99Of (times) {
  return times.toSorted((a, b) => a - b)[Math.ceil(times.length * 0.99) - 1]
}

async function p99During (contender, prober, seconds) {
  const publishing = contender.publish({ turns: seconds * 1_000 / EVENTS_EVERY, every: EVENTS_EVERY })
  const count = seconds * 1_000 / ASK_EVERY * (1 - REST / seconds)
  const { times } = await prober.ask('probe', { port: contender.port, path: '/json', every: ASK_EVERY, count })
  await publishing
  return p99Of(times)
}

export default async function run ({ short, nodePeers }) {
  const clients = short ? 1_000 : 10_000
  const prober = startNode(new URL('../clients/prober.js', import.meta.url))
  const values = await withContenders([OURS, ...nodePeers].map((name) => [name]), async (contenders) => {
    const seconds = short ? 1.5 : 5
    return inRounds(short ? 1 : 3, contenders, async (contender) => {
      await contender.connect(clients)
      const p99 = await p99During(contender, prober, seconds)
      await contender.disconnect()
      return p99
    }, { warmUp: !short })
  }).finally(() => prober.end())
  const [best] = nodePeers.toSorted((a, b) => values[a].median - values[b].median)
  const { median } = values[OURS]
  return [{
    title: `Latency of another route, with an event to ${clients} clients every ${EVENTS_EVERY} ms`,
    unit: 'ms, p99',
    values,
    comparisons: [{
      title: `Latency of another route, ${clients} clients, p99`,
      rival: `${best}: ${digits(values[best].median)} ms`,
      value: median,
      unit: 'ms',
      better: 'lower',
      must: 20,
      aim: 10
    }]
  }]
}
