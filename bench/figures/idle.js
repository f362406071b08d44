/** What keeping idle connections alive costs, beside a timer for each of them, as one would write it by hand. */
import { setTimeout } from 'node:timers/promises'
import { compare } from '../comparisons.js'
import { BY_HAND, OURS, withContenders } from '../contenders.js'
import { summaryOf } from '../rounds.js'

const INTERVALS = 3

/** Both wait most of the time, so they can do it side by side. */
async function workOfInterval (contenders, interval) {
  return Promise.all(contenders.map((contender) => contender.cpuOf(() => setTimeout(interval))))
}

export default async function run ({ short }) {
  const clients = short ? 2_000 : 15_000
  const keepAlive = short ? 2_000 : 15_000
  const values = await withContenders([OURS, BY_HAND].map((name) => [name, { keepAlive }]), async (contenders) => {
    // Real clients come when they like, so that each is due at another time.
    await Promise.all(contenders.map((contender) => contender.connect(clients, { over: keepAlive })))
    const all = contenders.map(() => [])
    for (let n = 0; n < INTERVALS; n++) {
      const works = await workOfInterval(contenders, keepAlive)
      works.forEach(({ cpu }, index) => all[index].push(cpu / (clients * keepAlive / 1_000)))
    }
    return Object.fromEntries(contenders.map(({ name }, index) => [name, summaryOf(all[index])]))
  })
  const goal = { better: 'lower', must: 0.5, aim: 0.2 }
  return [{
    title: `Idle: ${clients} connections, a comment every ${keepAlive / 1_000} s`,
    unit: 'us of CPU for a connection and second',
    values,
    comparisons: [compare(`Idle: ${clients} connections kept alive`, values, [BY_HAND], goal)]
  }]
}
