/**
 * What the tests need of a machine beside Node, in one place for `npm test`, for the tests and for the workflows.
 * `sudo node test/needs.mjs` installs it on Debian, and fails if something is still missing.
 */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { chromiumPath } from './chromium.mjs'

/** Debian's packages have the names of what they bring. */
export const NEEDS = ['chromium', 'redis-server', 'nginx', 'haproxy']

const isThere = (name) => name === 'chromium' ? chromiumPath() !== undefined : spawnSync(name, ['-v']).status === 0

/** What to do about something that is missing; false: it is not. */
export function missing (name) {
  if (isThere(name)) return false
  return `${name} is missing: apt-get install ${name}` + (name === 'chromium' ? ', or set CHROMIUM to the path of a Chrome or Chromium' : '')
}

/** A developer may lack something; where everything must be tested, nothing that is missing takes tests away. */
export const isDemanded = () => process.env.CI === 'true'

/** Why the tests that need something are left out; false: they are not. */
export function leftOut (name) {
  return !isDemanded() && missing(name)
}

/** Tests that are not left out fail by this, with what to do. */
export function demand (name) {
  const message = missing(name)
  if (message) throw new Error(message)
}

/** As root on Debian, Debian's own packages; elsewhere nothing. */
export function installMissing () {
  const names = NEEDS.filter((name) => missing(name))
  if (names.length === 0 || !existsSync('/etc/debian_version') || process.getuid?.() !== 0) return
  console.log(`# installing ${names.join(', ')} for the tests`)
  const quiet = { stdio: ['ignore', 'ignore', 'inherit'], env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' } }
  spawnSync('apt-get', ['update', '-qq'], quiet)
  spawnSync('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...names], quiet)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  installMissing()
  for (const name of NEEDS) demand(name)
}
