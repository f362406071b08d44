/** docs/api is what `npm run docs` makes of the doc comments as they are now. */
import { execFile } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'

const root = dirname(dirname(fileURLToPath(import.meta.url)))

function read (folder: string): Record<string, string> {
  return Object.fromEntries(readdirSync(folder).sort().map((name) => [name, readFileSync(join(folder, name), 'utf8')]))
}

t.test('the API reference says what the doc comments say, and all that is public has one', async (t) => {
  const made = join(t.testdir(), 'api')
  const env = { ...process.env, _TAPJS_PROCESSINFO_COVERAGE_: '0' }
  const typedoc = join(root, 'node_modules/typedoc/bin/typedoc')
  try {
    await promisify(execFile)(process.execPath, [typedoc, '--out', made], { cwd: root, env })
  } catch (error) {
    // A warning is one, too: of something public that has no doc comment, say.
    return t.fail((error as { stdout: string }).stdout)
  }
  t.strictSame(read(join(root, 'docs/api')), read(made), '`npm run docs` makes it anew')
})
