/** Whether a delivery costs more the more clients there are: ours with many, beside ours with few. */
import { OURS, withContenders } from '../contenders.js'
import { inRounds } from '../rounds.js'
import { cpuOfDelivery, timeFor } from './fan-out.js'

/** About as many deliveries in each round, whatever the number of clients. */
const turnsFor = (clients, deliveries) => Math.ceil(deliveries / clients)

export default async function run ({ short, rounds }) {
  const [few, many] = short ? [500, 5_000] : [500, 15_000]
  const deliveries = short ? 15_000 : 60_000
  const titleOf = (clients) => `${OURS}, ${clients} clients`
  const starts = [few, many].map((clients) => [OURS, { title: titleOf(clients) }])
  const values = await withContenders(starts, async ([withFew, withMany]) => {
    await withFew.connect(few)
    await withMany.connect(many)
    return inRounds(rounds, [withFew, withMany], (contender) => cpuOfDelivery(contender, {
      turns: turnsFor(contender.clients, deliveries), every: timeFor(contender.clients, 1)
    }))
  })
  const value = values[titleOf(many)].median / values[titleOf(few)].median
  return [{
    title: 'Growth: 1 event a turn',
    unit: 'us of CPU for a delivery',
    values,
    comparisons: [
      { title: `Growth: ${many} clients`, rival: titleOf(few), value, unit: 'x', better: 'lower', must: 1.3, aim: 1.15 }
    ]
  }]
}
