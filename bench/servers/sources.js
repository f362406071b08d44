/** The sources of `/source` and `/turns`, and what a request asks of them. */
import { setImmediate } from 'node:timers/promises'
import { dataOfSize, YIELDED_SIZE } from '../event.js'

/** The clients that are here already, and wait for the others. */
const waiting = []

/** Resolves when so many clients have come, so that what is measured does not begin with connecting them. */
function untilAllAreHere (clients) {
  return new Promise((resolve) => {
    waiting.push(resolve)
    if (waiting.length === clients) waiting.splice(0).forEach((begin) => begin())
  })
}

/** As fast as it is asked. */
async function * quick ({ events }, form) {
  for (let n = 0; n < events; n++) yield form(dataOfSize(YIELDED_SIZE))
}

/** An event in each turn of the event loop, as of a source that has to wait for each. */
async function * turns ({ events, clients }, form) {
  await untilAllAreHere(clients)
  for (let n = 0; n < events; n++) {
    yield form(dataOfSize(YIELDED_SIZE))
    await setImmediate()
  }
}

const SOURCES = { '/source': quick, '/turns': turns }

export const SOURCE_PATHS = Object.keys(SOURCES)

/**
 * The source that a request asks for.
 * @param form makes of an event's data what the server wants to be given
 */
export function sourceOf (url, form) {
  const { pathname, searchParams } = new URL(url, 'http://bench')
  const asked = { events: Number(searchParams.get('events')), clients: Number(searchParams.get('clients')) }
  return SOURCES[pathname](asked, form)
}
