/**
 * `npm test`: lint, types, build, then the tests, with one line of counts at the end. `node test/run.mjs 22 24` runs the
 * tests of the library alone, on these versions of Node, which the npm package `node` brings.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { install } from './apt.mjs'
import { chromiumPath } from './chromium.mjs'

const nodes = process.argv.slice(2)
let passed = 0
let failed = 0

const hasRedis = () => spawnSync('redis-server', ['--version']).status === 0

if (chromiumPath() === undefined) install('chromium')
if (!hasRedis()) install('redis-server')
if (!hasRedis()) {
  console.log('redis-server is missing, so the tests that need one are left out. `apt-get install redis-server` brings it on Debian.')
}
if (chromiumPath() === undefined) {
  console.log('Chromium is missing, so the browser tests are left out. `apt-get install chromium` brings it on Debian;\n' +
    'elsewhere install Chrome or Chromium and set CHROMIUM to its path.')
}
if (nodes.length === 0) {
  step('lint', 'eslint', '.')
  step('types', 'tsc', '-p', 'test')
  step('type tests', 'tstyche')
}
step('build', 'npm', 'run', '--silent', 'build')
if (nodes.length === 0) tests('tap', '--reporter=terse', '--jobs=2')
else for (const node of nodes) tests('-y', '-p', `node@${node}`, 'tap', '--reporter=terse', '--disable-coverage', '--jobs=2', ...ofTheLibrary())
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1

/** All but those that would be no other on another Node, and take their time: of the package, of the docs, of many processes. */
function ofTheLibrary () {
  const others = ['package', 'readme', 'api', 'demo', 'demo-cluster', 'examples', 'examples-channels', 'examples-users', 'processes',
    'redis-cluster', 'redis-keys', 'drain', 'openapi', 'metrics', 'client-browser', 'browser', 'browser-network', 'browser-tabs',
    'delivery', 'payload', 'redis-faults', 'far-broker'].map((name) => `${name}.test.ts`)
  return readdirSync('test').filter((name) => name.endsWith('.test.ts') && !others.includes(name)).map((name) => `test/${name}`)
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
