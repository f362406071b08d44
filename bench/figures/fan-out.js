/** What a delivery costs when events are published to many: microseconds of the server's CPU. */
import { compare, compareToPeers } from '../comparisons.js'
import { BY_HAND, LIMIT, OURS, withContenders } from '../contenders.js'
import { inRounds } from '../rounds.js'

/** An application that has its events together can do more with these. Shown, but nobody's ten separate events. */
const TOGETHER = [BY_HAND, 'better-sse']

/** Turns in which code is compiled. */
const WARM_UP = { short: 100, long: 300 }

/** Milliseconds from one turn to the next: all of them have what was published, before more is. */
export function timeFor (clients, batch) {
  return batch === 1 ? Math.max(4, clients * 0.04) : clients * batch * 0.012
}

function runnersOf (contenders, batch) {
  const runners = contenders.map((contender) => ({ name: contender.name, contender }))
  if (batch === 1) return runners
  const together = contenders.filter(({ name }) => TOGETHER.includes(name))
  return [...runners, ...together.map((contender) => ({
    name: `${contender.name}, batched by the application`, contender, together: true
  }))]
}

function goalsOf (batch) {
  return batch === 1
    ? { peers: { must: 0.60, aim: 0.50 }, byHand: { must: 0.90, aim: 0.78 } }
    : { peers: { must: 0.25, aim: 0.18 }, byHand: { must: 0.50, aim: 0.40 } }
}

export async function cpuOfDelivery (contender, how) {
  const { result: deliveries, cpu } = await contender.cpuOf(() => contender.publish(how))
  return cpu / deliveries
}

async function measure (contenders, clients, batch, turns, { rounds, peers }) {
  const every = timeFor(clients, batch)
  const values = await inRounds(rounds, runnersOf(contenders, batch),
    ({ contender, together }) => cpuOfDelivery(contender, { turns, batch, every, together }), { warmUp: false })
  const { peers: toPeers, byHand } = goalsOf(batch)
  const title = `${clients} clients, ${batch === 1 ? '1 event' : `${batch} events`} a turn`
  return {
    title: `Fan-out: ${title}`,
    unit: 'us of CPU for a delivery',
    values,
    comparisons: [
      ...compareToPeers(`Fan-out, ${title}`, values, peers, { better: 'lower', ...toPeers }),
      compare(`Fan-out, ${title}`, values, [BY_HAND], { better: 'lower', ...byHand })
    ]
  }
}

/** Compilers take their time: all at once, as this is not measured. */
async function prepare (contenders, clients, { short }) {
  const deliveries = short ? 10_000 : 60_000
  await Promise.all(contenders.map(async (contender) => {
    // What is done once for an event, however many its clients, is seldom done: it gets its time with one client.
    await contender.connect(1)
    await contender.publish({ turns: short ? WARM_UP.short : WARM_UP.long, batch: 10, every: 1 })
    await contender.disconnect()
    await contender.connect(clients)
    await contender.publish({ turns: Math.ceil(deliveries / clients), every: timeFor(clients, 1) })
  }))
}

async function fanOut (clients, turns, scale) {
  return withContenders([OURS, BY_HAND, LIMIT, ...scale.peers].map((name) => [name]), async (contenders) => {
    await prepare(contenders, clients, scale)
    const figures = []
    for (const batch of [1, 10]) figures.push(await measure(contenders, clients, batch, turns[batch], scale))
    await Promise.all(contenders.map((contender) => contender.disconnect()))
    return figures
  })
}

export default async function run (scale) {
  const [few, many] = scale.short ? [500, 1_000] : [500, 5_000]
  return [
    ...await fanOut(few, scale.short ? { 1: 12, 10: 4 } : { 1: 60, 10: 20 }, scale),
    ...await fanOut(many, scale.short ? { 1: 5, 10: 2 } : { 1: 8, 10: 4 }, scale)
  ]
}
