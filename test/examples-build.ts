/** The examples, built for one test. */
import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'

const root = fileURLToPath(new URL('..', import.meta.url))
const tsc = (...args: string[]) =>
  execFileSync(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), ...args], { cwd: root, stdio: 'inherit' })

/**
 * As `npm run demo` does, but into a folder of the test's own: other tests build at the same time.
 * @param page that goes with them
 */
export function buildExamples (t: Test, page: string): string {
  const built = t.testdir({})
  if (!isBuilt()) tsc()
  tsc('-p', 'examples', '--outDir', built)
  cpSync(join(root, 'examples', page), join(built, page))
  return built
}

/** Whether dist/ is there, and newer than all that it is made of: other tests use it at the same time. */
function isBuilt (): boolean {
  const main = join(root, 'dist/index.js')
  const sources = ['lib', 'types'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.ts')).map((name) => join(root, folder, name)))
  return existsSync(main) && [...sources, join(root, 'index.ts')].every((path) => statSync(path).mtimeMs <= statSync(main).mtimeMs)
}
