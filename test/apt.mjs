/** How a Debian machine gets what the tests need of it. */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'

/**
 * As root on Debian, Debian's own package; elsewhere nothing.
 * @param {string} name
 */
export function install (name) {
  if (!existsSync('/etc/debian_version') || process.getuid?.() !== 0) return
  console.log(`# installing ${name} for the tests`)
  const quiet = { stdio: ['ignore', 'ignore', 'inherit'], env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' } }
  spawnSync('apt-get', ['update', '-qq'], quiet)
  spawnSync('apt-get', ['install', '-y', '-qq', '--no-install-recommends', name], quiet)
}
