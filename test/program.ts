/** Programs that use the plugin, in processes of their own, for what would end, hold up or starve that of a test. */
import { buildSync } from 'esbuild-wasm'
import { spawn, type ChildProcess } from 'node:child_process'
import { symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'

const local = (path: string) => fileURLToPath(new URL(path, import.meta.url))

/**
 * A folder with the plugin as `index.js`, compiled, as a loader in the process would take its time, and open files.
 * @param program what `program.js` is there
 */
export function compile (t: Test, program: string): string {
  const folder = t.testdir({ 'package.json': '{ "type": "module" }', 'program.js': program })
  const outfile = join(folder, 'index.js')
  buildSync({ entryPoints: [local('../index.ts')], bundle: true, packages: 'external', platform: 'node', format: 'esm', outfile })
  symlinkSync(local('../node_modules'), join(folder, 'node_modules'))
  return folder
}

/**
 * Runs it, and ends it after the test.
 * @param limits what the shell sets before, such as `ulimit -n 512`
 */
export function start (t: Test, program: string, limits = 'true'): { child: ChildProcess, output: () => string } {
  const child = spawn('/bin/sh', ['-c', `${limits} && exec "$0" program.js`, process.execPath], {
    cwd: compile(t, program), env: { PATH: process.env.PATH }, stdio: ['ignore', 'pipe', 'pipe']
  })
  t.after(() => { child.kill('SIGKILL') })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => { output += text })
  return { child, output: () => output }
}
