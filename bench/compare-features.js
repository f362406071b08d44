/**
 * Runs the checks of docs/comparison.md on the libraries for Node, and prints its table: `npm run build`,
 * `npm ci --prefix bench`, `node bench/compare-features.js`. It takes about two minutes. Each check has a process of its own, as
 * what a library makes of it may be the end of the process.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { CHECKS } from './comparison/checks.js'
import { LIBRARIES } from './comparison/libraries.js'

const TIME_LIMIT = 60_000
const WORDS = { true: 'yes', false: 'no', undefined: '' }

/** @returns yes or no; '' where it is no question for this library */
async function ask (question, library) {
  const child = fork(fileURLToPath(import.meta.url), [question, library], { stdio: ['ignore', 'ignore', 'ignore', 'ipc'] })
  const timer = setTimeout(() => child.kill(), TIME_LIMIT)
  let answer = false
  child.on('message', (message) => { ({ answer } = message) })
  await once(child, 'exit')
  clearTimeout(timer)
  return WORDS[answer]
}

async function printTable () {
  const libraries = Object.keys(LIBRARIES)
  console.log(`| | ${libraries.join(' | ')} |`)
  console.log(`|---|${'---|'.repeat(libraries.length)}`)
  for (const question of Object.keys(CHECKS)) {
    const answers = []
    for (const library of libraries) answers.push(await ask(question, library))
    console.log(`| ${question} | ${answers.join(' | ')} |`)
  }
}

const [question, library] = process.argv.slice(2)
if (question === undefined) {
  await printTable()
} else {
  const answer = await CHECKS[question](LIBRARIES[library])
  // Some keep timers, or streams that nobody can end.
  process.send({ answer }, () => process.exit())
}
