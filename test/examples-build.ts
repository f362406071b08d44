/** The examples, built once for all tests. */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, existsSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const tsc = (...args: string[]) =>
  execFileSync(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), ...args], { cwd: root, stdio: 'inherit' })

/**
 * As `npm run demo` does, but into a folder that has its name from what is built: tests that run at the same time do not
 * overwrite what others run, and the next one finds it.
 * @returns the folder
 */
export function buildExamples (): string {
  if (!isBuilt()) tsc()
  const sources = filesOf('examples', /\.(ts|html|json)$/)
  const hash = createHash('sha256')
  for (const path of sources) hash.update(`${path}\0${readFileSync(join(root, path))}\0`)
  const folder = join(root, '.tap/examples', hash.digest('hex').slice(0, 16))
  if (existsSync(folder)) return folder
  const building = `${folder}-${process.pid}`
  tsc('-p', 'examples', '--outDir', building)
  for (const path of sources) if (path.endsWith('.html')) cpSync(join(root, path), join(building, path.slice('examples/'.length)))
  moveTo(building, folder)
  return folder
}

/** Another test may have been first. */
function moveTo (building: string, folder: string): void {
  try {
    renameSync(building, folder)
  } catch (error) {
    if (!existsSync(folder)) throw error
    rmSync(building, { recursive: true })
  }
}

/** Paths from the root. */
function filesOf (folder: string, name: RegExp): string[] {
  const paths = readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' }).map((path) => join(folder, path))
  return paths.filter((path) => name.test(path)).sort()
}

/** Whether dist/ is there, and newer than all that it is made of: other tests use it at the same time. */
function isBuilt (): boolean {
  const main = join(root, 'dist/index.js')
  const sources = ['index.ts', ...filesOf('lib', /\.ts$/), ...filesOf('types', /\.ts$/)].map((path) => join(root, path))
  return existsSync(main) && sources.every((path) => statSync(path).mtimeMs <= statSync(main).mtimeMs)
}
