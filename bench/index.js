/**
 * The benchmarks: `npm run bench`. What they compare, and how, stands in figures/.
 *
 *   npm run bench -- --short                        fewer clients and rounds, in less than two minutes
 *   npm run bench -- --only fan-out,own-source      some figures
 *   npm run bench -- --json a.json --svg a.svg      where the results go
 */
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { nodePeers, STARLETTE } from './contenders.js'
import { machine } from './machine.js'
import { haveStarlette } from './python.js'
import { chartOf } from './report/chart.js'
import { printFigure, printSummary } from './report/table.js'

/** In the order in which they run. */
const FIGURES = [
  'fan-out', 'own-source', 'growth', 'set-up', 'reconnect', 'latency', 'heap', 'idle', 'encoding'
]

const local = (name) => new URL(name, import.meta.url)

const { values: args } = parseArgs({
  options: {
    short: { type: 'boolean', default: false },
    only: { type: 'string', default: FIGURES.join() },
    json: { type: 'string', default: local('results.json').pathname },
    svg: { type: 'string', default: local('results.svg').pathname }
  }
})

function chosen () {
  const names = args.only.split(',')
  const unknown = names.filter((name) => !FIGURES.includes(name))
  if (unknown.length > 0) throw new Error(`there is no figure ${unknown.join()}; there are ${FIGURES.join()}`)
  return names
}

const secondsSince = (start) => Math.round((performance.now() - start) / 1_000)

/** A figure that cannot be had (a server has lost events, say) is no reason to have no others. */
async function measure (name, scale) {
  const start = performance.now()
  try {
    const { default: run } = await import(`./figures/${name}.js`)
    const figures = await run(scale)
    figures.forEach(printFigure)
    console.log(`\n(${name}: ${secondsSince(start)} s)`)
    return figures
  } catch (error) {
    console.error(`\n${name} has failed:`, error)
    process.exitCode = 1
    return []
  }
}

async function main () {
  const names = chosen()
  const peers = haveStarlette() ? [...nodePeers, STARLETTE] : nodePeers
  const scale = { short: args.short, rounds: args.short ? 3 : 5, peers, nodePeers }
  const start = performance.now()
  const figures = []
  for (const name of names) figures.push(...await measure(name, scale))
  const comparisons = figures.flatMap((figure) => figure.comparisons)
  printSummary(comparisons)
  const seconds = secondsSince(start)
  console.log(`\n${seconds} s. All values are in ${args.json}, a chart in ${args.svg}`)
  writeFileSync(args.json, `${JSON.stringify({ ...machine(), short: args.short, seconds, figures }, null, 2)}\n`)
  writeFileSync(args.svg, chartOf(comparisons))
}

await main()
