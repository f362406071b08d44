/**
 * `npm test`: lint, types, build, then the tests, with one line of counts at the end. `node test/run.mjs 22 24` runs the
 * tests of what Node does alone, on these versions of it, which the npm package `node` brings.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, rmSync } from 'node:fs'
import { installMissing, isDemanded, missing, NEEDS } from './needs.mjs'

const nodes = process.argv.slice(2)
let passed = 0
let failed = 0

installMissing()
for (const message of NEEDS.map(missing)) {
  if (message) console.log(`${message}. The tests that need it ${isDemanded() ? 'fail' : 'are left out'}.`)
}
if (nodes.length === 0) {
  step('lint', 'eslint', '.')
  step('types', 'tsc', '-p', 'test')
  step('type tests', 'tstyche')
}
step('build', 'npm', 'run', '--silent', 'build')
if (nodes.length === 0) tests('tap', '--reporter=terse', '--jobs=2')
else for (const node of nodes) tests('-y', '-p', `node@${node}`, 'tap', '--reporter=terse', '--disable-coverage', '--jobs=2', ...ofNode())
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1

/** Those of what Node does, or how long it keeps what: HTTP, streams, codings, garbage. All else is the same on each Node. */
function ofNode () {
  return ['back-pressure', 'chunk', 'client', 'compression', 'endings', 'fastify', 'faults', 'faults-hooks', 'faults-machine',
    'hand-over', 'hostile', 'http', 'inject', 'leaks', 'round-trip', 'shutdown', 'source', 'start', 'timeouts']
    .map((name) => `test/${name}.test.ts`)
}

function step (name, ...command) {
  console.log(`\n# ${name}`)
  if (run(command) === 0) passed++
  else failed++
}

/** The tests' own counts; a run that fails without a failed assertion (coverage, a crash) counts as one failure. */
function tests (...command) {
  console.log(`\n# tests${command[0] === 'tap' ? '' : ` on ${command[2]}`}`)
  const report = '.tap/report.tap'
  rmSync(report, { force: true })
  const status = run([...command, `--output-file=${report}`])
  const results = existsSync(report) ? readFileSync(report, 'utf8') : ''
  const counts = results.match(/^# \{ total: .*\}$/gm)?.at(-1) ?? ''
  const count = (name) => Number(new RegExp(`${name}: (\\d+)`).exec(counts)?.[1] ?? 0)
  passed += count('pass')
  failed += count('fail') || (status === 0 ? 0 : 1)
  if (status !== 0) console.log(failures(results))
}

/** Each failed assertion, with what there is to know of it, within its test and file. */
function failures (results) {
  return results.match(/^ *not ok .*(\n +---\n[^]*?\n +\.\.\.$)?/gm)?.join('\n') ?? ''
}

function run (command) {
  return spawnSync('npx', command[0] === 'npm' ? ['-c', command.join(' ')] : command, { stdio: 'inherit' }).status
}
