/** What becomes of tests that need what a machine does not have. */
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { demand, NEEDS, type Need } from './needs.mjs'

const url = (path: string) => new URL(path, import.meta.url)
/** Chromium is looked for where it is installed, whatever the PATH. */
const COMMANDS = NEEDS.filter((name) => name !== 'chromium')

/** Where there is no program at all but Node. */
function run (args: string[], env: Record<string, string> = {}) {
  return spawnSync(process.execPath, args, { env: { PATH: '/nonexistent', ...env }, encoding: 'utf8' })
}

t.test('tests that need what is missing are left out, but not where everything must be tested', (t) => {
  const script = `import { leftOut } from '${url('needs.mjs')}'
    console.log(JSON.stringify(${JSON.stringify(COMMANDS)}.map(leftOut)))`
  const reasons = (env = {}) => JSON.parse(run(['--input-type=module', '-e', script], env).stdout)
  t.same(reasons(), ['redis-server', 'nginx', 'haproxy'].map((name) => `${name} is missing: apt-get install ${name}`))
  t.same(reasons({ CI: 'true' }), [false, false, false])
  t.throws(() => demand('nothing' as Need), { message: 'nothing is missing: apt-get install nothing' }, 'they fail then, and say by what')
  t.end()
})

t.test('what is still missing after the installation fails it', (t) => {
  const { status, stderr } = run([fileURLToPath(url('needs.mjs'))])
  t.not(status, 0)
  t.match(stderr, / is missing: apt-get install /)
  t.end()
})

t.test('each workflow that runs the tests has installed before all that they need, from the one list', (t) => {
  const folder = url('../.github/workflows/')
  const workflows = readdirSync(folder).map((name) => ({ name, text: readFileSync(new URL(name, folder), 'utf8') }))
  const testing = workflows.filter(({ text }) => text.includes('run: npm test'))
  t.same(testing.map(({ name }) => name), ['ci.yml', 'release.yml'])
  for (const { name, text } of testing) {
    t.match(text, /- run: sudo "\$\(command -v node\)" test\/needs\.mjs\n[^]*- run: npm test\n/, name)
    t.notMatch(text, 'apt-get', `${name} has no list of its own`)
  }
  t.end()
})

t.end()
