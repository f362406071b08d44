/** A real browser for the tests: where it is, and how a Debian machine gets it. */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'

/** Where Chromium or Chrome is; undefined where there is none. `CHROMIUM` names another. */
export function chromiumPath () {
  return [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/google-chrome', '/usr/bin/chromium-browser']
    .find((path) => path !== undefined && existsSync(path))
}

/** On Debian, as root, Debian's own package; elsewhere nothing. */
export function installChromium () {
  if (chromiumPath() !== undefined || !existsSync('/etc/debian_version') || process.getuid?.() !== 0) return
  console.log('# installing Chromium for the browser tests')
  const quiet = { stdio: ['ignore', 'ignore', 'inherit'], env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' } }
  spawnSync('apt-get', ['update', '-qq'], quiet)
  spawnSync('apt-get', ['install', '-y', '-qq', '--no-install-recommends', 'chromium'], quiet)
}
