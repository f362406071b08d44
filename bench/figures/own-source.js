/** Events a second of sources that belong to one client each. */
import { compareToPeers } from '../comparisons.js'
import { BY_HAND, LIMIT, OURS, withContenders } from '../contenders.js'
import { inRounds } from '../rounds.js'

const CLIENTS = 500

/** From the request to the last event. */
async function rateOfOne (contender, events) {
  const { seconds } = await contender.rush({ path: `/source?events=${events}`, count: 1, eventsEach: events })
  return events / seconds
}

/** From the first event to the last: none begins before all clients are there. */
async function rateOfMany (contender, clients, events) {
  const path = `/turns?events=${events}&clients=${clients}`
  const { flow } = await contender.rush({ path, count: clients, eventsEach: events })
  return clients * events / flow
}

function figureOf (title, values, peers, goal) {
  return {
    title,
    unit: 'events a second',
    values,
    comparisons: compareToPeers(title, values, peers, { better: 'higher', ...goal })
  }
}

export default async function run ({ short, rounds, peers }) {
  return withContenders([OURS, BY_HAND, LIMIT, ...peers].map((name) => [name]), async (contenders) => {
    // A limit that writes event by event is none where events can be gathered.
    const gathering = contenders.filter(({ name }) => name !== LIMIT)
    const one = await inRounds(rounds, gathering, (contender) => rateOfOne(contender, short ? 30_000 : 300_000))
    const many = await inRounds(rounds, contenders, (contender) => rateOfMany(contender, CLIENTS, short ? 15 : 150))
    return [
      figureOf('Own source: 1 client, as fast as it goes', one, peers, { must: 2, aim: 4 }),
      figureOf(`Own sources: ${CLIENTS} clients, an event a turn`, many, peers, { must: 1.5, aim: 2 })
    ]
  })
}
