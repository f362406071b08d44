/**
 * The results as a picture. Units and directions differ, so a bar shows how much of what is allowed is used up: it must end
 * before the line, and has reached its aim if it ends before the tick. The number beside it is the value itself.
 */
import { verdictOf } from '../comparisons.js'
import { digits } from './table.js'

const ROW = 26
const TOP = 44
const BARS = { left: 350, must: 590, end: 660 }
const WIDTH = 920

const STYLE = `
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .small { font-size: 11px; fill: #59636e }
  .aim { fill: #2da44e } .must, .short { fill: #bf8700 } .missed { fill: #cf222e }
  line { stroke: #59636e } line.tick { stroke: #1f2328; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9198a1 }
    line { stroke: #9198a1 } line.tick { stroke: #e6edf3 }
  }`

const escaped = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;')

/** Where a value is: at 1 all that is allowed is used up. Where nothing is, the aim is what one looks at. */
function place (value, { better, must, aim }) {
  const allowed = must ?? aim
  const share = better === 'lower' ? value / allowed : allowed / value
  return Math.min(BARS.end, BARS.left + Math.max(0, share) * (BARS.must - BARS.left))
}

function rowOf (comparison, index) {
  const { title, rival, value, unit, aim } = comparison
  const y = TOP + index * ROW
  const [end, tick] = [place(value, comparison), place(aim, comparison)]
  return `
  <text x="${BARS.left - 12}" y="${y + 15}" text-anchor="end">${escaped(title)}</text>
  <rect class="${verdictOf(comparison)}" x="${BARS.left}" y="${y + 4}" width="${(end - BARS.left).toFixed(1)}" height="14" rx="2"/>
  <line class="tick" x1="${tick.toFixed(1)}" x2="${tick.toFixed(1)}" y1="${y + 1}" y2="${y + 21}"/>
  <text x="${BARS.end + 10}" y="${y + 15}">${escaped(`${digits(value)} ${unit}`)} <tspan class="small">${escaped(rival)}</tspan></text>`
}

export function chartOf (comparisons) {
  const height = TOP + comparisons.length * ROW + 16
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" role="img">
  <title>fastify-typed-sse beside others: each bar must end before the line, and is meant to end before its tick</title>
  <style>${STYLE}
  </style>
  <text class="small" x="${BARS.left}" y="18">better: shorter. Line: must. Tick: aim.</text>
  <line x1="${BARS.must}" x2="${BARS.must}" y1="${TOP - 16}" y2="${height - 12}" stroke-dasharray="4 3"/>${comparisons.map(rowOf).join('')}
</svg>
`
}
