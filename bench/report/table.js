/** Results on the terminal. */
import { verdictOf } from '../comparisons.js'

const VERDICTS = { aim: 'aim reached', must: 'must reached', short: 'aim not reached', missed: 'MISSED' }

/** Three digits, or all that a large number has. */
export function digits (value) {
  if (Math.abs(value) >= 1_000) return Math.round(value).toLocaleString('en')
  return String(Number(value.toPrecision(3)))
}

function print (rows, rightFrom) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)))
  for (const row of rows) {
    const cells = row.map((cell, column) => column < rightFrom ? cell.padEnd(widths[column]) : cell.padStart(widths[column]))
    console.log(`  ${cells.join('  ')}`.trimEnd())
  }
}

export function printFigure ({ title, unit, values, notes = [] }) {
  console.log(`\n${title} (${unit})`)
  print(Object.entries(values).map(([name, { median, min, max }]) =>
    [name, digits(median), min === max ? '' : `${digits(min)} .. ${digits(max)}`]), 1)
  for (const note of notes) console.log(`  ${note}`)
}

export function printSummary (comparisons) {
  const sign = { lower: '<=', higher: '>=' }
  const goal = (value, better) => value === undefined ? '' : `${sign[better]} ${digits(value)}`
  if (comparisons.length === 0) return
  const rows = comparisons.map((comparison) => {
    const { title, rival, value, unit, better, must, aim, limit } = comparison
    const bounds = [goal(must, better), goal(aim, better), limit === undefined ? '' : digits(limit)]
    return [title, rival, VERDICTS[verdictOf(comparison)], `${digits(value)} ${unit}`, ...bounds]
  })
  console.log('\nOurs, beside others')
  print([['', 'beside', '', 'value', 'must', 'aim', 'limit'], ...rows], 3)
}
